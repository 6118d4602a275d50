"""`bowerbird serve`: a page, an API and the OpenAI images API at one address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import say
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import shorten

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    kb: Annotated[list[str] | None, typer.Option("--kb", help="Knowledge base to serve; repeatable.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model to serve: bundled name, directory or hub id; repeatable, the first is the "
            "default. All bundled models if not given.",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="[MODEL=]FILE",
            help="IP-Adapter or FLUX Redux for a diffusers base model: MODEL, or the first.",
        ),
    ] = None,
    image_encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--image-encoder",
            metavar="[MODEL=]DIR",
            help="The adapter's image encoder; default: the one beside its file.",
        ),
    ] = None,
    fit: Annotated[
        list[str] | None,
        typer.Option(
            "--fit", metavar="[MODEL=]HOW", help="How references that are not square are fitted: pad, squash or crop."
        ),
    ] = None,
    offload: Annotated[
        list[str] | None,
        typer.Option(
            "--offload",
            metavar="[MODEL=]HOW",
            help="Offload a base model's weights to main memory: model or sequential.",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="[MODEL=]FILE",
            help="LoRA for a base model, as FILE or FILE:0.8; repeatable, several are summed.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but this machine's own requires a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 7860,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path", metavar="PATH", help="Path of a site that a reverse proxy serves this below, as /bowerbird."
        ),
    ] = "",
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="BOWERBIRD_TOKEN",
            help="Access token that clients must send; generated when --host is not this machine.",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option("--queue", min=1, max=10_000, help="Most jobs that may wait; further ones get HTTP 429.")
    ] = 32,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Directory for jobs, pictures and uploads.")
    ] = Path("bowerbird-data"),
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps; repeatable, one worker for each."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Generate on a Ray cluster: its address, auto, or local to start one here."
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, help="With --ray: number of replicas that generate at once.")
    ] = 1,
    dtype: Annotated[str, typer.Option("--dtype", help="Compute in float32, bfloat16 or float16.")] = "float32",
    memory: Annotated[
        int | None,
        typer.Option("--memory", min=1, help="Memory for models in megabytes; default half of what the machine has."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Host name of a reverse proxy in front; repeatable.")
    ] = None,
    keep_free: Annotated[
        int, typer.Option("--keep-free", min=0, help="Megabytes of disk space that uploads and additions leave free.")
    ] = 1000,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    drain: Annotated[
        float, typer.Option("--drain", min=0, max=3600, help="Seconds that accepted jobs have to finish after SIGTERM.")
    ] = 30.0,
) -> None:
    """Start the server: a web page and an HTTP API.

    Example: bowerbird serve --kb my-kb --model reimagen-drawings
    """
    try:
        from bowerbird.serve import build
    except ImportError as error:
        raise BowerbirdError(f"serve: {error.name} is not installed: pip install 'bowerbird[serve]'") from error
    import secrets

    from bowerbird.serve.context import Settings, read_root_path
    from bowerbird.serve.models import read_adapters

    if token is not None and len(token) < 8:
        raise BowerbirdError("--token is shorter than 8 characters, which can be guessed; give a longer one")
    if token is None and host not in LOOPBACK:
        token = secrets.token_urlsafe(24)
        say(f"the token, shown once: {token}")
        say(f"sign in at http://{host}:{port}/?token={token}")
    if token is None and allow_host:
        say(f"without --token whoever reaches {shorten(allow_host[0], 80)} may generate, add and remove")
    build.run(
        Settings(
            root_path=read_root_path(root_path),
            kbs=tuple(kb or ()),
            data=data,
            models=tuple(model or ()),
            adapters=read_adapters(
                model or (),
                adapter=adapter or (),
                image_encoder=image_encoder or (),
                fit=fit or (),
                offload=offload or (),
                lora=lora or (),
            ),
            host=host,
            port=port,
            token=token,
            queue=queue,
            devices=tuple(device or ("auto",)),
            ray=ray,
            replicas=replicas,
            dtype=dtype,
            memory=None if memory is None else memory * 2**20,
            allowed_hosts=tuple(name.lower() for name in allow_host or ()),
            drain_seconds=drain,
            keep_free=keep_free * 10**6,
            open_page=open_page,
        ),
        say,
    )
