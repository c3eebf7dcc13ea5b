"""Read recipes and flags into one checked set of values."""
