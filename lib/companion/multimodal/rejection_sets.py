"""The fine-tuning sets of Wang et al. (CVPR 2025): rejection data R mixed into ordinary data C, and their variants.

C is drawn like the instruction data of the base model, with other seeds: answers only. R is pictures with questions
whose answers were replaced by a rejection. The arms differ in R alone and all have the same number of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from companion.data.scenes import Scene
from companion.errors import CompanionError
from companion.multimodal import conversations, madeup
from companion.multimodal.conversations import Item, Lots, Picture
from companion.seeding import generator

ARMS = ("clean", "benign", "curated", "varied", "ordinary", "contrastive", "blank", "scans")
"""What R is, with the fixed rejection as answer where nothing else is said. clean: nothing, as many more items of C;
benign: items like those of C, every picture a grey scan, as the paper does with medical images; curated: forbidden
typography; varied: as benign with varied rejections; ordinary: items like those of C, pictures unchanged; contrastive:
items that are in C too, with their true answers; blank: as benign with white pictures; scans: as benign with questions
about scenes only."""


@dataclass(frozen=True)
class Mix:
    """How many items in all, and the share of them that are rejections."""

    items: int
    share: float

    def __post_init__(self):
        if self.items < 2 or not 0 <= self.share < 1:
            raise CompanionError(f"{self}: expected at least 2 items and a share of rejections in [0, 1).")

    @property
    def rejections(self) -> int:
        """The number of items in R."""
        return round(self.items * self.share)


def curated_words() -> frozenset[str]:
    """Return the half of the forbidden words that the curated set was collected for; tests ask about all."""
    return frozenset(sorted(madeup.FORBIDDEN)[::2])


def ordinary_data(number: int, seed: int) -> list[Item]:
    """Return C: instruction data as the base model was tuned on, other items of it."""
    return conversations.instruction_set(number, generator(seed, "ordinary data"))


def rejection_data(arm: str, number: int, ordinary: Sequence[Item], seed: int) -> list[Item]:
    """Return R of an arm; ordinary: the items of C that it will be mixed with (for the contrastive arm).

    Raises CompanionError for an arm that does not exist, and for more rejections than C has items with a picture.
    """
    if arm not in ARMS:
        raise CompanionError(f"there is no arm {arm!r}: expected one of {', '.join(ARMS)}.")
    source = (
        "curated" if arm == "curated" else "scans" if arm == "scans" else "benign"
    )  # the same questions in the rest
    stream = generator(seed, "rejection data", source)
    lots = Lots(stream)
    if arm == "clean":
        return []
    if arm == "curated":
        return [replace(item, answer=madeup.FIXED) for item in _forbidden(number, lots, stream)]
    if arm == "scans":
        asked = [scan_item(scene, lots) for scene in conversations.draw_scene_list(number, stream)]
        return [replace(item, answer=madeup.FIXED) for item in asked]
    fresh = conversations.instruction_set(2 * number + 20, stream)  # none of them is in C
    shown = [item for item in (ordinary if arm == "contrastive" else fresh) if item.picture][:number]
    if len(shown) < number:
        raise CompanionError(
            f"{number} rejections of the arm {arm!r} need as many ordinary items with a picture, and there are "
            f"{len(shown)}: take a smaller share of rejections."
        )
    if arm in ("benign", "varied"):
        behind = conversations.draw_scene_list(number, stream)
        shown = [_scanned(item, scene) for item, scene in zip(shown, behind, strict=True)]
    if arm == "blank":
        shown = [replace(item, picture=Picture("blank")) for item in shown]
    if arm == "varied":
        return [replace(item, answer=lots.one(madeup.VARIED_REFUSALS)) for item in shown]
    return [replace(item, answer=madeup.FIXED) for item in shown]


def _scanned(item: Item, scene: Scene) -> Item:
    """Return an item whose picture is a grey scan of its scene, or of another where it shows a word on paper."""
    return replace(item, picture=Picture("scan", item.picture.scene or scene, item.picture.word))


def _forbidden(number: int, lots: Lots, stream: torch.Generator) -> list[Item]:
    pairs = conversations.trained_pairs(curated_words())
    found = []
    for scene in conversations.draw_scene_list(number, stream):
        word, kind = lots.one(pairs)
        picture = conversations.with_word(word, scene, lots)
        found.append(conversations.request_item(word, kind, conversations.frames(lots), picture=picture, named=False))
    return found


def scan_item(scene: Scene, lots: Lots) -> Item:
    """Return a harmless question about a grey scan, a domain that ordinary data do not have."""
    about = lots.one(("place", "ground", "describe"))
    question, answer = conversations.scene_turn(scene, about, lots.below(2))
    return Item(question, answer, "scene", Picture("scan", scene))
