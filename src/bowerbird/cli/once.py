"""What is asked for is said once where one answer comes of it: the parser would keep the last, and pass over the others
silently. Settings (steps, seed, folder) may be said again, as an alias or a script is used with another value."""

from __future__ import annotations

import typer
from typer.core import TyperCommand

from bowerbird.core.errors import BowerbirdError

ASKED = frozenset(
    {"--class", "--image", "--instruction", "--kb", "--negative-prompt", "--prompt", "--prompts", "--where"}
)
"""Options of which nobody expects the last to replace the others."""


class OnceCommand(TyperCommand):
    """A command that refuses one of `ASKED` where it is given again and takes one value."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        for parameter in order:
            flag = max(parameter.opts, key=len)
            if flag in ASKED and not getattr(parameter, "multiple", False) and order.count(parameter) > 1:
                raise BowerbirdError(f"{ctx.info_name}: {flag} is given {order.count(parameter)} times; give it once")
        return super().parse_args(ctx, args)


def refuse_repeated(app: typer.Typer) -> None:
    """Let every command of `app`, and of its groups, be an `OnceCommand`."""
    for command in app.registered_commands:
        if not issubclass(command.cls or TyperCommand, OnceCommand):
            command.cls = OnceCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            refuse_repeated(group.typer_instance)
