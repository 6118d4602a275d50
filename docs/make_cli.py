"""Write docs/cli.md from the commands' own help, or check that it is up to date (`--check`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["COLUMNS"] = "100"
os.environ["TERM"] = "dumb"

PAGE = Path(__file__).parent / "cli.md"


def pages() -> str:
    """The help of every command, as Markdown."""
    import typer
    from typer.testing import CliRunner

    from bowerbird.cli.main import app

    def names(group: typer.Typer, prefix: tuple[str, ...]) -> list[tuple[str, ...]]:
        own = [
            (*prefix, str(c.name or c.callback.__name__)) for c in group.registered_commands if c.callback is not None
        ]
        return own + [
            n
            for g in group.registered_groups
            if g.typer_instance
            for n in names(g.typer_instance, (*prefix, str(g.name)))
        ]

    parts = [
        "# The command line",
        "",
        "Made from `--help` by `docs/make_cli.py`; `make check` fails when it is out of date.",
        "",
    ]
    for command in [(), *names(app, ())]:
        result = CliRunner().invoke(app, [*command, "--help"], prog_name="bowerbird")
        text = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        parts += [f"## {' '.join(('bowerbird', *command))}", "", "```text", text, "```", ""]
    return "\n".join(parts)


def main() -> None:
    """Write the page, or leave with 1 when it differs."""
    text = pages()
    if "--check" not in sys.argv:
        PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        sys.exit("docs/cli.md is out of date: make docs")


if __name__ == "__main__":
    main()
