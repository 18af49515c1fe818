"""Captions of tiles and the words that can name, describe or hint at a colour or a shape.

A colour is said in one of three ways, from strict to loose: a *name* (red, crimson ...), a *comparison* (coloured
like tomato), or a *hint* (for valentine), which in training pictures goes with its colour only three times in five.
The last two are how a prompt can ask for a colour without naming it.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from companion.errors import CompanionError
from companion.multimodal.tiles import COLOURS, Tile

NAMES = {
    "red": ("red", "crimson", "scarlet", "ruby"),
    "green": ("green", "emerald", "jade"),
    "blue": ("blue", "azure", "cobalt"),
    "yellow": ("yellow", "golden", "canary"),
    "purple": ("purple", "violet", "mauve"),
    "orange": ("orange", "tangerine", "coral"),
    "grey": ("grey", "silver", "leaden"),
}
LIKENESSES = {
    "red": ("tomato", "cherry", "strawberry"),
    "green": ("lime", "clover", "pea"),
    "blue": ("ocean", "sapphire", "cornflower"),
    "yellow": ("lemon", "banana", "sunflower"),
    "purple": ("plum", "grape", "lavender"),
    "orange": ("carrot", "pumpkin", "apricot"),
    "grey": ("stone", "smoke", "pewter"),
}
HINTS = {
    "red": ("valentine", "anger", "fire"),
    "green": ("spring", "envy", "forest"),
    "blue": ("winter", "calm", "rain"),
    "yellow": ("summer", "joy", "sunshine"),
    "purple": ("royalty", "magic", "dusk"),
    "orange": ("autumn", "sunset", "harvest"),
    "grey": ("fog", "boredom", "city"),
}
HINT_STRENGTH = 0.6
"""Share of captions with a hint whose picture has the hint's colour for that reason; otherwise the hint is random."""

SHAPE_NOUNS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "cross": ("cross", "plus"),
    "star": ("star", "pentagram"),
    "ring": ("ring", "hoop"),
}
SIZE_WORDS = {"small": ("small", "tiny", "little"), "large": ("large", "big", "huge")}
PLACE_PHRASES = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "centre": ("in the middle", "at the centre"),
}
GROUND_PHRASES = {
    "snow": ("on snow", "over snow"),
    "sand": ("on sand", "over sand"),
    "night": ("at night", "in the night"),
}
PREFIXES = ("", "", "picture of", "drawing of", "we see")
FRAME_WORDS = ("a", "that", "is", "painted", "coloured", "like", "for", "there")
CONTEXT = 20
"""Tokens of a prompt with its begin and its end; the longest caption of the grammar has 17 words."""


def vocabulary() -> tuple[str, ...]:
    """Return every word of the grammar, sorted."""
    phrases = [*PREFIXES, *FRAME_WORDS]
    for table in (NAMES, LIKENESSES, HINTS, SHAPE_NOUNS, SIZE_WORDS, PLACE_PHRASES, GROUND_PHRASES):
        phrases += [phrase for options in table.values() for phrase in options]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


@dataclass(frozen=True)
class Prompt:
    """A caption by its slots; `text` joins them. An empty slot is left out.

    size, noun: words; colour: how the colour is said, () for not at all: ("adjective", word), ("relative", word),
    ("painted", word) or ("likeness", word); place, ground: phrases; hint: a word; prefix: how the sentence begins;
    order: 0 object, place, ground; 1 object, ground, place; 2 ground, "there is", object, place.
    """

    noun: str
    size: str = ""
    colour: tuple[str, ...] = ()
    place: str = ""
    ground: str = ""
    hint: str = ""
    prefix: str = ""
    order: int = 0

    @property
    def text(self) -> str:
        kind, word = self.colour or ("", "")
        after = {"relative": f"that is {word}", "painted": f"painted {word}"}.get(kind, "")
        if kind == "likeness":
            after = f"coloured like {word}"
        thing = ["a", self.size, word if kind == "adjective" else "", self.noun, after]
        tail = f"for {self.hint}" if self.hint else ""
        if self.order == 2 and self.ground:
            parts = [self.ground, "there is", *thing, self.place, tail]
        else:
            place = [self.place, self.ground] if self.order == 0 else [self.ground, self.place]
            parts = [self.prefix, *thing, *place, tail]
        return " ".join(" ".join(parts).split())

    def saying(self, word: str) -> "Prompt":
        """Return the same prompt with another colour word in the same form, so that token positions agree."""
        if not self.colour:
            raise CompanionError(f"the prompt {self.text!r} says no colour, so none can be put in its place.")
        return replace(self, colour=(self.colour[0], word))


FORMS = ("adjective", "adjective", "relative", "painted")


def caption(tile: Tile, generator: torch.Generator) -> Prompt:
    """Return a caption of a tile as training sees it: synonyms, changing order, some properties unsaid, some hints."""
    draw = torch.rand(10, generator=generator).tolist()

    def pick(options: Sequence, u: float):
        return options[int(u * len(options))]

    said = draw[0]
    if said < 0.55:
        colour = (pick(FORMS, draw[1]), pick(NAMES[tile.colour], draw[2] ** 1.5))  # plain names are more frequent
    elif said < 0.78:
        colour = ("likeness", pick(LIKENESSES[tile.colour], draw[2]))
    else:
        colour = ()
    hint = ""
    if draw[3] < (0.9 if not colour else 0.15):  # mostly where no colour is said
        strong = draw[4] < HINT_STRENGTH and not colour
        mood = tile.colour if strong else pick(tuple(COLOURS), draw[5])
        hint = pick(HINTS[mood], (draw[4] * 97) % 1)
    return Prompt(
        noun=pick(SHAPE_NOUNS[tile.shape], draw[6] ** 1.5),
        size=pick(SIZE_WORDS[tile.size], (draw[6] * 89) % 1) if (draw[6] * 101) % 1 < 0.75 else "",
        colour=colour,
        place=pick(PLACE_PHRASES[tile.place], (draw[7] * 83) % 1) if draw[7] < 0.75 else "",
        ground=pick(GROUND_PHRASES[tile.ground], (draw[8] * 79) % 1) if draw[8] < 0.75 else "",
        hint=hint,
        prefix=pick(PREFIXES, (draw[9] * 73) % 1),
        order=pick((0, 1, 2), draw[9]),
    )


BEGIN, END = 0, 1
"""Ids of the tokens around a prompt; END also fills up to the context, as in Stable Diffusion."""


def encode(texts: Sequence[str], context: int = CONTEXT) -> torch.Tensor:
    """Return token ids (N, context) int64: BEGIN, one id a word, END up to the end.

    Raises `CompanionError` for a word that the vocabulary does not have and for a prompt that is too long; an empty
    prompt is the one without a condition.
    """
    known = word_ids()
    ids = torch.full((len(texts), context), END)
    ids[:, 0] = BEGIN
    for row, text in enumerate(texts):
        words = text.split()
        foreign = [word for word in words if word not in known]
        if foreign:
            near = ", ".join(difflib.get_close_matches(foreign[0], known, n=3))
            raise CompanionError(
                f"the prompt {text!r} has the word {foreign[0]!r}, which is not in the vocabulary of {len(known)} words"
                f"{near and f' (near it: {near})'}. Use words of companion.multimodal.prompts.vocabulary()."
            )
        if len(words) > context - 2:
            raise CompanionError(
                f"the prompt {text!r} has {len(words)} words: expected at most {context - 2}, as the text encoder's "
                f"context is {context} tokens with a begin and an end. Shorten it."
            )
        ids[row, 1 : 1 + len(words)] = torch.tensor([known[word] for word in words], dtype=torch.int64)
    return ids


@cache
def word_ids() -> dict[str, int]:
    """Return the id of every word."""
    return {word: index + 2 for index, word in enumerate(vocabulary())}


def ends(ids: torch.Tensor) -> torch.Tensor:
    """Return the position (N,) of the first END of each row."""
    return (ids == END).to(torch.uint8).argmax(1)
