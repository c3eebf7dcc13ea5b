"""Whole data sets: duplicates, leaks, contamination, splits, licences."""
