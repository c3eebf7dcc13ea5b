"""Rows as a model sees them: chat template, tokens, loss mask."""
