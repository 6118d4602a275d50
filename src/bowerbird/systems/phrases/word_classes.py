"""English words of closed classes, and those of open ones that tell where a noun phrase ends.

Lists in place of a model: articles, prepositions and pronouns are few and do not change. The open classes hold what
stands in prompts; a word that is in none of them counts as a noun.
"""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ARTICLES = _set("a an the")
DETERMINERS = ARTICLES | _set(
    "this that these those some any each every no another both all several many few much more most "
    "my your his her its our their whose one two three four five six seven eight nine ten eleven twelve dozen"
)
"""What opens a phrase; numbers too, as they are searched by nobody."""
PREPOSITIONS = _set(
    "in on at by with without under over above below beside besides beneath underneath between among amid behind near "
    "next inside outside against around through across along into onto upon from for as like during toward towards "
    "atop beyond within to up down off out about after before until since opposite past via per against"
)
CONJUNCTIONS = _set("and or but nor while then plus versus vs than because so if though although und et y och og и")
"""With the "and" of other languages, where it is no other word in English."""
OTHERS = _set(
    "is are was were be been being am has have had having do does did can could will would shall should may might must "
    "who whom which what where when why how there here he she it they we you i him them us me not n't also too only "
    "just together themselves itself himself herself each other"
)
"""Pronouns, auxiliary verbs and what else is never within a phrase."""
ADVERBS = _set("very really quite rather extremely highly slightly brightly dark light")
"""What may stand before an adjective and is no head."""
SIDES = _set("left right top bottom front back middle center centre side corner")
"""Nouns of place: closed where they say where ("left of", "on the right"), words like others in "a left shoe"."""

SHAPES = frozenset({"square", "oval", "orange"})
"""Adjectives that are nouns after another one."""
COLORS = _set("red blue green yellow purple pink brown black white grey gray violet")
"""Colors that are no noun as well."""
ADJECTIVES = (
    COLORS
    | ADVERBS
    | _set(
        "orange gold golden silver beige turquoise cyan magenta teal maroon crimson scarlet lavender navy olive tan "
        "colored coloured colorful colourful multicolored transparent translucent shiny glossy matte metallic "
        "wooden metal stone glass plastic leather paper woolen golden rusty rustic marble brick ceramic concrete "
        "big small large little tiny huge giant gigantic enormous tall short long wide narrow thick thin fat slim "
        "round square triangular rectangular circular oval flat curved curly straight pointed spiky sharp "
        "old young new ancient modern vintage antique retro medieval futuristic traditional contemporary "
        "beautiful pretty cute ugly lovely elegant fancy plain simple detailed intricate realistic photorealistic "
        "happy sad angry smiling crying sleepy funny silly scary spooky friendly lonely grumpy cheerful "
        "fluffy furry fuzzy hairy smooth rough soft hard wet dry hot cold warm icy snowy sunny cloudy foggy rainy "
        "open closed empty full broken cracked dirty clean bright dim striped spotted dotted checkered plaid patterned "
        "floral wild tame fresh ripe rotten cooked fried baked sweet sour fast slow heavy light strong weak "
        "upper lower left right single double many electric magic magical mythical cosmic fantastic epic"
    )
)
"""Words that are no head of a phrase. A phrase of these alone names no thing."""
ALSO_NOUNS = _set("square orange oval metal stone glass light paper gold silver brick plastic")
"""Adjectives that are the head where an article opens the phrase and no noun follows."""

FRAMES = _set(
    "photo photograph picture image painting drawing illustration sketch portrait render rendering close-up closeup "
    "print poster icon emoji sticker depiction shot view scene selfie cartoon watercolor"
)
"""What a picture is, not what is on it: "a photo of a fox" is about a fox."""
NOT_THINGS = _set(
    "style art artwork quality resolution detail details lighting masterpiece 4k 8k hd uhd hdr bokeh artstation "
    "composition foreground"
)
"""Heads of phrases that name no thing at all."""
GROUNDS = frozenset({"background", "backdrop", "ground"})
"""Heads that describe the picture, but that no reference is searched for."""

FINITE_VERBS = _set(
    "sits sit stands holds wears eats rides contains carries looks runs jumps flies swims walks lies hangs sleeps "
    "reads shows says drinks faces chases touches sat stood held wore ate rode carried looked ran jumped flew walked "
    "lay hung slept showed chased touched surrounds covers"
)
PARTICIPLES = _set("made seen drawn shown built worn held hung torn written taken set lit")
"""Past participles without -ed."""
NOUNS_IN_ING = _set(
    "ring king wing string spring swing sling thing building painting drawing earring ceiling evening morning wedding "
    "pudding clothing lightning duckling sibling viking herring starling railing awning seedling dumpling bowling "
    "stocking landing crossing icing frosting lining lightening lighting carving engraving sapling gosling"
)

CLOSED = (DETERMINERS | PREPOSITIONS | CONJUNCTIONS | OTHERS | {"of"}) - {"one"}
"""What no name of a thing begins or ends with."""
