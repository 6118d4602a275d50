"""What can be made again is made once, and never read where it is not the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird.core import cache
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.emoji_font import find_emoji_font


def test_memoize_makes_once_for_each_key_and_again_where_the_file_is_damaged(tmp_path: Path) -> None:
    file, calls = tmp_path / "x.safetensors", []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.tensor([1.5, len(calls)])}

    first, again = cache.memoize(file, "a", make), cache.memoize(file, "a", make)
    assert torch.equal(first["x"], again["x"])
    assert len(calls) == 1
    assert cache.memoize(file, "b", make)["x"][1] == 2
    content = file.read_bytes()
    for damaged in (content[:-1], content[:20], b""):
        file.write_bytes(damaged)
        count = len(calls)
        assert cache.memoize(file, "b", make)["x"][1] == count + 1
    assert cache.memoize(file, "b", make)["x"][1] == len(calls)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_keys_differ_with_every_part_its_type_and_its_shape() -> None:
    parts = [("a", "b"), ("ab",), ("a", b"b"), (1,), ("1",), (None,), (1.0,), (), ("",)]
    arrays = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32), np.ones(4, np.float32)]
    keys = [cache.key(*each) for each in parts] + [cache.key(array) for array in arrays]
    assert len(set(keys)) == len(keys)
    assert cache.key("a", 1, np.arange(3)) == cache.key("a", 1, np.arange(3))


def test_without_a_home_directory_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, say, with a user that the system does not know."""
    for name in ("HOME", "BOWERBIRD_CACHE", "XDG_CACHE_HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    pwd = pytest.importorskip("pwd")

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(BowerbirdError, match="set BOWERBIRD_CACHE"):
        cache.directory("features")
    find_emoji_font()


def test_what_is_made_is_laid_out_as_what_is_read(tmp_path: Path) -> None:
    """Else a training that goes on adds up in another order than one that was never cut."""
    x = torch.arange(48.0).view(2, 3, 2, 4).to(memory_format=torch.channels_last)
    made, read = (cache.memoize(tmp_path / "a.safetensors", "key", lambda: {"x": x})["x"] for _ in range(2))
    assert made.stride() == read.stride() == (24, 8, 4, 1)
    assert torch.equal(made, x)
