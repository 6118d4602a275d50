"""A critic by any image-text model of transformers: whether it would rather say yes or no to a question.

The two words' probabilities at the first position of the answer, no text is generated; so a small model on this machine
does what others ask a server for (ImageRAG, arXiv 2502.09411).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import on_background
from bowerbird.systems import hub
from bowerbird.systems.phrases.phrase import Phrase

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "Does this picture show {phrase}? Answer yes or no."
YES = ("yes", "Yes", " yes", " Yes", "YES")
NO = ("no", "No", " no", " No", "NO")


class YesNoCritic:
    """Asks `model` about each phrase. `question`: with `{phrase}` in it."""

    def __init__(self, model: Any, processor: Any, *, name: str = "", question: str = QUESTION) -> None:
        """Raises: BowerbirdError where the question has no place for the phrase, or the model's words for yes and no
        begin alike."""
        if "{phrase}" not in question:
            raise BowerbirdError(f"question {question!r} has no {{phrase}}; write it where the phrase belongs")
        self.model, self.processor, self.question = model, processor, question
        self.name = f"yes-no {name or type(model).__name__}"
        yes, no = (_first_tokens(processor.tokenizer, said) for said in (YES, NO))
        self.yes, self.no = sorted(yes - no), sorted(no - yes)
        if not self.yes or not self.no:
            raise BowerbirdError(
                f"{self.name}: its tokenizer has no tokens that tell yes from no; choose another model, or the"
                " critic `encoder`"
            )

    def missing(self, prompt: str, phrases: Sequence[Phrase], picture: Image.Image) -> np.ndarray:
        """1 less the probability of yes, among yes and no."""
        plain = on_background(picture)
        return np.asarray([1 - self.probability(phrase.text, plain) for phrase in phrases], np.float32)

    def probability(self, phrase: str, picture: Image.Image) -> float:
        """How probably the model says that the picture shows the phrase, among yes and no."""
        import torch

        text = self.prompt_for(self.question.replace("{phrase}", phrase))
        inputs = self.processor(images=[picture], text=[text], return_tensors="pt").to(self.model.device)
        inputs = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.inference_mode():
            last = self.model(**inputs).logits[0, -1].float().log_softmax(-1)
        yes, no = (last[torch.tensor(ids, device=last.device)].logsumexp(0) for ids in (self.yes, self.no))
        return float(torch.sigmoid(yes - no))

    def prompt_for(self, question: str) -> str:
        """The question as the model wants to be asked: by its chat template, or after its sign for a picture."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            prompt: str = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            return prompt
        sign = getattr(self.processor, "image_token", "<image>")
        return f"{sign}\n{question}\nAnswer:"


def load_yes_no(path: str | Path, *, device: str = "cpu") -> YesNoCritic:
    """The critic by the image-text model in a directory, or of a hub id.

    Raises: BowerbirdError when there is none, or it is no model that reads a picture and a text.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place = Path(path)
    if not place.is_dir():
        if str(path).count("/") != 1 or not all(str(path).split("/")):
            raise BowerbirdError(
                f"critic {str(path)!r}: not `encoder`, no directory, and no hub id of an image-text model (owner/name)"
            )
        place = hub.fetch(str(path), {}, patterns=(*hub.PATTERNS, "*.jinja"))
    try:
        processor = AutoProcessor.from_pretrained(place, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(place, local_files_only=True, use_safetensors=True)
        model = model.to(device).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BowerbirdError(
            f"{path}: no image-text model of transformers can be opened there ({reason}); give the directory or hub id"
            " of one, or the critic `encoder`"
        ) from error
    if not hasattr(processor, "tokenizer"):
        raise BowerbirdError(f"{path}: its processor reads no text; give an image-text model, as of the Qwen-VL family")
    return YesNoCritic(model, processor, name=str(path))


def _first_tokens(tokenizer: Any, texts: Sequence[str]) -> set[int]:
    """The tokens that these texts begin with; none for one that the vocabulary does not have."""
    found = set()
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids and ids[0] != tokenizer.unk_token_id:
            found.add(int(ids[0]))
    return found
