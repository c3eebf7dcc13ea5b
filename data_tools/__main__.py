"""`python -m data_tools` runs the data commands alone."""

from data_tools.cli import data

data(prog_name="python -m data_tools")
