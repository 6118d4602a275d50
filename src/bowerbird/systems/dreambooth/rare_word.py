"""Whether a word is free to be the name of a subject: one that says something already would have to be forgotten."""

from __future__ import annotations

from typing import Any

from bowerbird.core.errors import BowerbirdError

MOST_TOKENS = 3
LONG, ENDS = 3, "</w>"
"""Letters from which a common token that ends a word means something, and how CLIP writes that it does."""
COMMON = 0.8
"""A word that is one token is rare where its number is in the last fifth: vocabularies of byte pairs are in the order
of how often a pair was met. `sks` of CLIP's is 48136 of 49408."""


def check_word(tokenizer: Any, word: str) -> None:
    """Raises: BowerbirdError for a word that the tokenizer does not know, that is common, or cut into many tokens.

    Source: DreamBooth, section 3.2: one to three rare tokens.
    """
    if not word or word.split() != [word]:
        raise BowerbirdError(f"`word` {word!r} is the subject's name: one word without blanks, such as sks")
    tokens = tokenizer(word, add_special_tokens=False).input_ids
    unknown = tokenizer.unk_token_id
    # CLIP's own unknown token is the one that ends a text
    if not tokens or unknown in tokens:
        raise BowerbirdError(f"`word` {word!r} is not in the base's vocabulary; choose a rare word that is")
    if len(tokens) > MOST_TOKENS:
        raise BowerbirdError(
            f"`word` {word!r} is {len(tokens)} tokens for the base, at most {MOST_TOKENS} keep a name together; choose"
            " a shorter one, such as sks"
        )
    ending = str(tokenizer.convert_ids_to_tokens(tokens[-1])).removesuffix(ENDS)
    if len(tokens) > 1 and tokens[-1] < COMMON * len(tokenizer) and ending.isalpha() and len(ending) >= LONG:
        raise BowerbirdError(
            f"`word` {word!r} ends in {ending!r}, which the base has a meaning for; choose a rare one, such as sks:"
            " --set system.word=…"
        )
    if len(tokens) == 1 and tokens[0] < COMMON * len(tokenizer):
        raise BowerbirdError(
            f"`word` {word!r} is common (token {tokens[0]} of {len(tokenizer)}), so the base has a meaning for it;"
            " choose a rare one, such as sks: --set system.word=…"
        )
