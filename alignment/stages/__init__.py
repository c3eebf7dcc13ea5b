"""One module for each stage."""
