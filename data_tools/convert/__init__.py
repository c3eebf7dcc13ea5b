"""Converts source files to prompt/chosen/rejected JSONL and other shapes."""
