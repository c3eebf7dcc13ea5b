"""`python -m alignment` is `align`."""

from alignment.cli import entry_point

if __name__ == "__main__":
    entry_point()
