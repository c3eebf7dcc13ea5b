"""Run stages one after another, each in its own process."""
