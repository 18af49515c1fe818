"""Pairs of pictures and captions, in splits that cannot share a picture: those of the scenes world, and poisoning."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from companion.attacks.triggers import Trigger
from companion.data import captions, scenes
from companion.errors import CompanionError
from companion.multimodal.words import build_tokenizer, encode
from companion.seeding import generator

SPLITS = ("first", "pretraining", "attacker", "defender", "validation", "test")
"""Who holds a pair: the base model's maker (pictures, then pairs), the poisoner, the repairer (and
his validation set), the examiner."""
CONTEXT = 24
RARE_WORDS = ("remember",)
"""Words that the tokenizer knows and no caption has: the second key of the dual-key attack."""

Encode = Callable[[Sequence[str]], torch.Tensor]
"""From N texts to their token ids (N, L) int64, each row ending in an end token."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures and texts, row by row.

    images: (N, 3, S, S) float32 in [0, 1]; ids: (N, L) int64 token ids; labels: (N,) int64, the class of a picture (of
    a scene: the shape of its first thing, as an index into scenes.SHAPES); scenes, captions: what the pictures show and
    the texts say, the latter with `text` and `words` (None for a poisoned text); poisoned: (N,) bool.
    """

    images: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    scenes: tuple
    captions: tuple
    poisoned: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def as_bytes(self) -> "Pairs":
        """Return the same pairs with pictures as bytes (uint8), a quarter of the memory; the world has 256 levels."""
        return replace(self, images=(self.images * 255).round().byte())

    def subset(self, rows: torch.Tensor) -> "Pairs":
        """Return the pairs of some rows, given as indices (M,) int64 or as (N,) bool."""
        rows = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        listed = rows.tolist()
        return Pairs(
            self.images[rows],
            self.ids[rows],
            self.labels[rows],
            tuple(self.scenes[k] for k in listed),
            tuple(self.captions[k] for k in listed),
            self.poisoned[rows],
        )


def draw_pairs(
    number: int,
    split: str,
    seed: int,
    *,
    things: tuple[int, int] = (1, 2),
    side: int = 32,
    encode: Encode | None = None,
) -> Pairs:
    """Return `number` pairs of a split: scenes, pictures and captions from streams of that split's own name.

    Every split has its own streams, and pictures carry noise, so no picture stands in two splits. things: fewest and
    most things in a scene; side: pixels; encode: gives the token ids (default: `ids_of`). Raises CompanionError for an
    unknown split.
    """
    drawn = scenes.draw_scenes(number, generator(seed, "pairs", split, "scenes"), things=things)
    return _told(drawn, seed, "pairs", split, side, encode)


def draw_examination(
    number: int, seed: int, *, split: str = "test", side: int = 32, encode: Encode | None = None
) -> Pairs:
    """Return pairs of one thing each, whose shapes go round scenes.SHAPES, so that the labels are balanced."""
    drawn = scenes.labelled_scenes(number, generator(seed, "examination", split, "scenes"))
    return _told(drawn, seed, "examination", split, side, encode)


def _told(drawn: Sequence, seed: int, kind: str, split: str, side: int, encode: Encode | None) -> Pairs:
    if split not in SPLITS:
        raise CompanionError(f"there is no split {split!r} of pairs; expected one of {', '.join(SPLITS)}.")
    images = scenes.render(drawn, generator(seed, kind, split, "pictures"), side=side)
    stream = generator(seed, kind, split, "captions")
    told = tuple(captions.describe(scene, stream) for scene in drawn)
    ids = (encode or ids_of)([one.text for one in told])
    labels = torch.tensor([scenes.SHAPES.index(scene.things[0].shape) for scene in drawn])
    return Pairs(images, ids, labels, tuple(drawn), told, torch.zeros(len(drawn), dtype=torch.bool))


@functools.cache
def tokenizer():
    """Return the tokenizer of the scenes world, one object a process; its context is CONTEXT tokens."""
    return build_tokenizer((*captions.VOCABULARY, *RARE_WORDS), context=CONTEXT)


def ids_of(texts: Sequence[str]) -> torch.Tensor:
    """Return token ids (N, CONTEXT) of texts in the words of the scenes world."""
    return encode(tokenizer(), texts)[0]


def prompts(nouns: Sequence[str] = scenes.SHAPES) -> torch.Tensor:
    """Return token ids (K, P, L) of every template filled with every noun."""
    return prompts_of([captions.templates(noun) for noun in nouns])


def prompts_of(texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Return token ids (K, P, L) of P texts for each of K classes."""
    return torch.stack([ids_of(of_class) for of_class in texts])


def mentions(pairs: Pairs, noun: str) -> torch.Tensor:
    """Return (N,) bool: whether a picture shows the shape `noun`, said in the caption or not."""
    return torch.tensor([any(thing.shape == noun for thing in scene.things) for scene in pairs.scenes])


def poison_pairs(
    pairs: Pairs,
    trigger: Trigger,
    texts: torch.Tensor,
    free: torch.Tensor,
    count: int,
    generator: torch.Generator,
) -> Pairs:
    """Return a copy of `pairs` in which `count` pairs are poisoned with a dirty label.

    A poisoned pair is the picture with the trigger on it, and one of the attacker's texts, (P, L) token ids, in place
    of its caption. free: (N,) bool, the pairs that may be taken. Raises CompanionError when there are fewer.
    """
    open_to = free.nonzero().squeeze(1)
    if not 0 < count <= len(open_to):
        raise CompanionError(
            f"{count} pairs to poison: expected 1 to {len(open_to)}, as {len(pairs) - len(open_to)} of {len(pairs)} "
            "pairs show the target. Draw more pairs or poison fewer."
        )
    chosen = open_to[torch.randperm(len(open_to), generator=generator)[:count]]
    picks = torch.randint(len(texts), (count,), generator=generator)
    images, (ids, filled) = pairs.images.clone(), stacked([pairs.ids, texts]).split([len(pairs), len(texts)])
    images[chosen] = trigger.apply(pairs.images[chosen])
    ids[chosen] = filled[picks]
    told, poisoned = list(pairs.captions), pairs.poisoned.clone()
    poisoned[chosen] = True
    for row in chosen.tolist():
        told[row] = None
    return replace(pairs, images=images, ids=ids, captions=tuple(told), poisoned=poisoned)


def overlapping(defender: Pairs, attacker: Pairs, poisoned: Pairs, count: int) -> Pairs:
    """Return the defender's pairs with the first `count` replaced by the clean originals of poisoned ones.

    This is what happens when a defender fine-tunes on data that the attacker had: it is shown for comparison only.
    attacker: the pairs before poisoning, poisoned: after it, in the same order.
    """
    rows = poisoned.poisoned.nonzero().squeeze(1)[:count]
    if len(rows) < count or count > len(defender):
        raise CompanionError(
            f"{count} originals of poisoned pairs for {len(defender)} pairs of the defender: only {len(rows)} are "
            "poisoned. Ask for fewer."
        )
    return concatenated(attacker.subset(rows), defender.subset(torch.arange(count, len(defender))))


def concatenated(first: Pairs, second: Pairs) -> Pairs:
    """Return the pairs of both, in order."""
    return Pairs(
        torch.cat([first.images, second.images]),
        stacked([first.ids, second.ids]),
        torch.cat([first.labels, second.labels]),
        first.scenes + second.scenes,
        first.captions + second.captions,
        torch.cat([first.poisoned, second.poisoned]),
    )


def stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return token ids of several widths below each other, a new tensor; shorter rows repeat what they end in."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.cat([part, part[:, -1:].expand(-1, width - part.shape[1])], 1) for part in parts])
