"""Stages one after another, each in a process of its own."""
