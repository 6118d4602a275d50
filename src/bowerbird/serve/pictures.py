"""A job's pictures and a job itself as they are kept and as they are shown."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bowerbird.serve.store import new_id

URL_SECONDS = 3600


def rows_of(job: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a job's pictures, as the store keeps them; of a comparison each with what its variant says."""
    request, now = job["request"], time.time()
    rows = []
    for position, facts in enumerate(pictures):
        variant = facts.get("variant")
        asked = request if variant is None else {**request["request"], **request["variants"][variant]}
        rows.append(
            {
                "id": new_id("img"),
                "job": job["id"],
                "position": position,
                "variant": variant,
                "kind": job["kind"],
                "created": now,
                "width": facts["width"],
                "height": facts["height"],
                "prompt": str(asked.get("prompt") or asked.get("class_name") or ""),
                "model": str(asked.get("model") or ""),
                "kb": asked.get("knowledge_base"),
                "seed": str(facts["seed"]),
                "near_copy": int(facts["near_copy"]),
            }
        )
    return rows


def public_image(row: Mapping[str, Any], root_path: str) -> dict[str, Any]:
    """A picture as the API shows it, whose addresses begin with `root_path`."""
    address = f"{root_path}/api/images/{row['id']}"
    keys = ("id", "job", "variant", "kind", "created", "width", "height", "prompt", "model")
    return {
        **{key: row[key] for key in keys},
        "index": row["position"],
        "knowledge_base": row["kb"],
        "seed": int(row["seed"]),
        "starred": bool(row["starred"]),
        "near_copy": bool(row["near_copy"]),
        "url": address,
        "thumbnail": f"{address}/thumbnail",
    }


def sign(key: bytes, image: str, form: str, until: int) -> str:
    """What shows that an address was made here."""
    return hmac.new(key, f"{image} {form} {until}".encode(), hashlib.sha256).hexdigest()[:32]


def signed_path(key: bytes, image: str, form: str) -> str:
    """An address of a picture that is good for an hour, without a token."""
    until = int(time.time()) + URL_SECONDS
    return f"/api/images/{image}/file?format={form}&expires={until}&signature={sign(key, image, form, until)}"


def is_signed(key: bytes, image: str, form: str, until: int, signature: str) -> bool:
    """Whether an address was made by `signed_path`, and is still good."""
    return until >= time.time() and hmac.compare_digest(sign(key, image, form, until).encode(), signature.encode())
