"""What several files of routes say the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "page"
"""The files of the page."""


def form_body(required: list[str], **properties: Any) -> dict[str, Any]:
    """What OpenAPI says of a form."""
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
