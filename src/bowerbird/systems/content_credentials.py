"""Content Credentials (C2PA): a signed manifest in the PNG that says how it was made, with the neighbors as
ingredients.

The neighbors are `inputTo` the picture, as C2PA calls the inputs of a model; what was edited is its `parentOf`. Needs
the extra `c2pa`; nothing is fetched, neither to sign nor to verify.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import xmp
from bowerbird.core.credit import credit_line
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import shorten
from bowerbird.core.version import __version__

if TYPE_CHECKING:
    from PIL import Image

CHUNK = b"caBX"
"""The PNG chunk that holds a manifest store."""
THUMBNAIL = 256
"""Longest edge of an ingredient's picture, in pixels."""
MISSING = "Content Credentials need c2pa-python: pip install 'bowerbird[c2pa]'"
OFFLINE: dict[str, dict[str, Any]] = {
    "builder": {"thumbnail": {"enabled": False}},  # of the picture itself: it is there
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
MOST_BYTES = 2**20
"""Of a file with a certificate or key."""


@dataclass(frozen=True)
class Signer:
    """A certificate chain and its key, both PEM, and the C2PA name of the key's algorithm."""

    certificate: bytes
    key: bytes = field(repr=False)
    algorithm: str

    @property
    def fingerprint(self) -> str:
        """A short hash of the certificates."""
        return hashlib.sha256(self.certificate).hexdigest()[:16]

    def sign(
        self,
        png: bytes,
        record: Mapping[str, Any],
        *,
        title: str,
        pictures: Sequence[Image.Image | None] = (),
        source: Image.Image | None = None,
    ) -> bytes:
        """The PNG with a manifest for its `record`; `pictures`: of the record's neighbors, None where one has none,
        `source`: what was edited. Raises: BowerbirdError when it cannot be signed."""
        c2pa = _library()
        definition, thumbnails = _manifest(record, title, pictures, source)
        made = io.BytesIO()
        try:
            with c2pa.Context.from_dict(OFFLINE) as context, c2pa.Builder(definition, context) as builder:
                for name, picture in thumbnails.items():
                    builder.add_resource(name, io.BytesIO(_jpeg(picture)))
                facts = c2pa.C2paSignerInfo(self.algorithm, self.certificate, self.key, None)
                with c2pa.Signer.from_info(facts) as signer:
                    builder.sign(signer, "image/png", io.BytesIO(png), made)
        except c2pa.C2paError as error:
            raise BowerbirdError(f"{title}: cannot be signed ({_line(error)})") from error
        return made.getvalue()


def load_signer(certificate: Path, key: Path) -> Signer:
    """The signer of a certificate chain, the signer's own first, and its private key without a passphrase, both PEM
    files; it has signed once, so that what C2PA does not accept is said before anything is generated.

    Raises: BowerbirdError when the extra is missing, a file cannot be read, or they do not fit.
    """
    _library()
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    chain, secret = _read(certificate, "certificate"), _read(key, "private key")
    try:
        first = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise BowerbirdError(f"{certificate}: holds no certificate; give a PEM file, the signer's own first") from error
    try:
        private = serialization.load_pem_private_key(secret, None)
    except (ValueError, TypeError) as error:
        raise BowerbirdError(f"{key}: holds no private key without a passphrase; give a PEM file") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    both = [one.public_key().public_bytes(serialization.Encoding.DER, form) for one in (private, first)]
    if both[0] != both[1]:
        raise BowerbirdError(f"{key}: is not the key of the first certificate in {certificate}; give the two of a pair")
    plain = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signer = Signer(chain, plain, _algorithm(private, key))
    try:
        state = read_credentials(signer.sign(_white(), {}, title=str(certificate)))
    except BowerbirdError as error:
        raise BowerbirdError(f"{error}; C2PA asks for a chain whose first certificate is for signing") from error
    if state is None or state.broken:
        raise BowerbirdError(f"{certificate}: what it signs does not verify ({state.problem if state else 'nothing'})")
    return signer


@dataclass(frozen=True)
class Credentials:
    """What C2PA's reader says of a file. `state`: `Invalid`, `Valid` (as it was signed, by somebody who is in no trust
    list that was given) or `Trusted`; `problem`: the first thing that does not hold."""

    state: str
    problem: str
    signed_by: str
    generator: str
    actions: tuple[str, ...]
    ingredients: tuple[tuple[str, str], ...]
    """Titles with their relationships."""

    @property
    def broken(self) -> bool:
        """Whether the file is not as it was signed."""
        return self.state not in ("Valid", "Trusted")

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        ingredients = [{"title": title, "relationship": relation} for title, relation in self.ingredients]
        rest = {"signed_by": self.signed_by, "generator": self.generator, "actions": list(self.actions)}
        return {"state": self.state, "problem": self.problem or None, **rest, "ingredients": ingredients}


def read_credentials(png: bytes, *, trust: bytes = b"") -> Credentials | None:
    """The Content Credentials of a PNG, compared with it; None where it has none. `trust`: certificates (PEM) whose
    signers are trusted. Raises: BowerbirdError when the extra is missing."""
    if not has_credentials(png):
        return None
    c2pa = _library()
    settings: dict[str, Any] = dict(OFFLINE)
    if trust:
        settings["trust"] = {"trust_anchors": trust.decode("utf-8", "replace")}
        settings["verify"] = {**OFFLINE["verify"], "verify_trust": True}
    try:
        context = c2pa.Context.from_dict(settings)
    except c2pa.C2paError as error:
        raise BowerbirdError(f"the certificates to trust cannot be read ({_line(error)}); give a PEM file") from error
    try:
        with c2pa.Reader("image/png", io.BytesIO(png), None, context) as reader:
            state, results = reader.get_validation_state(), reader.get_validation_results()
            manifest = reader.get_active_manifest() or {}
    except c2pa.C2paError as error:  # of a stranger's bytes
        return Credentials("Invalid", _line(error), "", "", (), ())
    failures = ((results or {}).get("activeManifest") or {}).get("failure") or []
    untrusted = "signingCredential.untrusted"
    reasons = [str(each.get("code")) for each in failures if state == "Invalid" or each.get("code") != untrusted]
    reasons.sort(key=lambda code: code == untrusted)
    signature = manifest.get("signature_info") or {}
    generators = manifest.get("claim_generator_info") or [{}]
    return Credentials(
        state=str(state),
        problem=shorten(reasons[0]) if reasons else "",
        signed_by=_joined(signature.get("common_name"), signature.get("issuer")),
        generator=_joined(generators[0].get("name"), generators[0].get("version"), " "),
        actions=tuple(_actions(manifest)),
        ingredients=tuple(
            (shorten(str(each.get("title", ""))), shorten(str(each.get("relationship", ""))))
            for each in manifest.get("ingredients") or []
        ),
    )


def is_installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("c2pa") is not None


def has_credentials(png: bytes) -> bool:
    """Whether a PNG has a chunk with a manifest store; what it says is not looked at."""
    at = 8
    while at + 8 <= len(png):
        if png[at + 4 : at + 8] == CHUNK:
            return True
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return False


def _manifest(
    record: Mapping[str, Any], title: str, pictures: Sequence[Image.Image | None], source: Image.Image | None
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """The manifest's definition, and the pictures of its ingredients by the names it calls them."""
    ingredients: list[dict[str, Any]] = []
    thumbnails: dict[str, Image.Image] = {}

    def add(named: str, relation: str, picture: Image.Image | None, **more: Any) -> None:
        number = f"ingredient-{len(ingredients)}"
        shown = {}
        if picture is not None:
            thumbnails[f"{number}.jpg"] = picture
            shown = {"thumbnail": {"format": "image/jpeg", "identifier": f"{number}.jpg"}}
        facts = {"title": named, "relationship": relation, "instance_id": number, "label": number}
        ingredients.append({**facts, **shown, **more})

    kind = xmp.SOURCE_TYPES + xmp.source_type(record)
    agent = {"name": "bowerbird", "version": __version__}
    made: dict[str, Any] = {"digitalSourceType": kind, "softwareAgent": agent}
    edited = record.get("edit")
    actions: list[dict[str, Any]] = []
    if isinstance(edited, dict):
        add(shorten(str(edited.get("name") or "the picture that was edited")), "parentOf", source)
        actions.append({"action": "c2pa.opened", "parameters": {"ingredientIds": [ingredients[0]["instance_id"]]}})
    rows = list(record.get("neighbors") or [])
    used = xmp.used_neighbors(record)
    for neighbor, picture in zip(rows, [*pictures, *[None] * len(rows)], strict=False):
        name = neighbor.get("name")
        if not isinstance(name, str) or not name or not any(neighbor is one for one in used):
            continue  # a text that was looked for with, or left out
        address = xmp.source_of(neighbor)
        more = {"informational_URI": address} if address != shorten(name) else {}
        if (credit := credit_line(neighbor)) != shorten(name):
            more["description"] = credit
        add(shorten(name), "inputTo", picture, **more)
    inputs = [each["instance_id"] for each in ingredients if each["relationship"] == "inputTo"]
    more_parameters = {"parameters": {"ingredientIds": inputs}} if inputs else {}
    actions.append({"action": "c2pa.edited" if actions else "c2pa.created", **made, **more_parameters})
    definition = {
        "claim_generator_info": [agent],
        "title": title,
        "format": "image/png",
        "ingredients": ingredients,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
    return definition, thumbnails


def _actions(manifest: Mapping[str, Any]) -> list[str]:
    """What a manifest says was done, each with the kind of source where it says one."""
    found = []
    for assertion in manifest.get("assertions") or []:
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in (assertion.get("data") or {}).get("actions") or []:
                kind = str(action.get("digitalSourceType") or "").rpartition("/")[2]
                found.append(shorten(f"{action.get('action')} ({kind})" if kind else str(action.get("action"))))
    return found


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise BowerbirdError(MISSING) from error
    return c2pa


def _algorithm(private: Any, key: Path) -> str:
    """C2PA's name of what a key signs with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return curves[private.curve.name]
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise BowerbirdError(f"{key}: C2PA signs with keys on P-256, P-384, P-521, Ed25519 or RSA; give one of these")


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise BowerbirdError(f"{path}: this {what} cannot be read ({error.strerror}); give a PEM file") from error


def _jpeg(picture: Image.Image) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _white() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(buffer, "PNG")
    return buffer.getvalue()


def _joined(first: Any, second: Any, between: str = ", ") -> str:
    return shorten(between.join(str(part) for part in (first, second) if part))


def _line(error: Exception) -> str:
    return shorten(str(error).strip() or type(error).__name__)
