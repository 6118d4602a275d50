"""Models on the Hugging Face hub: a copy of one by its id, and a folder published under one.

Fetched is what a pipeline is made of, configurations and safetensors; nothing that could hold code. huggingface_hub
does the work, so its settings (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`) hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bowerbird.core.disk import disk_code
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems import model_index

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")
VARIANTS = ("*.fp16.*", "*.bf16.*", "*.non_ema.*")
OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


def fetch_index(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """The `model_index.json` of the hub's model called `model`, which says what else is to be fetched."""
    place = fetch(model, dict(options), patterns=(model_index.FILE,))
    return model_index.read_index(place)


def fetch(model: str, options: dict[str, Any], patterns: Sequence[str] = PATTERNS) -> Path:
    """The folder of a copy of the hub's model called `model`, its files of these `patterns`; takes huggingface_hub's
    own of `options`. Weights in another precision are passed over unless `options` names their `variant`.

    Raises: BowerbirdError when it cannot be had.
    """
    from huggingface_hub import snapshot_download

    check_no_file(model)
    chosen = {name: options.pop(name) for name in OPTIONS if name in options}
    others = [] if options.get("variant") else list(VARIANTS)
    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns), ignore_patterns=others, **chosen))
    except _failures() as error:
        if disk_code(error) is not None:
            raise
        raise BowerbirdError(
            f"model {model!r}: no such directory, and the hub does not give it ({_reason(error)}); see hf auth login,"
            " or name a bundled one: bowerbird models"
        ) from error


def check_no_file(model: str) -> None:
    """Raises: BowerbirdError where `model` is a file, as other programs keep models."""
    if Path(model).is_file():
        raise BowerbirdError(
            f"model {model!r}: is a single file, and bowerbird opens directories in diffusers layout;"
            " docs/your-model.md says how to make one of it"
        )


def reserve(model: str) -> None:
    """Make the hub's model called `model`, private, where it is not there yet.

    Raises: BowerbirdError when that is no name for one, or the hub refuses.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(model, private=True, exist_ok=True)
    except _failures() as error:
        raise BowerbirdError(f"{model}: the hub does not take it ({_reason(error)}); see hf auth login") from error


def publish(folder: Path, model: str) -> str:
    """Upload what lies in `folder` as the hub's model called `model`; its address. Raises: BowerbirdError."""
    from huggingface_hub import HfApi

    try:
        done = HfApi().upload_folder(repo_id=model, folder_path=folder, commit_message="Upload a model of bowerbird")
    except _failures() as error:
        raise BowerbirdError(
            f"{model}: the upload failed ({_reason(error)}); the model is in {folder}, and the same command tries again"
        ) from error
    return str(done.commit_url)


def _failures() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises: its own errors are OSErrors, those of its connection are its HTTP library's."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *(each for each in HfHubHTTPError.__mro__ if each.__name__ == "HTTPError"))


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
