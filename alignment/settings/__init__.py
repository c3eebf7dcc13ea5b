"""What was asked for: recipes and flags to one checked set of values."""
