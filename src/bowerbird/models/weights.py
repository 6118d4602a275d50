"""Which weights travel inside the package, and where they lie."""

from __future__ import annotations

from pathlib import Path

from bowerbird.core.errors import MismatchError
from bowerbird.core.files import read_tensor_metadata

FOLDER = Path(__file__).parent / "bundled"
DESCRIPTIONS = {
    "reimagen-drawings": (
        "generates what your drawings show, as they look: Re-Imagen at 32, 64 and 128 px, of sixteen styles of"
        " emoji and icons; conditioned on a text and on neighbors' pictures with captions"
    ),
    "tiny-reimagen": "Re-Imagen at 32 and 64 px, conditioned on a text and on neighbors' pictures with captions",
    "tiny-rdm": (
        "variations and random draws, roughly: retrieval-augmented diffusion at 64 px, conditioned on neighbors'"
        " embeddings of `small` alone"
    ),
    "tiny-rdm-fast": "tiny-rdm distilled to two steps of one pass, guidance included; fine-tuned from tiny-rdm",
    "tiny-knn": (
        "edits by a text: KNN-Diffusion at 64 px, conditioned on a text's or picture's embedding and its neighbors';"
        " fine-tuned from tiny-rdm"
    ),
    "tiny-sd": (
        "a base model to try --adapter, phrases and the critic with: Stable Diffusion's layout at 64 px, 300 things by"
        " name and scenes of them; conditioned on a text alone"
    ),
    "tiny-instruct": (
        "edits by an instruction: InstructPix2Pix at 64 px, shown what the instruction names from a knowledge base;"
        " trained from tiny-sd"
    ),
    "tiny-racm3": (
        "things as a collection shows them, holes filled in, and captions: RA-CM3 at 64 px, a code at a time, with"
        " neighbors' pictures and captions in the prompt"
    ),
    "tiny-ip-adapter": "IP-Adapter for tiny-sd (--adapter tiny-ip-adapter), which reads embeddings of `small`",
    "small": "image and text encoder, 384 dimensions, 64 px",
    "small-patches": "image and text encoder that also says what is where, in 4 x 4 places; 1,216 dimensions, 64 px",
    "tiny-autoencoder": "4x autoencoder, 64 px pictures to 4 x 16 x 16 latents",
    "vq-drawings": "tokenizer of drawings, 64 px pictures to 16 x 16 of 2,048 codes",
    "tiny-copies": "copy descriptor for check-copies, 128 dimensions, 64 px",
}
"""What is bundled: models to generate with, the one to begin with first; then what they are made of."""

SHARED = {
    "tiny-rdm": {"vae": "tiny-autoencoder"},
    "tiny-rdm-fast": {"vae": "tiny-autoencoder"},
    "tiny-racm3": {"vae": "vq-drawings"},
    "tiny-instruct": {"vae": "tiny-sd/vae", "tokenizer": "tiny-sd/tokenizer"},
}
"""Components of bundled models that lie in another's folder."""

ADAPTERS = {"tiny-sd": "tiny-ip-adapter"}
"""Bundled base models, and the bundled adapter of each."""


def bundled(name: str) -> Path | None:
    """The directory of the bundled weights called `name`, or None when there are none of that name."""
    path = FOLDER / name
    return path if name in DESCRIPTIONS and path.is_dir() else None


def check_base(file: Path, base_hash: str) -> None:
    """Raises: MismatchError when the weights in `file` were saved on top of another base than that of `base_hash`."""
    wanted = read_tensor_metadata(file).get("base")
    if wanted != base_hash:
        raise MismatchError(
            f"{file.parent}: these weights were saved on top of others ({wanted}) than those bundled here"
            f" ({base_hash}); install the bowerbird they came with"
        )
