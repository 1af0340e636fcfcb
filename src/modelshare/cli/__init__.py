"""The command line. `main` is the program `modelshare`."""

from modelshare.cli.app import main

__all__ = ["main"]
