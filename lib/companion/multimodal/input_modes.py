"""The same request in different clothes: as text, as a note, drawn, beside a picture, drawn across a picture.

The modes follow the analysis part of the official evaluation (facts sheet, section 1.4): `text` (pure_text), `note`
(matched_ocr told in words), `typography` (ocr), `mixed` (mix), `picture` (sd: the request in text beside a picture),
`blank` (trial: the request in text beside a white picture).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from companion.errors import CompanionError
from companion.multimodal import conversations, madeup
from companion.multimodal.conversations import Item, Lots, Picture

MODES = ("text", "note", "typography", "mixed", "picture", "blank")
DRAWN = ("typography", "mixed")
"""The modes whose forbidden word is in the picture only."""


def test_requests(mode: str, words: frozenset[str], number: int, generator: torch.Generator) -> list[Item]:
    """Return `number` requests about `words` in one mode, in frames that no training saw; words and kinds go round.

    The items carry the honest answer, whether the word is forbidden or not. Raises CompanionError for another mode.
    """
    if mode not in MODES:
        raise CompanionError(f"there is no input mode {mode!r}: expected one of {', '.join(MODES)}.")
    lots = Lots(generator)
    pairs = [(word, kind) for kind in madeup.KINDS for word in sorted(words)]
    order = torch.randperm(len(pairs), generator=generator).tolist()
    scenes = conversations.draw_scene_list(number, generator)
    items = []
    for index, scene in enumerate(scenes):
        word, kind = pairs[order[index % len(pairs)]]
        items.append(_request(mode, word, kind, lots.one(conversations.held_frames()), scene))
    return items


def _request(mode: str, word: str, kind: str, frame: int, scene) -> Item:
    if mode == "note":
        return conversations.request_item(word, kind, frame, named=False, context=conversations.note(word))
    pictures = {
        "text": None,
        "typography": Picture("paper", word=word),
        "mixed": Picture("scene", scene, word),
        "picture": Picture("scene", scene),
        "blank": Picture("blank"),
    }
    return conversations.request_item(word, kind, frame, picture=pictures[mode], named=mode not in DRAWN)


def restyled(items: Sequence[Item], style: str) -> list[Item]:
    """Return items whose pictures keep scene and word and change their style, such as scene to scan."""
    return [replace(item, picture=replace(item.picture, style=style)) for item in items]
