"""Text encoders in the layout of sentence-transformers: a transformer, pooling, perhaps a projection, perhaps a norm.

They embed captions and what is searched among them, no pictures. `modules.json` lists the parts; each is read here, as
the library itself would import whatever class the list names. Its `Normalize` is left out: the knowledge base compares
by cosine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.text import parse_json
from bowerbird.core.weight_files import folder_fingerprint
from bowerbird.encoders.options import NONE, Options
from bowerbird.models import network_files

if TYPE_CHECKING:
    import torch

MODULES = "modules.json"
POOLING = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
ACTIVATIONS = ("Identity", "Tanh", "GELU", "ReLU")
QUERY, DOCUMENT = ("query", "search_query", "Retrieval-query"), ("document", "passage", "search_document", "doc")
"""What a text that is searched, and one that is searched among, are called in `config_sentence_transformers.json`."""
BATCH = 32
MOST_TOKENS = 512
UNUSED = ("pooler.",)
"""A layer over the first token that BERT has and no pooling here reads."""


@dataclass(frozen=True)
class Prompts:
    """What is put before a text that is searched (`query`), and one that is searched among (`document`)."""

    query: str = ""
    document: str = ""


class SentenceEncoder:
    """A `core.types.TextEncoder`: `model` gives token vectors, `pooling` is of `POOLING`, `projections` come after."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: Sequence[str],
        projections: Sequence[Any],
        prompts: Prompts,
        most_tokens: int,
        options: Options,
        name: str,
        fingerprint: str,
    ) -> None:
        self.model, self.tokenizer, self.pooling = model.eval().requires_grad_(False), tokenizer, tuple(pooling)
        self.projections, self.prompts, self.most_tokens = list(projections), prompts, most_tokens
        width = projections[-1][0].out_features if projections else int(model.config.hidden_size) * len(pooling)
        self.name, self.fingerprint = name, options.marked(fingerprint)
        self.dim = options.checked_dim(name, width)
        if options.instruction is not None:
            self.prompts = Prompts(options.instruction, prompts.document)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts that are searched -> raw float32 `(n, dim)`."""
        return self._embed([self.prompts.query + text for text in texts])

    def embed_captions(self, texts: Sequence[str]) -> np.ndarray:
        """n texts that are searched among -> raw float32 `(n, dim)`."""
        return self._embed([self.prompts.document + text for text in texts])

    def _embed(self, texts: list[str]) -> np.ndarray:
        import torch

        made = np.zeros((len(texts), self.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # equal lengths need no padding
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                some = order[start : start + BATCH]
                tokens = self.tokenizer(
                    [texts[at] for at in some],
                    padding=True,
                    truncation=True,
                    max_length=self.most_tokens,
                    return_tensors="pt",
                ).to(self.model.device)
                states = self.model(**tokens).last_hidden_state
                vectors = pooled(states, tokens["attention_mask"], self.pooling)
                for layer in self.projections:
                    vectors = layer(vectors)
                made[some] = vectors[:, : self.dim].float().cpu().numpy()
        return made


def pooled(states: torch.Tensor, mask: torch.Tensor, modes: Sequence[str]) -> torch.Tensor:
    """Token vectors `(n, t, d)` and which are of the text `(n, t)` -> `(n, d)` for each of the modes, joined."""
    import torch

    here = mask.unsqueeze(-1).to(states.dtype)
    count = here.sum(1).clamp(min=1e-9)
    first = mask.argmax(1)
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    rows = torch.arange(len(states), device=states.device)
    ways = {
        "cls_token": lambda: states[rows, first],
        "mean_tokens": lambda: (states * here).sum(1) / count,
        "max_tokens": lambda: states.masked_fill(here == 0, -torch.inf).amax(1),
        "mean_sqrt_len_tokens": lambda: (states * here).sum(1) / count.sqrt(),
        "lasttoken": lambda: states[rows, last],
    }
    return torch.cat([ways[mode]() for mode in modes], 1)


def load_sentence(path: str | Path, *, name: str, device: str = "cpu", options: Options = NONE) -> SentenceEncoder:
    """Open a directory in the layout of sentence-transformers. Raises: BowerbirdError for a part that is none of those
    known here, or not complete."""
    from transformers import AutoModel, AutoTokenizer

    folder = Path(path)
    with opening(f"caption encoder {name!r}", "fetch the directory again"):
        parts = _parts(folder, name)
        inner = folder / parts[0][1]
        model = network_files.load_network(AutoModel, inner, unused=UNUSED).to(device)
        tokenizer = AutoTokenizer.from_pretrained(inner, local_files_only=True)
        pooling = _pooling(folder / parts[1][1], name)
        projections = [
            _projection(folder / place).to(device).to(model.dtype) for kind, place in parts[2:] if kind == "Dense"
        ]
        most, prompts = _most_tokens(inner, model, tokenizer), _prompts(folder)
    marks = [folder_fingerprint(folder / place) for kind, place in parts if kind in ("Transformer", "Dense")]
    # how it is pooled and what stands before a caption changes the vectors as the weights do
    settled = json.dumps([*marks, *pooling, prompts.document, most]).encode()
    fingerprint = hashlib.sha256(settled).hexdigest()[:16]
    return SentenceEncoder(model, tokenizer, pooling, projections, prompts, most, options, name, fingerprint)


def _parts(folder: Path, name: str) -> list[tuple[str, str]]:
    """Kind and subfolder of each part, in order."""
    path = folder / MODULES
    listed = parse_json(path.read_bytes()[:100_000], str(path), "list of parts")
    parts = []
    for part in listed if isinstance(listed, list) else []:
        kind, place = str(part.get("type", "")).rsplit(".", 1)[-1], str(part.get("path", ""))
        if place and (not place.replace("_", "").isalnum()):
            raise BowerbirdError(f"{path}: names the folder {place[:60]!r}; those of its own directory alone are read")
        parts.append((kind, place))
    kinds = [kind for kind, _ in parts]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense", "Normalize"}:
        raise BowerbirdError(
            f"caption encoder {name!r}: its parts are {', '.join(kinds)[:120] or 'none'}; read are Transformer and"
            " Pooling, then Dense and Normalize"
        )
    return parts


def _pooling(folder: Path, name: str) -> list[str]:
    config = network_files.check_config(folder / "config.json")
    chosen = [mode for mode in POOLING if config.get(f"pooling_mode_{mode}")]
    named = config.get("pooling_mode")  # as the library's newer versions have it: the way, or several
    for way in named if isinstance(named, list) else [named]:
        chosen += [mode for mode in POOLING if way in (mode, mode.removesuffix("_tokens").removesuffix("_token"))]
    if not chosen or config.get("include_prompt") is False:
        raise BowerbirdError(f"caption encoder {name!r}: pools in no known way; known are {', '.join(POOLING)}")
    return chosen


def _projection(folder: Path) -> Any:
    """A linear layer and what follows it."""
    import torch
    from torch import nn

    config = network_files.check_config(folder / "config.json")
    kind = str(config.get("activation_function", "Identity")).rsplit(".", 1)[-1]
    if kind not in ACTIVATIONS:
        raise BowerbirdError(f"{folder}: its activation is {kind[:60]!r}; known are {', '.join(ACTIVATIONS)}")

    def build() -> nn.Sequential:
        layer = nn.Linear(int(config["in_features"]), int(config["out_features"]), bias=bool(config.get("bias", True)))
        return nn.Sequential(layer, getattr(nn, kind)())

    weights = {
        key.replace("linear", "0"): value for key, value in files.load_tensors(folder / "model.safetensors").items()
    }
    network_files.check_shapes(build, weights, folder)
    layers = build()
    layers.load_state_dict(weights)
    network_files.check_finite(layers, folder)
    return layers.eval().requires_grad_(False).to(torch.float32)


def _prompts(folder: Path) -> Prompts:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return Prompts()
    config = network_files.check_config(path)
    given, usual = config.get("prompts"), config.get("default_prompt_name")
    given = {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
    fallback = given.get(str(usual), "")

    def of(names: Sequence[str]) -> str:
        return next((given[name] for name in names if given.get(name)), fallback)

    return Prompts(of(QUERY), of(DOCUMENT))


def _most_tokens(folder: Path, model: Any, tokenizer: Any) -> int:
    """As `sentence_bert_config.json` says, no more than the network has positions for, and than a caption needs."""
    path = folder / "sentence_bert_config.json"
    said = network_files.check_config(path).get("max_seq_length") if path.is_file() else None
    bounds = (said, getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length, MOST_TOKENS)
    return min(int(bound) for bound in bounds if isinstance(bound, int) and bound > 0)
