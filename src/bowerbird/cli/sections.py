"""Help of a command with many options under headings, in place of one long list."""

from __future__ import annotations

from typing import Any

from bowerbird.cli.once import OnceCommand


class SectionedCommand(OnceCommand):
    """A command whose help shows each option under its `rich_help_panel`, in the order these come; the rest last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        rest = []
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is None:
                continue
            panel = getattr(parameter, "rich_help_panel", None)
            if parameter.param_type_name == "argument":
                sections["Arguments"].append(row)
            elif panel is None:
                rest.append(row)
            else:
                sections.setdefault(panel, []).append(row)
        for heading, rows in (sections | {"Other options": rest}).items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
