"""Works on whole data sets: duplicates, leaks, contamination, splits."""
