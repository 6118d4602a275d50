"""An encoder that lives in the worker, as whoever searches or adds sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.serve import frames

if TYPE_CHECKING:
    from PIL import Image


class _Remote:
    """What is known of an encoder here: where it is, and the facts that a knowledge base keeps of it."""

    def __init__(self, address: str, name: str, fingerprint: str, dim: int) -> None:
        self.address, self.name, self.fingerprint, self.dim = address, name, fingerprint, dim

    def _call(self, what: str, blobs: Sequence[bytes] = (), **more: Any) -> frames.Frame:
        message = {"call": what, "encoder": self.name, "fingerprint": self.fingerprint, **more}
        return frames.call(self.address, message, blobs)

    def _array(self, answer: frames.Frame) -> np.ndarray:
        return np.frombuffer(answer[1][0], "<f4").astype(np.float32).reshape(-1, self.dim)

    def _none(self) -> np.ndarray:
        return np.zeros((0, self.dim), np.float32)


class RemoteEncoder(_Remote):
    """A `core.types.TokenEncoder` by the facts that a knowledge base keeps of its own (`name`, `fingerprint`, `dim`);
    the worker listening at `address` loads it when it is first asked, and refuses when it is another one."""

    shared_dim: int
    picture_size: int | None
    embeds_text: bool
    token_dim: int

    def __getattr__(self, name: str) -> int | None:
        """What only the worker knows, asked when it is first wanted."""
        if name not in ("shared_dim", "picture_size", "embeds_text", "token_dim"):
            raise AttributeError(name)
        for key, value in self._call("encoder")[0].items():
            setattr(self, key, value)
        found: int | None = self.__dict__[name]
        return found

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> raw float32 `(n, dim)`."""
        return self._array(self._call("embed_text", texts=list(texts))) if texts else self._none()

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, dim)`."""
        if not pictures:
            return self._none()
        plain = [picture.convert("RGB") for picture in pictures]
        return self._array(self._call("embed_pixels", [p.tobytes() for p in plain], sizes=[p.size for p in plain]))

    def embed_text_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """n texts -> the unit vectors of each, float32 `(m, token_dim)`."""
        return self._matrices(self._call("text_tokens", texts=list(texts))[1]) if texts else []

    def embed_images_with_tokens(self, pictures: Sequence[Image.Image]) -> tuple[np.ndarray, list[np.ndarray]]:
        """n RGB pictures -> raw float32 `(n, dim)`, and the unit vectors of each."""
        if not pictures:
            return self._none(), []
        plain = [picture.convert("RGB") for picture in pictures]
        answer = self._call("pixel_tokens", [p.tobytes() for p in plain], sizes=[p.size for p in plain])
        return self._array(answer), self._matrices(answer[1][1:])

    def _matrices(self, blobs: Sequence[bytes]) -> list[np.ndarray]:
        return [np.frombuffer(blob, "<f4").astype(np.float32).reshape(-1, self.token_dim) for blob in blobs]

    def embed_files(self, pictures: Sequence[bytes]) -> np.ndarray:
        """n PNG files of our own -> raw float32 `(n, dim)`."""
        return self._array(self._call("embed_files", pictures)) if pictures else self._none()


class RemoteTextEncoder(_Remote):
    """A `core.types.TextEncoder` by the facts that a knowledge base keeps of the encoder of its captions."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts that are searched -> raw float32 `(n, dim)`."""
        return self._embed("embed_query", texts)

    def embed_captions(self, texts: Sequence[str]) -> np.ndarray:
        """n texts that are searched among -> raw float32 `(n, dim)`."""
        return self._embed("embed_captions", texts)

    def _embed(self, what: str, texts: Sequence[str]) -> np.ndarray:
        return self._array(self._call(what, texts=list(texts))) if texts else self._none()


def remote_captions(address: str, manifest: dict[str, Any]) -> RemoteTextEncoder | None:
    """The encoder of a manifest's `captions` entry; None where there is none."""
    facts = manifest.get("captions")
    if facts is None:
        return None
    return RemoteTextEncoder(address, str(facts["name"]), str(facts["fingerprint"]), int(facts["dim"]))


def remote(address: str, facts: dict[str, Any]) -> RemoteEncoder:
    """The encoder of a manifest's `encoder` entry."""
    return RemoteEncoder(address, str(facts["name"]), str(facts["fingerprint"]), int(facts["dim"]))
