"""Content Credentials: signed pictures name their neighbors as ingredients, by C2PA's own reader; what was changed
since is noticed."""

from __future__ import annotations

import datetime
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import content_credentials
from tests.conftest import AUTHOR
from tests.test_cli import bowerbird, refused

c2pa = pytest.importorskip("c2pa")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cert.pem` (a chain of two), its `key.pem`, and the authority's `ca.pem`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("Authority", "Signer")}

    def certificate(name: str, authority: bool) -> x509.Certificate:
        usage = {"key_cert_sign": authority, "crl_sign": authority, "digital_signature": not authority}
        rest = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        own = keys[name].public_key()
        subject, issuer = (x509.Name.from_rfc4514_string(f"CN={each},O=Test") for each in (name, "Authority"))
        made = x509.CertificateBuilder(issuer, subject, own, x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(9))
        made = made.add_extension(x509.BasicConstraints(authority, None), critical=True)
        off = dict.fromkeys((*rest, "encipher_only", "decipher_only"), False)
        made = made.add_extension(x509.KeyUsage(**usage, **off), critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
        if not authority:
            above = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["Authority"].public_key())
            mail = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(above, critical=False).add_extension(mail, critical=False)
        return made.sign(keys["Authority"], hashes.SHA256())

    folder, pem = tmp_path_factory.mktemp("pair"), serialization.Encoding.PEM
    signer, authority = (certificate(name, name == "Authority").public_bytes(pem) for name in ("Signer", "Authority"))
    form = serialization.PrivateFormat.TraditionalOpenSSL  # as openssl ecparam -genkey writes it
    for name, key in keys.items():
        (folder / f"{name}.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    (folder / "Signer.key").rename(folder / "key.pem")
    (folder / "cert.pem").write_bytes(signer + authority)
    (folder / "ca.pem").write_bytes(authority)
    return folder


def flags(pair: Path) -> tuple[Any, ...]:
    return ("--sign-cert", pair / "cert.pem", "--sign-key", pair / "key.pem")


def manifest(path: Path) -> tuple[dict[str, Any], str, c2pa.Reader]:
    """By C2PA's own reader: the manifest and whether it holds."""
    reader = c2pa.Reader("image/png", io.BytesIO(path.read_bytes()))
    return reader.get_active_manifest(), reader.get_validation_state(), reader


def test_a_signed_picture_names_its_neighbors(
    tmp_path: Path,
    pair: Path,
    catalog_kb: Path,
    random_rdm: Path,
) -> None:
    base = ("generate", random_rdm, "--kb", catalog_kb, "--prompt", "red apple", "-k", "2", "-n", "1", "--steps", "1")
    bowerbird(*base, "--out", "plain", cwd=tmp_path)
    bowerbird(*base, "--out", "o", *flags(pair), cwd=tmp_path)
    picture = tmp_path / "o" / "000.png"
    record = provenance.read_png(picture)
    assert record == provenance.read_png(tmp_path / "plain" / "000.png")
    pixels = [np.asarray(Image.open(path)) for path in (picture, tmp_path / "plain" / "000.png")]
    assert np.array_equal(*pixels)
    found, state, reader = manifest(picture)
    assert state == "Valid"
    assert found["claim_generator_info"][0]["name"] == "bowerbird"
    names = [near["name"] for near in record["neighbors"]]
    assert [(each["title"], each["relationship"]) for each in found["ingredients"]] == [(n, "inputTo") for n in names]
    assert found["ingredients"][0]["description"] == f"B-{names[0][:3]}, CC-BY-4.0, {AUTHOR}"
    action = found["assertions"][0]["data"]["actions"][0]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert len(action["parameters"]["ingredients"]) == 2
    thumbnail = io.BytesIO()
    reader.resource_to_stream(found["ingredients"][0]["thumbnail"]["identifier"], thumbnail)
    with Image.open(thumbnail) as small:
        assert small.format == "JPEG"
    said = bowerbird("inspect", picture, cwd=tmp_path).stdout
    assert "c2pa        valid" in said
    assert AUTHOR in said
    document = json.loads(bowerbird("inspect", picture, "--trust", pair / "ca.pem", "--json", cwd=tmp_path).stdout)
    assert document["files"][0]["c2pa"]["state"] == "Trusted"
    assert document["files"][0]["record"]["neighbors"] == record["neighbors"]
    bowerbird("generate", random_rdm, "--from", picture, "--out", "again", *flags(pair), cwd=tmp_path)
    assert manifest(tmp_path / "again" / "000.png")[1] == "Valid"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again" / "000.png")), pixels[0])


def test_what_was_changed_since_is_noticed(tmp_path: Path, pair: Path) -> None:
    signer = content_credentials.load_signer(pair / "cert.pem", pair / "key.pem")
    record = provenance.read_png(Path(__file__).parent / "golden" / "record-rdm.png")  # it names no files
    signed = signer.sign(provenance.encode_png(Image.new("RGB", (64, 64), "red"), record), record, title="a.png")
    good = content_credentials.read_credentials(signed)
    assert good is not None
    assert (good.state, good.ingredients, good.signed_by) == ("Valid", (), "Signer, Test")
    changed = signed.replace(b'"seed": ', b'"seed":1', 1)
    assert changed != signed
    pixels = bytearray(signed)
    pixels[signed.index(b"IDAT") + 9] ^= 1
    for name, data in (("text", changed), ("pixels", bytes(pixels)), ("manifest", signed.replace(b"a.png", b"b.png"))):
        found = content_credentials.read_credentials(data)
        assert found is not None, name
        assert found.broken, name
        assert found.problem, name
    (tmp_path / "bad.png").write_bytes(changed)
    done = bowerbird("inspect", "bad.png", expect=2, cwd=tmp_path)
    assert "INVALID" in done.stdout
    assert "bad.png: is not as it was signed" in done.stderr
    with pytest.raises(BowerbirdError, match="trust"):
        content_credentials.read_credentials(signed, trust=b"no certificate")


def test_an_edit_is_of_its_source(tmp_path: Path, pair: Path, catalog_kb: Path, tiny_knn: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "own.png")
    own = ("--image", "own.png", "--prompt", "star", "-n", "1", "--steps", "1", "-k", "1")
    bowerbird("edit", tiny_knn, "--kb", catalog_kb, *own, "--out", "o", *flags(pair), cwd=tmp_path)
    found, state, _ = manifest(tmp_path / "o" / "000.png")
    assert state == "Valid"
    assert [each["relationship"] for each in found["ingredients"]] == ["parentOf", "inputTo"]
    assert found["ingredients"][0]["title"] == "own.png"
    actions = found["assertions"][0]["data"]["actions"]
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.edited"]
    assert actions[1]["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")


def test_prompts_of_a_file_are_signed_and_signed_again_by_another(
    tmp_path: Path,
    pair: Path,
    catalog_kb: Path,
    random_rdm: Path,
) -> None:
    (tmp_path / "p.txt").write_text("a red apple\na star\n")
    command = ("generate", random_rdm, "--kb", catalog_kb, "--prompts", "p.txt", "--steps", "1", "--out", "o")
    bowerbird(*command, cwd=tmp_path)
    done = bowerbird(*command, *flags(pair), cwd=tmp_path)
    assert "are kept" not in done.stderr  # those that were there are not signed
    assert [manifest(tmp_path / "o" / f"00{i}.png")[1] for i in range(2)] == ["Valid", "Valid"]
    assert "2 of 2 pictures were there" in bowerbird(*command, *flags(pair), cwd=tmp_path).stderr


def test_what_cannot_sign_is_refused_before_anything_is_generated(
    tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.pem").write_text("no key")
    base = ("generate", "no-model", "--prompt", "x", "--out", "o")
    for certificate, key, says in (
        ("cert.pem", None, "give both"),
        ("cert.pem", "none.pem", "none.pem: this private key cannot be read"),
        ("cert.pem", "Authority.key", "not the key of the first certificate"),
        ("key.pem", "key.pem", "holds no certificate"),
        ("cert.pem", "cert.pem", "holds no private key"),
        ("ca.pem", "Authority.key", "cannot be signed"),
    ):
        given = ("--sign-cert", pair / certificate, *(() if key is None else ("--sign-key", pair / key)))
        refused(*base, *given, says=says, cwd=tmp_path)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(BowerbirdError, match=r"pip install 'bowerbird\[c2pa\]'"):
        content_credentials.load_signer(pair / "cert.pem", pair / "key.pem")


def test_a_picture_without_credentials_or_record_is_said(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "record-edit.png"
    assert "c2pa        none" in bowerbird("inspect", golden, cwd=tmp_path).stdout
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    refused("inspect", "plain.png", says="carries no bowerbird record", cwd=tmp_path)
    for damaged in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\4caBXabcd1234",
        golden.read_bytes()[:90],
    ):
        assert content_credentials.has_credentials(damaged) == (b"caBX" in damaged)
        (tmp_path / "d.png").write_bytes(damaged)
        bowerbird("inspect", "d.png", expect=2, cwd=tmp_path)
