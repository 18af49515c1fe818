"""Captions of the scenes world: a small English grammar that knows what each of its words says of the scene.

A caption is a tree of clauses and slots, so that a program can take it apart: a true caption made shorter
(`sub_caption`), one made false in exactly one slot (`false_caption`), and whether a caption holds of a scene (`holds`).
Verbs follow from the place (what is at the top floats, what is at the bottom rests, anything else stands), relations
from the places of two things, so that nothing said is idle.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch

from companion.data.scenes import COLOURS, GROUNDS, PLACES, POSITIONS, SHAPES, SIZES, TEXTURES, Scene
from companion.errors import CompanionError

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet", "ruby", "cherry"),
    "orange": ("tangerine", "apricot"),
    "yellow": ("golden", "canary"),
    "green": ("emerald", "lime"),
    "teal": ("turquoise", "cyan"),
    "blue": ("azure", "cobalt"),
    "purple": ("violet", "lilac"),
    "grey": ("silver", "ashen"),
    "circle": ("disc",),
    "square": ("box", "block"),
    "triangle": ("wedge",),
    "cross": ("plus",),
    "star": ("sparkle",),
    "ring": ("hoop", "loop"),
    "heart": ("valentine",),
    "moon": ("crescent",),
    "arrow": ("pointer",),
    "diamond": ("rhombus",),
    "hexagon": ("honeycomb",),
    "bolt": ("flash",),
    "plain": ("solid",),
    "striped": ("banded",),
    "dotted": ("spotted", "speckled"),
    "checked": ("chequered",),
    "small": ("tiny", "little"),
    "large": ("big", "huge"),
    "centre": ("middle",),
    "bottom": ("foot",),
    "sand": ("beach", "desert"),
    "sea": ("ocean", "water"),
    "grass": ("meadow", "lawn"),
    "brick": ("wall",),
    "night": ("darkness",),
    "snow": ("frost",),
    "floats": ("hovers", "hangs"),
    "rests": ("lies", "sits"),
    "stands": ("appears", "waits"),
    "above": ("over",),
    "below": ("under",),
    "beside": ("near", "by"),
}
INDIRECT: dict[str, tuple[str, ...]] = {  # a thing's colour after its noun, or a phrase instead of its noun
    "red": ("the colour of a ripe tomato", "the colour of a fire truck"),
    "orange": ("the colour of a fresh carrot",),
    "yellow": ("the colour of a ripe lemon",),
    "green": ("the colour of a fresh leaf",),
    "teal": ("the colour of a calm lagoon",),
    "blue": ("the colour of a clear sky",),
    "purple": ("the colour of a ripe plum",),
    "grey": ("the colour of a wet stone",),
    "circle": ("thing round as a coin",),
    "triangle": ("thing with three corners",),
    "square": ("thing with four corners",),
    "hexagon": ("thing with six corners",),
    "star": ("thing with five points",),
}
VERBS = {"top": "floats", "bottom": "rests", "left": "stands", "right": "stands", "centre": "stands"}
RELATIONS = ("above", "below", "beside")
OPENINGS = ("a picture of", "a photo of", "a drawing of", "a painting of", "this is", "here is")
LONGEST = 22  # words of a caption: with the begin and end tokens it fills a context of 24
KINDS = ("size", "colour", "texture", "shape", "verb", "place", "relation", "ground")
VALUES: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "shape": SHAPES,
    "verb": ("floats", "rests", "stands"),
    "place": PLACES,
    "relation": RELATIONS,
    "ground": GROUNDS,
}
_PART_OF_KIND = {
    "size": "adjective",
    "colour": "adjective",
    "texture": "adjective",
    "shape": "noun",
    "verb": "verb",
    "place": "noun",
    "relation": "preposition",
    "ground": "noun",
}
_FUNCTION_WORDS = {
    **dict.fromkeys(("a", "an", "the", "one", "this", "three", "four", "five", "six"), "determiner"),
    **dict.fromkeys(("on", "at", "in", "of", "with", "as"), "preposition"),
    "and": "conjunction",
    "it": "pronoun",
    "here": "adverb",
    **dict.fromkeys(("is", "shows"), "verb"),
    **dict.fromkeys(("ripe", "fresh", "calm", "clear", "wet", "round"), "adjective"),
    **dict.fromkeys(("picture", "photo", "drawing", "painting", "colour", "thing", "corners", "points"), "noun"),
    **dict.fromkeys(("tomato", "fire", "truck", "carrot", "lemon", "leaf", "lagoon"), "noun"),
    **dict.fromkeys(("sky", "plum", "stone", "coin"), "noun"),
}


def _parts() -> dict[str, str]:
    parts = dict(_FUNCTION_WORDS)
    for kind, values in VALUES.items():
        for value in values:
            for word in (value, *SYNONYMS.get(value, ())):
                parts[word] = _PART_OF_KIND[kind]
    return dict(sorted(parts.items()))


PARTS: dict[str, str] = _parts()
VOCABULARY: tuple[str, ...] = tuple(PARTS)
KIND_OF: dict[str, str] = {
    word: kind for kind, values in VALUES.items() for value in values for word in (value, *SYNONYMS.get(value, ()))
}
"""What a content word speaks of: "crimson" -> "colour"."""
MEANING: dict[str, str] = {
    word: value for values in VALUES.values() for value in values for word in (value, *SYNONYMS.get(value, ()))
}
"""The plain word that a content word stands for: "crimson" -> "red"."""


@dataclass(frozen=True)
class Slot:
    """A word of a caption, or a phrase that stands for one ("the colour of a ripe tomato").

    part: its part of speech. says: which property of the scene it gives: "things.0.colour", "ground",
    "things.1.relation.0" (thing 1's relation to thing 0), or "" for a function word. value: the plain word that is
    said ("red" for "crimson"), "" for a function word.
    """

    word: str
    part: str
    says: str = ""
    value: str = ""

    @property
    def kind(self) -> str:
        """One of KINDS, or "" for a function word."""
        return "" if not self.says else self.says if self.says == "ground" else self.says.split(".")[2]


@dataclass(frozen=True)
class Caption:
    """Clauses of slots, in order; scene: what it was made to describe, or None."""

    clauses: tuple[tuple[Slot, ...], ...]
    scene: Scene | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots in order."""
        return tuple(slot for clause in self.clauses for slot in clause)

    @property
    def content(self) -> tuple[Slot, ...]:
        """The slots that say something of the scene."""
        return tuple(slot for slot in self.slots if slot.says)

    @property
    def text(self) -> str:
        """The caption as one line of lower-case words."""
        return " ".join(slot.word for slot in self.slots)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the text."""
        return tuple(self.text.split())


def with_article(noun: str) -> str:
    """Return "a star", "an arrow"."""
    return f"{_article(noun)} {noun}"


def templates(noun: str) -> list[str]:
    """Return the eight zero-shot prompts of a noun (or of "red star", ...).

    >>> templates("arrow")[0]
    'a picture of an arrow'
    """
    return [
        *(f"{opening} {with_article(noun)}" for opening in OPENINGS),
        with_article(noun),
        f"a picture of one {noun}",
    ]


def relation(scene: Scene, one: int, other: int) -> str:
    """Return how thing `one` lies to thing `other`: "above", "below" or "beside"."""
    rise = POSITIONS[scene.things[one].place][1] - POSITIONS[scene.things[other].place][1]
    return "above" if rise < -0.2 else "below" if rise > 0.2 else "beside"


def facts(scene: Scene) -> dict[str, str]:
    """Return everything that can be said of a scene: "things.0.colour" -> "red", ..., "ground" -> "sand"."""
    found = {"ground": scene.ground}
    for i, thing in enumerate(scene.things):
        for kind in ("size", "colour", "texture", "shape", "place"):
            found[f"things.{i}.{kind}"] = getattr(thing, kind)
        found[f"things.{i}.verb"] = VERBS[thing.place]
        for j in range(len(scene.things)):
            if i != j:
                found[f"things.{i}.relation.{j}"] = relation(scene, i, j)
    return found


def holds(caption: Caption, scene: Scene) -> bool:
    """Whether a caption is true of a scene: its things can be matched with things of which all that is said is true."""
    spoken = sorted({int(slot.says.split(".")[1]) for slot in caption.content if slot.says != "ground"})
    known = facts(scene)
    for chosen in permutations(range(len(scene.things)), len(spoken)):
        number = {str(i): str(j) for i, j in zip(spoken, chosen, strict=True)}
        if all(known.get(_renamed(slot.says, number)) == slot.value for slot in caption.content):
            return True
    return False


def _renamed(says: str, number: dict[str, str]) -> str:
    return ".".join(number.get(piece, piece) for piece in says.split("."))


def describe(
    scene: Scene,
    generator: torch.Generator,
    *,
    synonyms: float = 0.3,
    mentions: Collection[str] | None = None,
    indirect: float = 0.0,
    openings: float = 0.25,
    longest: int = LONGEST,
) -> Caption:
    """Describe a scene, one clause a thing, in the order of its things.

    synonyms: how often a plain word is replaced by one of its synonyms. mentions: which KINDS are said besides the
    shape; None draws them for each thing: colour mostly, the others about every second time. indirect: how often a
    colour or shape is said by a phrase of INDIRECT. openings: how often a caption opens with one of OPENINGS and has no
    verb. longest: words at most; what does not fit is left out, the last thing's least important mention first.
    A caption takes the same number of draws from the generator whatever it says. Raises CompanionError for an unknown
    kind and for a scene that `longest` words cannot describe even by its nouns.
    """
    if mentions is not None and (unknown := sorted(set(mentions) - set(KINDS))):
        raise CompanionError(f"captions cannot mention {unknown[0]!r}; what can be mentioned: {', '.join(KINDS)}.")
    rolls = iter(torch.rand(8 + 4 * 24, generator=generator, dtype=torch.float64).tolist())
    opening = _pick(OPENINGS, next(rolls)) if next(rolls) < openings else ""
    known = facts(scene)
    said = [_mentions(i, known, rolls, synonyms, mentions, indirect) for i in range(len(scene.things))]
    ground_roll, ground_synonym = next(rolls), next(rolls)
    ground = ground_roll < 0.55 if mentions is None else "ground" in mentions
    if ground:
        said[0]["ground"] = Slot(
            _word(scene.ground, ground_synonym, next(rolls), synonyms), "noun", "ground", scene.ground
        )
    caption = _built(said, opening, scene)
    while len(caption.words) > longest:
        if not _shorten(said):
            if not opening:
                raise CompanionError(
                    f"captions: {len(scene.things)} things cannot be described in {longest} words; allow at least "
                    f"{len(caption.words)}."
                )
            opening = ""
        caption = _built(said, opening, scene)
    return caption


def describe_all(scenes: Iterable[Scene], generator: torch.Generator, **options: object) -> list[Caption]:
    """Describe each scene in turn; see `describe`."""
    return [describe(scene, generator, **options) for scene in scenes]


def _pick(words: Sequence[str], roll: float) -> str:
    return words[int(roll * len(words))]


def _word(value: str, roll: float, choice: float, synonyms: float) -> str:
    others = SYNONYMS.get(value, ())
    return _pick(others, choice) if others and roll < synonyms else value


_USUAL = {"size": 0.45, "colour": 0.9, "texture": 0.45, "verb": 0.5, "place": 0.5, "relation": 0.5}


def _mentions(
    i: int,
    known: dict[str, str],
    rolls: Iterator[float],
    synonyms: float,
    mentions: Collection[str] | None,
    indirect: float,
) -> dict[str, Slot]:
    """What is said of thing i, by kind. Takes 23 rolls."""
    said = {}
    for kind in ("size", "colour", "texture", "shape", "verb", "place", "relation"):
        shown, synonym, choice = next(rolls), next(rolls), next(rolls)
        says = f"things.{i}.{kind}" + (".0" if kind == "relation" else "")
        if says not in known:
            continue
        if kind != "shape" and not (shown < _USUAL[kind] if mentions is None else kind in mentions):
            continue
        if kind == "relation" and i != 1:  # "it" is the thing of the clause before, and only thing 0 is related to
            continue
        value = known[says]
        said[kind] = Slot(_word(value, synonym, choice, synonyms), _PART_OF_KIND[kind], says, value)
    for kind in ("colour", "shape"):
        roll = next(rolls)
        phrases = INDIRECT.get(known[f"things.{i}.{kind}"], ()) if kind in said else ()
        if phrases and roll < indirect:
            said[kind] = replace(said[kind], word=phrases[int(roll / indirect * len(phrases))])
    if "relation" in said:
        said.pop("place", None)
    return said


_DROPPED_FIRST = ("texture", "size", "verb", "ground", "place", "relation", "colour")


def _shorten(said: list[dict[str, Slot]]) -> bool:
    for kind in _DROPPED_FIRST:
        for mentioned in reversed(said):
            if kind in mentioned:
                del mentioned[kind]
                return True
    for mentioned in reversed(said):
        if " " in mentioned["shape"].word:
            mentioned["shape"] = replace(mentioned["shape"], word=mentioned["shape"].value)
            return True
    return False


def _built(said: list[dict[str, Slot]], opening: str, scene: Scene | None) -> Caption:
    """Put what is said of each thing (kind -> slot) into clauses."""
    clauses = []
    for number, mentioned in enumerate(said):
        clause = _clause(mentioned, verb=not opening)
        if number == 0 and opening:
            clause = [*_function(opening), *clause]
        elif number:
            clause = [*_function("and"), *clause]
        clauses.append(tuple(clause))
    return Caption(tuple(clauses), scene)


def _function(text: str) -> list[Slot]:
    return [Slot(word, PARTS[word]) for word in text.split()]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _clause(said: dict[str, Slot], verb: bool) -> list[Slot]:
    before, after = [], []
    for kind in ("size", "colour", "texture"):
        if kind in said:
            (after if " " in said[kind].word else before).append(said[kind])
    phrase = [*before, said["shape"], *after]
    clause = [*_function(_article(phrase[0].word)), *phrase]
    if "verb" in said and verb:
        clause.append(said["verb"])
    if "relation" in said:
        clause += [said["relation"], *_function("it")]
    if "place" in said:
        preposition = {"left": "on", "right": "on", "top": "at", "bottom": "at", "centre": "in"}[said["place"].value]
        clause += [*_function(f"{preposition} the"), said["place"]]
    if "ground" in said:
        clause += [*_function("of the" if "place" in said else "on the"), said["ground"]]
    return clause


def _taken_apart(caption: Caption) -> tuple[list[dict[str, Slot]], str]:
    """What is said of each thing, by kind, and the opening: the inverse of `_built`."""
    said = [{slot.kind: slot for slot in clause if slot.says} for clause in caption.clauses]
    if not said or any("shape" not in mentioned for mentioned in said):
        raise CompanionError(f"captions: {caption.text!r} has a clause without a noun and cannot be taken apart.")
    first = caption.clauses[0]
    content = next(i for i, slot in enumerate(first) if slot.says)
    return said, " ".join(slot.word for slot in first[: content - 1])


def sub_caption(caption: Caption, generator: torch.Generator, *, keep: float = 0.6) -> Caption:
    """Return a shorter caption that says part of what `caption` says, and so is true wherever it is.

    One clause is kept, its noun always, each other mention with probability `keep`, a relation never (what it relates
    to would be missing). A caption that says nothing but a noun comes back as it is, without its opening.
    """
    said, opening = _taken_apart(caption)
    rolls = torch.rand(1 + len(KINDS), generator=generator, dtype=torch.float64).tolist()
    chosen = said[int(rolls[0] * len(said))]
    kept = {
        kind: chosen[kind]
        for kind, roll in zip(KINDS, rolls[1:], strict=True)
        if kind in chosen and kind != "relation" and (kind == "shape" or roll < keep)
    }
    if opening:
        kept.pop("verb", None)
    return _built([kept], "", caption.scene)


def false_caption(
    caption: Caption,
    generator: torch.Generator,
    *,
    exclude: Collection[str] = (),
    synonyms: float = 0.3,
    kinds: Collection[str] = KINDS,
) -> Caption:
    """Return the caption with one content slot resampled so that it is no longer true.

    The new word has the same part of speech and speaks of the same kind (a colour for a colour), and its value differs;
    when the caption knows its scene, the new caption does not hold of it. exclude: words that may not come in, plain or
    synonyms (the target's word, in the chapters). kinds: which kinds of slots may be changed.
    Raises CompanionError when every possible change is excluded or would be true.
    """
    said, opening = _taken_apart(caption)
    choices = []
    for number, mentioned in enumerate(said):
        for kind, slot in mentioned.items():
            if kind in kinds:
                choices += [(number, kind, value) for value in VALUES[kind] if value != slot.value]
    order = torch.randperm(len(choices), generator=generator).tolist()
    roll, choice = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    for place in order:
        number, kind, value = choices[place]
        words = [word for word in (value, *SYNONYMS.get(value, ())) if word not in exclude]
        if not words:
            continue
        word = words[0] if roll >= synonyms else _pick(words, choice)
        slot = replace(said[number][kind], word=word, value=value)
        changed = [{**mentioned, kind: slot} if i == number else mentioned for i, mentioned in enumerate(said)]
        made = _built(changed, opening, caption.scene)
        if caption.scene is None or not holds(made, caption.scene):
            return made
    raise CompanionError(
        f"captions: no word can make {caption.text!r} false: kinds {sorted(kinds)}, {len(exclude)} words excluded."
    )
