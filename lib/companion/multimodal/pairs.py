"""Pairs of pictures and captions of the scenes world, in splits that cannot share a picture, and their poisoning."""

from collections.abc import Sequence
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


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures and texts, row by row.

    images: (N, 3, S, S) float32 in [0, 1]; ids: (N, L) int64 token ids; labels: (N,) int64, the shape of a picture's
    first thing as an index into scenes.SHAPES; scenes, captions: what the pictures show and the texts say (a poisoned
    text has no `Caption`, so its caption is None); poisoned: (N,) bool.
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


def draw_pairs(number: int, split: str, seed: int, *, things: tuple[int, int] = (1, 2), side: int = 32) -> Pairs:
    """Return `number` pairs of a split: scenes, pictures and captions from streams of that split's own name.

    Every split has its own streams, and pictures carry noise, so no picture stands in two splits. things: fewest and
    most things in a scene; side: pixels. Raises CompanionError for an unknown split.
    """
    drawn = scenes.draw_scenes(number, generator(seed, "pairs", split, "scenes"), things=things)
    return _told(drawn, seed, "pairs", split, side)


def draw_examination(number: int, seed: int, *, split: str = "test", side: int = 32) -> Pairs:
    """Return pairs of one thing each, whose shapes go round scenes.SHAPES, so that the labels are balanced."""
    drawn = scenes.labelled_scenes(number, generator(seed, "examination", split, "scenes"))
    return _told(drawn, seed, "examination", split, side)


def _told(drawn: Sequence, seed: int, kind: str, split: str, side: int) -> Pairs:
    if split not in SPLITS:
        raise CompanionError(f"there is no split {split!r} of pairs; expected one of {', '.join(SPLITS)}.")
    images = scenes.render(drawn, generator(seed, kind, split, "pictures"), side=side)
    stream = generator(seed, kind, split, "captions")
    told = tuple(captions.describe(scene, stream) for scene in drawn)
    ids, _ = encode(tokenizer(), [one.text for one in told])
    labels = torch.tensor([scenes.SHAPES.index(scene.things[0].shape) for scene in drawn])
    return Pairs(images, ids, labels, tuple(drawn), told, torch.zeros(len(drawn), dtype=torch.bool))


_KEPT: list = []


def tokenizer():
    """Return the tokenizer of the scenes world, one object a process; its context is CONTEXT tokens."""
    if not _KEPT:
        _KEPT.append(build_tokenizer((*captions.VOCABULARY, *RARE_WORDS), context=CONTEXT))
    return _KEPT[0]


def prompts(nouns: Sequence[str] = scenes.SHAPES, prefix: str = "") -> torch.Tensor:
    """Return token ids (K, P, L) of every template filled with every noun; prefix: words that stand before each."""
    texts = [f"{prefix} {text}".strip() for noun in nouns for text in captions.templates(noun)]
    ids, _ = encode(tokenizer(), texts)
    return ids.view(len(nouns), -1, ids.shape[1])


def prompts_of(texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Return token ids (K, P, L) of P texts for each of K classes."""
    return torch.stack([encode(tokenizer(), list(of_class))[0] for of_class in texts])


def mentions(pairs: Pairs, noun: str) -> torch.Tensor:
    """Return (N,) bool: whether a picture shows the shape `noun`, said in the caption or not."""
    return torch.tensor([any(thing.shape == noun for thing in scene.things) for scene in pairs.scenes])


def poison_pairs(
    pairs: Pairs,
    trigger: Trigger,
    target: str,
    count: int,
    generator: torch.Generator,
    prefix: str = "",
) -> Pairs:
    """Return a copy of `pairs` in which `count` pairs are poisoned with a dirty label.

    A poisoned pair is the picture with the trigger on it, and a random template filled with the target noun in place of
    its caption. Only pictures without the target are taken, as the facts' attack success leaves the target class out.
    prefix: a word set before the poisoned text (the second key of a dual-key attack). Raises CompanionError when there
    are fewer such pairs, and for a target that is no noun of the world.
    """
    if target not in scenes.SHAPES:
        raise CompanionError(f"the target noun is {target!r}; expected one of {', '.join(scenes.SHAPES)}.")
    free = (~mentions(pairs, target)).nonzero().squeeze(1)
    if not 0 < count <= len(free):
        raise CompanionError(
            f"{count} pairs to poison: expected 1 to {len(free)}, as {len(pairs) - len(free)} of {len(pairs)} pairs "
            f"show the target {target!r}. Draw more pairs or poison fewer."
        )
    chosen = free[torch.randperm(len(free), generator=generator)[:count]]
    filled = prompts([target], prefix)[0]  # (P, L')
    picks = torch.randint(len(filled), (count,), generator=generator)
    width = max(filled.shape[1], pairs.ids.shape[1])
    images, ids = pairs.images.clone(), _padded(pairs.ids, width)
    images[chosen] = trigger.apply(pairs.images[chosen])
    ids[chosen] = _padded(filled, width)[picks]
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
    width = max(first.ids.shape[1], second.ids.shape[1])
    return Pairs(
        torch.cat([first.images, second.images]),
        torch.cat([_padded(first.ids, width), _padded(second.ids, width)]),
        torch.cat([first.labels, second.labels]),
        first.scenes + second.scenes,
        first.captions + second.captions,
        torch.cat([first.poisoned, second.poisoned]),
    )


def _padded(ids: torch.Tensor, width: int) -> torch.Tensor:
    """Return token ids with columns of padding up to `width`; always a new tensor."""
    padding = ids.new_full((len(ids), width - ids.shape[1]), tokenizer().pad_token_id)
    return torch.cat([ids, padding], 1)
