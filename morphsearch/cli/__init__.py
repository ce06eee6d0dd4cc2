"""The command line. ``main`` is both the entry point and the click group; importing it imports no torch."""

from morphsearch.cli.group import main

__all__ = ["main"]
