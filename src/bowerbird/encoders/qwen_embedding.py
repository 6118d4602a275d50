"""Qwen3-VL-Embedding: pictures and texts through one language model, under an instruction.

The input is a conversation: the instruction as the system's turn, the picture or text as the user's, and the opening of
an answer, whose last token's hidden state after the last layer is the embedding. Its first numbers are an embedding
too (Matryoshka). Sources: Qwen3-VL-Embedding's README and technical report, arXiv 2601.04720.
Differs from the authors' code: the conversation is written out here, as a template in a directory is a program of
whoever made it; a long text is cut at its own end.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.weight_files import folder_fingerprint
from bowerbird.encoders.options import NONE, Options
from bowerbird.models import network_files

if TYPE_CHECKING:
    from PIL import Image

INSTRUCTION = "Represent the user's input."
"""The authors' default."""
MOST_TOKENS = 8192
LEAST_PIXELS, MOST_PIXELS = 4 * 32 * 32, 1800 * 32 * 32
"""Of a picture as it goes in: 4 to 1800 tokens."""
PICTURE_TOKEN = "<|image_pad|>"
CONVERSATION = (
    "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
)


class QwenEmbedding:
    """`Encoder` over transformers' `Qwen3VLModel`."""

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, options: Options, name: str, fingerprint: str
    ) -> None:
        self.model, self.tokenizer, self.image_processor = (
            model.eval().requires_grad_(False),
            tokenizer,
            image_processor,
        )
        self.name, self.fingerprint = name, options.marked(fingerprint)
        self.dim = self.shared_dim = options.checked_dim(name, int(model.config.text_config.hidden_size))
        self.instruction = _sentence(options.instruction or INSTRUCTION)
        self.preprocessing = f"aspect ratio kept, {LEAST_PIXELS:,} to {MOST_PIXELS:,} pixels, {self.instruction!r}"
        self.picture_size = 448

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts, in any script (cut at some 8,000 tokens) -> raw float32 `(n, dim)`."""
        return self._stacked([self._embed(self._ids(self._cut(_plain(text)) or "NULL")) for text in texts])

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, dim)`."""
        return self._stacked([self._picture(picture) for picture in pictures])

    def _stacked(self, vectors: list[np.ndarray]) -> np.ndarray:
        return np.stack(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    def _ids(self, said: str) -> list[int]:
        text = CONVERSATION.format(instruction=self.instruction, said=said)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _cut(self, text: str) -> str:
        """The text, or as much of its beginning as the model reads."""
        most = MOST_TOKENS - len(self._ids(""))
        ids = self.tokenizer(text[: 16 * most], add_special_tokens=False)["input_ids"]
        return text if len(ids) <= most else str(self.tokenizer.decode(ids[:most]))

    def _picture(self, picture: Image.Image) -> np.ndarray:
        made = self.image_processor(images=[_not_too_narrow(picture)], return_tensors="pt")
        grid = made["image_grid_thw"]
        tokens = int(grid.prod()) // int(self.image_processor.merge_size) ** 2
        return self._embed(self._ids(f"<|vision_start|>{PICTURE_TOKEN * tokens}<|vision_end|>"), made)

    def _embed(self, ids: list[int], picture: Any = None) -> np.ndarray:
        """One conversation at a time: what it gives then depends on nothing beside it."""
        import torch

        inputs = torch.tensor([ids])
        given: dict[str, Any] = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
        if picture is not None:
            pixels = picture["pixel_values"].to(self.model.dtype)
            given |= {"pixel_values": pixels, "image_grid_thw": picture["image_grid_thw"]}
            given["mm_token_type_ids"] = (inputs == self.model.config.image_token_id).int()
        with torch.inference_mode():
            found = self.model(**{key: value.to(self.model.device) for key, value in given.items()}, use_cache=False)
        vector: np.ndarray = found.last_hidden_state[0, -1, : self.dim].float().cpu().numpy()
        return vector


def load_qwen_embedding(path: str | Path, *, name: str, device: str = "cpu", options: Options = NONE) -> QwenEmbedding:
    """Open a directory of Qwen3-VL-Embedding. Raises: BowerbirdError when it is not complete."""
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLModel

    folder = Path(path)
    with opening(f"encoder {name!r}", "fetch the directory again"):
        model = network_files.load_network(Qwen3VLModel, folder).to(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        size = {"shortest_edge": LEAST_PIXELS, "longest_edge": MOST_PIXELS}
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True, size=size)
        place = tokenizer.convert_tokens_to_ids(PICTURE_TOKEN)
    if place != model.config.image_token_id:
        raise BowerbirdError(
            f"encoder {name!r}: its tokenizer and its network disagree on {PICTURE_TOKEN}; fetch it again"
        )
    return QwenEmbedding(model, tokenizer, processor, options, name, folder_fingerprint(folder))


def _sentence(instruction: str) -> str:
    """With a full stop at the end where there is no mark, as the authors' code has it."""
    instruction = _plain(instruction)
    return instruction if unicodedata.category(instruction[-1:] or ".").startswith("P") else f"{instruction}."


def _plain(text: str) -> str:
    """A text that cannot open a turn of its own, or pass for a picture."""
    return text.replace("<|", "< |").strip()


def _not_too_narrow(picture: Image.Image) -> Image.Image:
    """Pictures of over 100 to 1 are padded with white: the network refuses those of 200 to 1."""
    from PIL import Image

    width, height = picture.size
    least = -(-max(width, height) // 100)
    if min(width, height) >= least:
        return picture.convert("RGB")
    wider = Image.new("RGB", (max(width, least), max(height, least)), "white")
    wider.paste(picture, ((wider.width - width) // 2, (wider.height - height) // 2))
    return wider
