"""A text as the words it is searched by, in any script.

Latin, Greek, Cyrillic, Hebrew and Arabic lose their accents and points; the vowel signs of Indic scripts and the
voicing marks of Japanese make other words and stay. Scripts that write no blanks (Chinese, Japanese, Thai, …) are taken
two characters at a time, as Lucene's CJKBigramFilter does. An emoji is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise

FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "as", "at", "be", "by", "for", "from", "in", "into"}
    | {"is", "it", "of", "on", "or", "that", "the", "this", "to", "with"}
)
_VERBS = "draw|paint|sketch|design|render|generate|create|make|show|give|find|get|imagine|see"
_ASKING = re.compile(
    r"^\W*(?:(?:(?:please|i want|i need|i would like|(?:can|could|would) you)\W+)+"
    rf"(?:(?:to\W+)?(?:{_VERBS})\b\W*)?(?:(?:me|us)\b)?"
    rf"|(?:{_VERBS})\W+(?:me|us|(?=(?:an?|the|some|my)\b)))",
    re.IGNORECASE,
)
"""How a prompt begins that asks somebody: "please draw me", "generate a"."""
_MEDIUM = re.compile(
    r"\b(?:picture|image|photo|photograph|drawing|illustration|icon|emoji|sketch|rendering|depiction)s?"
    r"\W+(?:of|showing|depicting)\b(?=\W*\w)",
    re.IGNORECASE,
)
"""What a prompt asks for a picture with: "a picture of", "two icons showing"."""
_FOR_WHOM = re.compile(r"\bfor\W+(?:me|us|my|our)\b(?:\W+\w+){0,2}\W*$|\bplease\W*$", re.IGNORECASE)
"""How it may end: "for my app"."""
ODD_PLURALS = {"lenses": "lens", "gases": "gas", "irises": "iris", "atlases": "atlas", "canvases": "canvas"}

_ASCII_WORD = re.compile(r"[^\W_]+|[#*]")
ACCENTS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20dc\ufe20-\ufe2f]"
)
"""Marks over and under letters of scripts that are also written without them, and the stretched line of Arabic."""
LETTERS = str.maketrans({"’": "'", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "ħ": "h", "ı": "i"})
"""What Unicode does not decompose, as it is typed without the letter."""
_UNSEEN = re.compile("[\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\u20e3]")
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u312f\u31f0-\u31ff"
_HANGUL = "\uac00-\ud7a3"  # with blanks, but a word carries its particles
_SOUTHEAST = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u1039\u103b-\u103f\u1050-\u108f\u1780-\u17d3"
_IS_HAN = re.compile(f"[{_HAN}]")
_SYMBOL = (
    "[\u00a9\u00ae\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\U0001f000-\U0001faff]"
)
_STYLE = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
_EMOJI = re.compile(f"[\U0001f1e6-\U0001f1ff]{{2}}|{_SYMBOL}(?:[{_STYLE}]|\u200d{_SYMBOL})*")
_SKIN = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")


def words(text: str) -> list[str]:
    """What a text can be found by: its words without function words, plurals as their singular.

    A run of a script without blanks gives every two neighboring characters, and each Han character; an emoji of
    several gives itself and its parts.
    """
    if text.isascii():  # most are, by the million
        found = _ASCII_WORD.findall(text.lower().replace("'s", ""))
        return [singular(word) for word in found if word not in FUNCTION_WORDS]
    return _content(all_words(text, parts=True))


def query_words(text: str) -> list[str]:
    """What a text asks for: as `words`, but a run is asked for by its pairs, and an emoji as a whole, and English words
    that only ask are none (`thing_asked_for`)."""
    return _content(all_words(thing_asked_for(text), parts=False))


def thing_asked_for(text: str) -> str:
    """A prompt without the words that ask for a picture, which few captions have and which would count as rare ones:
    of "please draw a picture of a fox for my app" it is " a fox". A text of such words alone is all of them."""
    bare = _FOR_WHOM.sub(" ", _MEDIUM.sub(" ", _ASKING.sub(" ", text, count=1)))
    return bare if any(word not in FUNCTION_WORDS for word in _ASCII_WORD.findall(bare.lower())) else text


def first_clause(text: str) -> str:
    """What stands before the first comma; a prompt names its subject there."""
    return re.split("[,，、]", text, maxsplit=1)[0]


def follow(part: Sequence[str], every: Sequence[str]) -> bool:
    """Whether the words of `part`, one at least, stand one after another in `every`."""
    return bool(part) and any(every[at : at + len(part)] == part for at in range(len(every) - len(part) + 1))


def sequence(text: str) -> list[str]:
    """Every word of a text in its order, function words too: what stands next to what."""
    return [singular(word) for word in all_words(text, parts=False)]


def whole(text: str) -> str:
    """One token for a text as a whole, equal for texts of the same words; "" where there is not one word."""
    return whole_of(words(text), text)


def whole_of(own: Sequence[str], text: str) -> str:
    """`whole` of a `text` whose `words` are known; one of function words alone is all of them."""
    every = own or all_words(text, parts=True)
    return "=" + " ".join(every) if every else ""


def exact(text: str) -> str:
    """A text as it stands, but for case, blanks and the width of its letters."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split())


def name_words(name: str) -> list[str]:
    """The words of a file's name (`bare_name`)."""
    return words(bare_name(name))


def bare_name(name: str) -> str:
    """A file's name without its folders and suffix; "" of a row's place such as `table.parquet[3]`."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "" if last.endswith("]") else re.sub(r"\.[A-Za-z0-9]{1,5}$", "", last)


@lru_cache(1 << 16)
def singular(word: str) -> str:
    """An English word without its plural ending. Words that are no plural but end like one change with it, so that both
    stay equal: shoes and shoe are `sho`, cookies and cookie `cooky`."""
    word = ODD_PLURALS.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if len(word) < 4 or not word.endswith("e"):
        return word
    if word.endswith(("xe", "she", "che", "sse", "zze", "oe")):  # fox-es, dish-es, peach-es, glass-es, potato-es
        return word[:-1]
    if word.endswith("ie"):  # cherr-ies
        return word[:-2] + "y"
    if word.endswith("use") and word[-4] not in "aeo":  # bus-es, virus-es; not hous-es, caus-es
        return word[:-1] if len(word) == 4 else word[:-2]
    return word


def is_han(character: str) -> bool:
    """Whether a character is of Chinese writing, where each is a word."""
    return _IS_HAN.match(character) is not None


def _content(every: list[str]) -> list[str]:
    return [singular(word) for word in every if word not in FUNCTION_WORDS]


def without_accents(text: str) -> str:
    """A text in lower case with the letters that are typed where a keyboard has no accents."""
    bare = ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", bare).translate(LETTERS)


def all_words(text: str, *, parts: bool, accents: bool = False) -> list[str]:
    """The words of a text in lower case; of runs without blanks and emoji their `parts` too. With `accents` those stay
    that make one character with their letter, so the points of Hebrew and Arabic go in any case."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower().replace("'s", ""))
    found: list[str] = []
    lower = text.casefold()
    bare = ACCENTS.sub("", unicodedata.normalize("NFKC", lower)) if accents else without_accents(lower)
    bare = bare.replace("’", "'").replace("'s", "")
    for cluster in _EMOJI.findall(bare):
        plain = _SKIN.sub("", cluster) or cluster
        found += [plain, *(plain.split("\u200d") if parts and "\u200d" in plain else [])]
    bare = _UNSEEN.sub("", _EMOJI.sub(" ", bare))
    word, cluster_of = _patterns()
    for match in word.finditer(bare):
        run = match.group()
        if match.lastgroup is None:
            found.append(run)
            continue
        signs = cluster_of.findall(run)
        if len(signs) == 1:
            found += signs
            continue
        found += [a + b for a, b in pairwise(signs)]
        if parts:
            found += [sign for sign in signs if is_han(sign)]
    return found


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Of a word (in the group `run` one of a script without blanks), and of a character with its marks."""
    places = (*range(0x300, 0x1D00), *range(0x302A, 0x309B), *range(0xA66F, 0xABF0), *range(0x11000, 0x12000))
    marks = "".join(chr(c) for c in places if unicodedata.category(chr(c)) in ("Mn", "Mc"))
    marks = ACCENTS.sub("", marks)
    without_blanks = f"[{_HAN}{_KANA}{_HANGUL}{_SOUTHEAST}]"
    return (
        re.compile(f"(?P<run>{without_blanks}+)|(?:(?!{without_blanks})[^\\W_]|[{marks}])+|[#*]"),
        re.compile(f".[{marks}]*", re.DOTALL),
    )
