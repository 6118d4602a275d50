"""`bowerbird inspect`: what PNGs say of themselves, and whether their Content Credentials hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import JsonOption, print_json, print_line
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.systems.content_credentials import Credentials
    from bowerbird.systems.record_schema import Record

SHOWN = 50
"""So many neighbors or ingredients of a picture are printed as text."""


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="F.png…", help="Pictures that bowerbird generated.")],
    trust: Annotated[
        Path | None,
        typer.Option("--trust", metavar="CERTS.pem", help="Trusted certificates for C2PA."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a picture's record and its Content Credentials (C2PA).

    The record has the request, the model, and the neighbors with their credit. Exits with code 2 if a file was changed
    after it was signed.

    Example: bowerbird inspect apples/000.png
    """
    anchors = b"" if trust is None else _bytes(trust)
    found, broken = [], []
    for path in files:
        facts, record, credentials = _look(path, anchors)
        found.append(facts)
        if not as_json:
            _print(path, facts, record, credentials)
        if credentials is not None and credentials.broken:
            broken.append(f"{path}: is not as it was signed ({credentials.problem})")
    if as_json:
        print_json({"files": found})
    if broken:
        raise BowerbirdError("; ".join(broken))


def _look(path: Path, trust: bytes) -> tuple[dict[str, Any], Record | None, Credentials | None]:
    """All that is known of a file. Raises: BowerbirdError when it says nothing of itself, or its record is damaged."""
    from bowerbird.core import provenance
    from bowerbird.systems import content_credentials, output, regeneration

    data = _bytes(path)
    signed = content_credentials.has_credentials(data)
    try:
        whole: dict[str, Any] | None = provenance.read_png(path)
    except BowerbirdError:
        if not signed:
            raise
        whole = None
    record = None if whole is None else regeneration.parse_record(whole)
    facts: dict[str, Any] = {"file": str(path), "record": None if whole is None else output.without_bytes(whole)}
    if signed and not content_credentials.is_installed():
        return {**facts, "c2pa": {"state": None, "problem": content_credentials.MISSING}}, record, None
    credentials = content_credentials.read_credentials(data, trust=trust)
    return {**facts, "c2pa": None if credentials is None else credentials.facts()}, record, credentials


def _print(path: Path, facts: dict[str, Any], record: Record | None, credentials: Credentials | None) -> None:
    from bowerbird.core.credit import credit_line
    from bowerbird.core.provenance import parameters

    print_line(str(path))
    if record is not None:
        whole = facts["record"]
        request, _, settings = parameters(whole).partition("\n")
        base = whole.get("kb")
        print_line(f"  request     {request}")
        print_line(f"  settings    {settings}")
        if isinstance(base, dict):
            print_line(f"  kb          {base.get('path')}, version {base.get('version')}")
        if record.references is not None and record.references.adapter is not None:
            said = record.references
            adapter = record.references.adapter
            print_line(f"  adapter     {adapter.name} ({adapter.hash}), scale {said.scale:g}, layers {said.layers}")
        if record.edit is not None:
            print_line(f"  edited      {record.edit.name or 'a picture without a name'}")
        for number, near in enumerate(record.neighbors[:SHOWN]):
            credit = credit_line(near.model_dump()) if near.credit else ""
            says = ": ".join(part for part in (near.name, near.caption) if part) or str(near.id)
            left = "" if near.weight else "  left out"
            first = "neighbors" if not number else ""
            print_line(f"  {first:<10}  {says}{f'  ({credit})' if credit else ''}{left}")
    if credentials is None:
        print_line(f"  c2pa        {'none' if facts['c2pa'] is None else facts['c2pa']['problem']}")
        return
    holds = {
        "Valid": "valid: as it was signed; whether to trust the signer says --trust",
        "Trusted": "trusted: as it was signed, by a signer of --trust",
    }
    print_line(f"  c2pa        {holds.get(credentials.state, f'INVALID: not as it was signed, {credentials.problem}')}")
    print_line(f"  signed by   {credentials.signed_by}, with {credentials.generator}: {', '.join(credentials.actions)}")
    for number, (title, relation) in enumerate(credentials.ingredients[:SHOWN]):
        print_line(f"  {'ingredients' if not number else '':<11} {relation} {title}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BowerbirdError(f"{path}: cannot be read ({error.strerror}); give a file") from error
