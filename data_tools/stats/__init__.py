"""What a data set holds, as numbers, charts and single rows."""
