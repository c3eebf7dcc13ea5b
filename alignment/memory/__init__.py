"""Detect lack of memory early: try the longest batch before the first step."""
