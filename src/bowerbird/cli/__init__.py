"""The command line: verbs only. Each command reads its arguments, calls the library, prints; all logic is below."""

from bowerbird.cli.main import main

__all__ = ["main"]
