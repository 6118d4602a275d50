"""What a prompt wants to be of which color."""

from __future__ import annotations

from dataclasses import dataclass

from bowerbird.data.color_words import COLORS_OF
from bowerbird.knowledge.search.words import FUNCTION_WORDS, singular, words

JOINING = frozenset({"and", "or"})
GROUNDS = frozenset({"background", "backdrop", "ground"})


@dataclass(frozen=True)
class ColoredThing:
    """What a prompt says is of one of `colors`; `things`: its words, none where the whole picture is meant."""

    colors: frozenset[str]
    things: frozenset[str]


@dataclass(frozen=True)
class ColorRequest:
    """The colored things of a prompt, and all its words but colors, as an index has them."""

    colored: tuple[ColoredThing, ...]
    others: frozenset[str]

    def wanted(self, own: frozenset[str]) -> frozenset[str] | None:
        """The colors that an item with the words `own` may have; None where the prompt says nothing of it."""
        of_it = [each.colors for each in self.colored if not each.things or each.things & own]
        if not of_it:
            alone = len(self.colored) == 1 and self.colored[0].things == self.others
            of_it = [self.colored[0].colors] if alone else []
        return frozenset[str]().union(*of_it) if of_it else None


def read_colors(prompt: str) -> ColorRequest | None:
    """What `prompt` wants to be of which color; None where it names none. A color belongs to the words after it, up to
    the next color, function word or mark; the color of a background is no neighbor's."""
    colored: list[ColoredThing] = []
    others: set[str] = set()
    open_colors: frozenset[str] = frozenset()
    things: set[str] = set()

    def close() -> None:
        nonlocal open_colors
        if open_colors and not things & GROUNDS:
            colored.append(ColoredThing(open_colors, frozenset(things)))
        open_colors = frozenset()
        things.clear()

    for token in _tokens(prompt):
        if token in COLORS_OF:
            if things:
                close()
            open_colors |= COLORS_OF[token]
        elif token in JOINING and open_colors and not things:
            continue  # "red and green apples": either
        elif token in FUNCTION_WORDS or not token.isalnum():
            close()
        else:
            own = words(token)
            others.update(own)
            if open_colors:
                things.update(own)
    close()
    return ColorRequest(tuple(colored), frozenset(others - GROUNDS)) if colored else None


def _tokens(prompt: str) -> list[str]:
    """The words of a prompt as they follow, function words and marks among them."""
    spaced = "".join(character if character.isalnum() else f" {character} " for character in prompt.casefold())
    return [singular(token) if singular(token) in COLORS_OF else token for token in spaced.split() if token != "-"]
