"""ColPali, ColQwen2 and ColModernVBERT through transformers: a vector for each token of a picture or text.

Source: ColPali, arXiv 2407.01449; a picture and a text are compared by MaxSim (ColBERT, arXiv 2004.12832). A knowledge
base also holds one vector of each item, to search by: here the mean of its tokens, which the authors do not train for,
so searching with it alone finds less.
Differs from the authors' code: pictures and texts go through one at a time, so that what one gives depends on nothing
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.opening import opening
from bowerbird.core.weight_files import folder_fingerprint
from bowerbird.models import network_files

if TYPE_CHECKING:
    from PIL import Image

KINDS: Mapping[str, str] = {"colpali": "ColPali", "colqwen2": "ColQwen2", "colmodernvbert": "ColModernVBert"}
"""By `model_type`: what the names of transformers' classes begin with."""
NOT_FOR_NETWORKS = ("labels",)
"""What a processor makes for training."""


class LateInteractionEncoder:
    """`TokenEncoder` over a `…ForRetrieval` model of transformers and its processor."""

    def __init__(self, model: Any, processor: Any, name: str, fingerprint: str, device: str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.processor, self.name, self.fingerprint, self.device = processor, name, fingerprint, device
        self.preprocessing = f"the model's own: {type(processor).__name__}"
        self.dim = self.shared_dim = self.token_dim = int(model.config.embedding_dim)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> the mean of the tokens of each, raw float32 `(n, dim)`."""
        return self._means(self.embed_text_tokens(texts))

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> the mean of the tokens of each, raw float32 `(n, dim)`."""
        return self.embed_images_with_tokens(pictures)[0]

    def embed_text_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `TokenEncoder`, with the words that the model was trained to read before and after a query."""
        return [self._tokens(self.processor.process_queries(text=[text])) for text in texts]

    def embed_images_with_tokens(self, pictures: Sequence[Image.Image]) -> tuple[np.ndarray, list[np.ndarray]]:
        """As `TokenEncoder`."""
        tokens = [self._tokens(self.processor.process_images(images=[picture])) for picture in pictures]
        return self._means(tokens), tokens

    def _tokens(self, made: Any) -> np.ndarray:
        """The unit vectors of one input, without those of padding."""
        import torch

        given = {key: value.to(self.device) for key, value in made.items() if key not in NOT_FOR_NETWORKS}
        with torch.inference_mode():
            found = self.model(**given).embeddings[0]
        there: np.ndarray = found[given["attention_mask"][0].bool()].float().cpu().numpy()
        return there

    def _means(self, tokens: list[np.ndarray]) -> np.ndarray:
        return np.stack([each.mean(0) for each in tokens]) if tokens else np.zeros((0, self.dim), np.float32)


def load_late_interaction(path: str | Path, *, name: str, device: str = "cpu") -> LateInteractionEncoder:
    """Open a directory of ColPali, ColQwen2 or ColModernVBERT. Raises: BowerbirdError when it is not complete."""
    import transformers

    with opening(f"encoder {name!r}", "fetch the directory again"):
        kind = KINDS[network_files.check_folder(Path(path))["model_type"]]
        model = network_files.load_network(getattr(transformers, f"{kind}ForRetrieval"), Path(path))
        processor = getattr(transformers, f"{kind}Processor").from_pretrained(path, local_files_only=True)
    return LateInteractionEncoder(model, processor, name, folder_fingerprint(path), device)
