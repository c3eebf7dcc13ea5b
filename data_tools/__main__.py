"""`python -m data_tools`: the data commands without the rest."""

from data_tools.cli import data

data(prog_name="python -m data_tools")
