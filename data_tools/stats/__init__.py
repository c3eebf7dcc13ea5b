"""Shows a data set as numbers, charts and single rows."""
