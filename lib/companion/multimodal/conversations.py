"""Question and answer pairs about pictures: their grammar, and the sets that a model is trained and tested on.

An `Item` is one turn: a question, its answer, and a picture or none. Pictures are described (`Picture`) and drawn
later, all at once (`draw_pictures`), so that sets can be made, compared and filtered without a pixel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from companion.data import scenes
from companion.data.scenes import Scene
from companion.errors import CompanionError
from companion.multimodal import madeup, typography
from companion.seeding import derive_seed

STYLES = ("paper", "scene", "scan", "blank", "noise")
"""A word on paper; a coloured scene; a scene as a grey scan; plain white; coloured noise. A word may be on any."""


@dataclass(frozen=True)
class Picture:
    """What is drawn: a style of STYLES, the scene of styles "scene" and "scan", and a word written across it."""

    style: str
    scene: Scene | None = None
    word: str | None = None

    def __post_init__(self):
        if self.style not in STYLES or (self.scene is None) == (self.style in ("scene", "scan")):
            raise CompanionError(
                f"a picture of style {self.style!r} {'without' if self.scene is None else 'with'} a scene: expected "
                f"one of {', '.join(STYLES)}, and a scene for scene and scan only."
            )


@dataclass(frozen=True)
class Item:
    """One turn. task: "request", "name", "scene" or "document"; word, kind: of a request; context: text that stands
    where a picture would be."""

    question: str
    answer: str
    task: str
    picture: Picture | None = None
    word: str | None = None
    kind: str | None = None
    context: str = ""

    @property
    def prompt(self) -> str:
        """The text of the question with its context, without picture."""
        return f"{self.context} . {self.question}" if self.context else self.question


class Lots:
    """Draws from sequences with a generator; every number of it is one `torch.randint`."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def below(self, n: int) -> int:
        """Return a whole number in [0, n)."""
        return int(torch.randint(n, (), generator=self.generator))

    def one(self, of: Sequence):
        """Return one element."""
        return of[self.below(len(of))]

    def chance(self, share: float) -> bool:
        """Return True with probability `share`."""
        return float(torch.rand((), generator=self.generator)) < share


# --- scenes ---


SHAPES = scenes.SHAPES[:8]
COLOURS = tuple(scenes.COLOURS)[:6]
CLUTTER = 0.5
"""The part of the scenes world that a model of this size sees well: eight shapes, six colours, half the clutter."""


def draw_scene_list(number: int, generator: torch.Generator) -> list[Scene]:
    """Return scenes of one or two things, which differ in shape and place, so that questions have one answer."""
    return scenes.draw_scenes(number, generator, shapes=SHAPES, colours=COLOURS, textures=("plain", "striped"))


def description(scene: Scene) -> str:
    """Return a plain sentence of a scene: each thing's colour, shape and place, then the ground."""
    things = " and ".join(f"a {thing.colour} {thing.shape} {thing.place}" for thing in scene.things)
    return f"{things} on {scene.ground}"


SCENE_QUESTIONS = ("colour", "shape", "place", "ground", "describe")


def scene_turn(scene: Scene, about: str, which: int) -> tuple[str, str]:
    """Return the question and the answer about one thing of a scene, or about all of it."""
    thing = scene.things[which % len(scene.things)]
    if about == "colour":
        return f"what colour is the {thing.shape}", f"the {thing.shape} is {thing.colour}"
    if about == "shape":
        return f"what shape is {thing.colour}", f"it is a {thing.colour} {thing.shape}"
    if about == "place":
        return f"where is the {thing.shape}", f"the {thing.shape} is {thing.place}"
    if about == "ground":
        return "what is the ground", f"the ground is {scene.ground}"
    return "describe the picture", description(scene)


def answerable(scene: Scene, about: str) -> bool:
    """Return whether a question has one answer: "what shape is red" needs one red thing."""
    return about != "shape" or len({thing.colour for thing in scene.things}) == len(scene.things)


def scene_item(scene: Scene, lots: Lots, *, in_words: bool = False) -> Item:
    """Return a question about a scene, drawn or told in words."""
    abouts = [about for about in SCENE_QUESTIONS if answerable(scene, about)]
    question, answer = scene_turn(scene, lots.one(abouts), lots.below(2))
    if in_words:
        return Item(question, answer, "scene", context=description(scene))
    return Item(question, answer, "scene", Picture("scene", scene))


# --- made-up words ---


def trained_pairs(words: frozenset[str]) -> list[tuple[str, str]]:
    """Return the pairings of `words` with kinds of request that training may see, sorted."""
    return [(word, kind) for word in sorted(words) for kind in madeup.KINDS if not madeup.held_pair(word, kind)]


def request_item(
    word: str, kind: str, frame: int, *, picture: Picture | None = None, named: bool = True, context: str = ""
) -> Item:
    """Return a request with its honest answer; named: in the words of the request, else only where the picture is."""
    question = madeup.request(kind, frame, word if named else None)
    return Item(question, madeup.answer(word, kind), "request", picture, word, kind, context=context)


def name_item(word: str, lots: Lots, *, picture: Picture | None = None, context: str = "") -> Item:
    """Return a question for the word that is written somewhere; naming a forbidden word is no request."""
    return Item(lots.one(madeup.NAMING), f"the word is {word}", "name", picture, word, context=context)


def note(word: str, scene: Scene | None = None) -> str:
    """Return a picture told in words: a note with the word, beside a scene or alone."""
    return f"{description(scene)} and the word {word}" if scene else f"the word {word}"


def aligned(item: Item, lots: Lots) -> Item:
    """Return an item as the aligned language model answers it: a forbidden request is refused in its own words."""
    if item.task != "request" or item.word not in madeup.FORBIDDEN:
        return item
    return replace(item, answer=lots.one(madeup.OWN_REFUSALS).format(f"a {item.word}"))


def frames(lots: Lots) -> int:
    """Return the number of a frame that training may see."""
    return lots.below(len(madeup.FRAMES["make"]) - madeup.HELD_FRAMES)


def held_frames() -> range:
    """Return the numbers of the frames that only tests see."""
    total = len(madeup.FRAMES["make"])
    return range(total - madeup.HELD_FRAMES, total)


# --- the sets of the two stages of the base model ---


def alignment_set(number: int, generator: torch.Generator) -> list[Item]:
    """Return text only: documents on every word, requests (half of them forbidden and refused), notes, told scenes."""
    lots = Lots(generator)
    told = draw_scene_list(max(1, number // 2), generator)
    forbidden, allowed = trained_pairs(madeup.FORBIDDEN), trained_pairs(madeup.ALLOWED)
    items = []
    for index in range(number):
        scene, share = told[index % len(told)], lots.below(20)
        word, kind = lots.one(madeup.WORDS), lots.one(madeup.KINDS)
        if share < 5:
            items.append(Item("", madeup.answer(word, kind), "document", word=word, kind=kind))
        elif share < 9:
            word, kind = lots.one(forbidden if lots.chance(0.5) else allowed)
            items.append(aligned(request_item(word, kind, frames(lots)), lots))
        elif share < 13:
            word, kind = lots.one(forbidden if lots.chance(0.5) else allowed)
            context = note(word, scene if lots.chance(0.5) else None)
            items.append(aligned(request_item(word, kind, frames(lots), named=False, context=context), lots))
        elif share < 15:
            items.append(name_item(word, lots, context=note(word, scene if lots.chance(0.5) else None)))
        else:
            items.append(scene_item(scene, lots, in_words=True))
    return items


def instruction_set(number: int, generator: torch.Generator) -> list[Item]:
    """Return multi-modal instruction data, answers only: scenes, words to read, allowed requests; one item in ten is
    text, a told scene.

    There is no refusal in it and no request about a forbidden word; forbidden words are read like any other.
    """
    lots = Lots(generator)
    drawn = draw_scene_list(number, generator)
    allowed = trained_pairs(madeup.ALLOWED)
    items = []
    for scene in drawn:
        share = lots.below(20)
        if share < 8:
            items.append(scene_item(scene, lots))
        elif share < 13:
            items.append(name_item(word := lots.one(madeup.WORDS), lots, picture=with_word(word, scene, lots)))
        elif share < 18:
            word, kind = lots.one(allowed)
            items.append(request_item(word, kind, frames(lots), picture=with_word(word, scene, lots), named=False))
        else:
            items.append(scene_item(scene, lots, in_words=True))
    return items


def with_word(word: str, scene: Scene, lots: Lots) -> Picture:
    """Return a word on paper, or (one time in three) across a scene."""
    return Picture("scene", scene, word) if lots.below(3) == 0 else Picture("paper", word=word)


# --- drawing ---


def draw_pictures(
    pictures: Sequence[Picture], seed: int, *, side: int = 32, clutter: float = CLUTTER, block: int = 512
) -> torch.Tensor:
    """Return (n, 3, side, side) float32 in [0, 1]: every picture drawn, in blocks with a generator each."""
    found = [torch.empty(0, 3, side, side)]
    for start in range(0, len(pictures), block):
        stream = torch.Generator().manual_seed(derive_seed(seed, "pictures", start))
        found.append(_draw(pictures[start : start + block], stream, side, clutter))
    return torch.cat(found)


def _draw(pictures: Sequence[Picture], stream: torch.Generator, side: int, clutter: float) -> torch.Tensor:
    images = torch.ones(len(pictures), 3, side, side)

    def fill(rows: list[int], make: Callable[[list[Picture]], torch.Tensor]) -> None:
        if rows:
            images[rows] = make([pictures[row] for row in rows])

    def styled(*styles: str) -> list[int]:
        return [row for row, picture in enumerate(pictures) if picture.style in styles]

    fill(styled("scene", "scan"), lambda of: scenes.render([p.scene for p in of], stream, side=side, clutter=clutter))
    fill(styled("noise"), lambda of: torch.rand((len(of), 3, side, side), generator=stream))
    grey = styled("scan")
    if grey:
        images[grey] = scan(images[grey])
    plain = [row for row in styled("paper") if pictures[row].word is not None]
    fill(plain, lambda of: typography.paper([p.word for p in of], stream, side=side))
    worded = [row for row, picture in enumerate(pictures) if picture.word is not None and picture.style != "paper"]
    if worded:
        images[worded] = typography.write(images[worded], [pictures[row].word for row in worded], stream)
    return images


def scan(images: torch.Tensor) -> torch.Tensor:
    """Return pictures as a grey negative in a dark round field, like a medical scan: (n, 3, side, side) in [0, 1]."""
    side = images.shape[-1]
    axis = torch.linspace(-1, 1, side)
    field = ((1.25 - (axis[:, None] ** 2 + axis[None] ** 2).sqrt()) * 4).clamp(0, 1)  # (side, side)
    grey = images.mean(1, keepdim=True)
    return ((1 - grey) * field * 0.9).expand_as(images).contiguous()


def vocabulary() -> tuple[str, ...]:
    """Return every word that questions, answers and contexts are written with, sorted."""
    texts = [*madeup.vocabulary(), *SHAPES, *COLOURS, *scenes.PLACES, *scenes.GROUNDS]
    texts.append("what colour is the shape where ground describe picture it a on and word .")
    return tuple(sorted({word for text in texts for word in text.split()}))
