"""An option that takes one value is given once: the parser would keep the last and pass over the others silently."""

from __future__ import annotations

import typer
from typer.core import TyperCommand

from bowerbird.core.errors import BowerbirdError


class OnceCommand(TyperCommand):
    """A command that refuses an option of one value where it is given again."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        for parameter in order:
            takes_one = parameter.param_type_name == "option" and not getattr(parameter, "multiple", False)
            if takes_one and not getattr(parameter, "is_flag", False) and order.count(parameter) > 1:
                flag = max(parameter.opts, key=len)
                raise BowerbirdError(f"{ctx.info_name}: {flag} is given {order.count(parameter)} times; give it once")
        return super().parse_args(ctx, args)


def refuse_repeated(app: typer.Typer) -> None:
    """Let every command of `app`, and of its groups, be an `OnceCommand`."""
    for command in app.registered_commands:
        command.cls = OnceCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            refuse_repeated(group.typer_instance)
