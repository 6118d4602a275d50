"""Records of strangers: whatever stands in one, it is generated again as it says or refused in one line, before
memory or time is spent."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import loading, record_schema, regeneration
from tests.test_cli import bowerbird, refused

GOLDEN = Path(__file__).parent / "golden"
RECORDS = {name: provenance.read_png(GOLDEN / f"record-{name}.png") for name in ("rdm", "reimagen", "edit")}
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["AAAA", "", "9" * 3000, "/etc/passwd", "module:Class", "owner/name"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every entry of a record stands."""
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*at, key))


PATHS = {name: [path for path in paths(record) if path] for name, record in RECORDS.items()}


def changed(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    whole = copy.deepcopy(record)
    place: Any = whole
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return whole


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_entry_replaced_by_anything_is_read_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(RECORDS)))
    whole = changed(RECORDS[name], data.draw(st.sampled_from(PATHS[name])), data.draw(JSON | st.just(...)))
    try:
        found = regeneration.parse_record(whole)
        hits, _, _ = regeneration.neighbors_of(found), regeneration.settings_of(found), regeneration.source_of(found)
    except BowerbirdError as error:
        said = str(error)
    else:
        said = ""
        assert hits.k <= record_schema.MOST_NEIGHBORS
        assert 0 <= found.seed < 2**64
        assert max(found.size) <= record_schema.MOST_EDGE
        provenance.parameters(whole)  # it is written again
    assert len(said.splitlines()) <= 1
    assert len(said) < 2000


def white(edge: int) -> str:
    buffer = io.BytesIO()
    Image.new("1", (edge, edge)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("rdm", {"seed": 2**70}, "seed"),
        ("rdm", {"seed": -1}, "seed"),
        ("rdm", {"steps": 10**7}, "steps"),
        ("rdm", {"steps": [10**7]}, "steps"),
        ("rdm", {"steps": 3.5}, "steps"),
        ("rdm", {"size": [8192, 8192]}, "size"),
        ("rdm", {"size": [1024, 1024]}, "trained at 64"),
        ("rdm", {"size": [256, 256], "steps": 100}, "in 100 steps"),
        ("rdm", {"model": "tiny-rdm"}, r"model: should be an object, names with values\)$"),
        ("rdm", {"model": {"name": "tiny-rdm"}}, r"model\.fingerprint: is missing\)$"),
        ("rdm", {"guidance_interval": "all"}, r"guidance_interval: input should be a valid list\)$"),
        ("rdm", {"guidance_scale": float("nan")}, "guidance_scale"),
        ("rdm", {"guidance_interval": [0.9, 0.1]}, "guidance_interval"),
        ("rdm", {"sampler": "os:system"}, "os:system"),
        ("rdm", {"batch": 0}, "batch"),
        ("rdm", {"embeddings": "AAAA"}, "embeddings"),
        ("rdm", {"embeddings": base64.b64encode(np.full((4, 384), np.nan, "<f4").tobytes()).decode()}, "not finite"),
        ("rdm", {"neighbors": RECORDS["rdm"]["neighbors"] * 300}, "neighbors"),
        ("reimagen", {"k": 10**6}, "k:"),
        ("reimagen", {"guidance": []}, "guidance"),
        ("reimagen", {"pictures": [white(6000)] * 2}, "pixels in all"),
        ("edit", {"edit": {**RECORDS["edit"]["edit"], "source": white(6000)}}, "pixels in all"),
        ("edit", {"edit": {**RECORDS["edit"]["edit"], "strength": 0}}, "edit.strength"),
    ],
)
def test_what_is_out_of_bounds_is_named(name: str, change: dict[str, Any], says: str) -> None:
    pipe = loading.open_pipeline(RECORDS[name]["model"]["name"])
    with pytest.raises(BowerbirdError, match=says) as caught:
        regeneration.regenerate(pipe, RECORDS[name] | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "batch"), [({}, 4), ({"batch": 2}, 2), ({"batch": 32}, None)])
def test_a_batch_is_as_recorded_four_before_and_no_gpus(change: dict[str, Any], batch: int | None) -> None:
    assert regeneration.settings_of(regeneration.parse_record(RECORDS["rdm"] | change)).batch == batch


def write(path: Path, text: str) -> Path:
    info = PngInfo()
    info.add_itxt("bowerbird", text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize(
    "text", ["[]", "nonsense", "", '{"a":' * 5000, "[" + "[]," * 3_000_000 + "1]", " " * 2**24 + "{}"]
)
def test_a_text_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BowerbirdError, match="record"):
        provenance.read_png(write(tmp_path / "a.png", text))


def test_a_png_whose_header_lies_is_refused(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.png", "{}").read_bytes())
    data[16:24] = b"\x7f\xff\xff\xff" * 2
    for damaged in (bytes(data), bytes(data[:60]), b"\x89PNG\r\n\x1a\n", b""):
        (tmp_path / "b.png").write_bytes(damaged)
        with pytest.raises(BowerbirdError, match=r"b\.png"):
            provenance.read_png(tmp_path / "b.png")


def test_a_record_fetches_no_model_and_passes_nothing_over(tmp_path: Path) -> None:
    from bowerbird.core.text import to_json

    for name in ("owner/name", "/etc", "here"):
        record = RECORDS["rdm"] | {"model": {**RECORDS["rdm"]["model"], "name": name}}
        (tmp_path / "here").mkdir(exist_ok=True)
        write(tmp_path / "a.png", to_json(record))
        refused("generate", "--from", "a.png", "--out", "o", says="generate MODEL --from a.png", cwd=tmp_path)
    golden = GOLDEN / "record-rdm.png"
    for extra, says in (
        (("-n", "4"), "--num-images"),
        (("--seed", "0", "--steps", "3"), "--steps, --seed"),
        (("--prompt", "a wolf"), "--prompt"),
        (("--kb", "kb"), "--kb"),
    ):
        refused("generate", "--from", golden, "--out", "o", *extra, says=says, cwd=tmp_path)


def test_seeds_up_to_the_largest_and_no_further(tmp_path: Path, kb_path: Path, random_rdm: Path) -> None:
    base = (
        "generate",
        random_rdm,
        "--kb",
        kb_path,
        "--prompt",
        "star",
        "--steps",
        "1",
        "--out",
        "o",
        "--on-copy",
        "off",
    )
    refused(*base, "--seed", 2**64, says="--seed", cwd=tmp_path)
    refused(*base, "-n", "2", "--seed", 2**64 - 1, says="seed", cwd=tmp_path)
    for value in ("nan", "inf", "1e999", "2.5", "0", "-3"):
        refused(*base[:6], "--steps", value, "--out", "o", says="steps", cwd=tmp_path)
    bowerbird(*base, "-n", "1", "--seed", 2**64 - 1, cwd=tmp_path)
    assert provenance.read_png(tmp_path / "o" / "000.png")["seed"] == 2**64 - 1
    bowerbird("generate", random_rdm, "--from", "o/000.png", "--out", "again", cwd=tmp_path)
    assert (tmp_path / "o" / "000.png").read_bytes() == (tmp_path / "again" / "000.png").read_bytes()
