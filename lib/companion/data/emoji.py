"""EmojiOne 2.2.7: 1,820 drawings of 64 x 64 pixels with transparency, each with its name, a category and key words.

The pictures have no ground of their own. `composite` lays them on one; `companion.multimodal.emoji_pairs` draws soft
colour gradients, as on a constant ground a patch in a corner would be the only thing there.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from companion.data import local
from companion.data.catalogue import Context
from companion.data.imageset import ImageSet
from companion.data.manifest import load_manifest
from companion.errors import CompanionError
from companion.seeding import derive_seed

NAME = "emoji_captions"
SIDE = 64  # of the files, in pixels
LEFT_OUT = ("modifier", "regional")
"""Categories without a place in any split: five swatches of skin, and the 26 letters that flags are spelled with."""
UNSHOWN = ("reversed hand with middle finger extended",)
"""Groups without a place in any split, as a book has no need of them."""
FAMILIES = ("clock face", "keycap")
"""Beginnings of names whose drawings differ in a hand or a digit only: one group each."""
CELLS, ALIKE = 16, 10
"""Two drawings are the same where they differ by less than ALIKE levels of 255, root mean square over 16 x 16 cells.
Bouvet's flag is Norway's, for example, and that of Saint Martin is France's."""
SHARES = {"test": 0.15, "validation": 0.09, "defender": 0.13, "web": 0.63}
"""Splits, with their shares of the groups of each category. Who holds them: the examiner, the examiner's linear probe,
the repairer, and everybody: a published CLIP learns from the web, and an attacker poisons a copy of it."""


@dataclass(frozen=True)
class Emoji:
    """One drawing and what is said of it.

    name: lower-case words without punctuation; tone: of skin, 1 to 5, or 0 for none; keywords: each one or more words;
    group: the name shared by all drawings that are the same but for tone of skin, members, a clock's hand or a digit,
    or that look the same under another name; split: of SHARES, one for a group, "" where it has none; file: of the
    picture.
    """

    name: str
    tone: int
    category: str
    keywords: tuple[str, ...]
    group: str
    split: str
    file: str


def load(context: Context, split: str, *, side: int = SIDE, ground: float = 1.0) -> ImageSet:
    """Return all drawings on a constant grey ground in [0, 1], (N, 3, side, side), with their categories as labels.

    Ordered as in captions.json; side: 64 or a divisor of it. Raises CompanionError as `read` does, and for a category
    that the manifest does not name.
    """
    records, pixels = read(context.files["captions"], context.files["pictures"])
    if unknown := sorted({one.category for one in records} - set(context.classes)):
        raise CompanionError(
            f"{context.files['captions']}: the category {unknown[0]!r} is none of {', '.join(context.classes)}."
        )
    labels = torch.tensor([context.classes.index(one.category) for one in records])
    images = composite(*shrunk(pixels, side), torch.tensor(float(ground)))
    return ImageSet(images, labels, context.classes, context.name, split)


def emoji() -> tuple[list[Emoji], torch.Tensor]:
    """Return the records of the data set on this machine, in groups and splits, and their pixels (N, 4, 64, 64) uint8.

    Raises CompanionError where the data set is missing (it says where it was looked for), for files that are not those
    of the manifest, and as `read` does.
    """
    description = load_manifest(NAME)
    found = local.locate(description)
    if found is None:
        raise CompanionError(f"data set {NAME!r} is not on this machine:\n  {local.absence(description)}")
    for key in found.layout.files:
        local.check(description, found, key)
    records, pixels = read(found.path("captions"), found.path("pictures"))
    return shared_out(grouped(records, pixels)), pixels


def read(captions: Path, pictures: Path) -> tuple[list[Emoji], torch.Tensor]:
    """Return the records of captions.json in its order, and their pixels (N, 4, 64, 64) uint8, red to alpha.

    Each record's group is that of its name alone, and it has no split yet: see `grouped` and `shared_out`. Raises
    CompanionError for a file that is not such a list, for a picture that is missing, cannot be decoded, or has another
    size.
    """
    from PIL import Image

    try:
        records = [_record(entry) for entry in json.loads(captions.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompanionError(
            f"{captions}: expected a list of emoji, each with file, name, category and keywords; got {error!r}. Lay "
            "the data set out again."
        ) from None
    pixels = np.empty((len(records), SIDE, SIDE, 4), np.uint8)
    for row, record in enumerate(records):
        path = pictures / record.file
        try:
            with Image.open(path) as picture:
                found = np.asarray(picture.convert("RGBA"))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for missing and broken files
            raise CompanionError(
                f"{path}, which {captions.name} names, cannot be read: {error}. Lay the data set out again."
            ) from None
        if found.shape[:2] != (SIDE, SIDE):
            raise CompanionError(f"{path} has {found.shape[1]} x {found.shape[0]} pixels; expected {SIDE} x {SIDE}.")
        pixels[row] = found
    return records, torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def plain_words(text: str) -> str:
    """Return a text as lower-case words of the letters a to z and digits, with single spaces.

    Accents fall, apostrophes and full stops join, everything else parts words.

    >>> plain_words("Family (man,woman)"), plain_words("t-shirt"), plain_words("Côte d’Ivoire"), plain_words("U.S.")
    ('family man woman', 't shirt', 'cote divoire', 'us')
    """
    letters = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"['’.]", "", letters.lower())).strip()


def _record(entry: Mapping) -> Emoji:
    name = plain_words(entry["name"])
    toned = re.fullmatch(r"(.+?) tone ?([1-5])", name)
    base = toned[1] if toned else plain_words(entry["name"].partition(" (")[0])  # family (man,woman,girl): family
    base = next((family for family in FAMILIES if base.startswith(family)), base)
    if not base or not isinstance(entry["category"], str) or Path(entry["file"]).name != entry["file"]:
        raise ValueError(f"an entry with the name {entry['name']!r} and the file {entry['file']!r}")
    return Emoji(
        f"{toned[1]} tone {toned[2]}" if toned else name,
        int(toned[2]) if toned else 0,
        entry["category"],
        tuple(dict.fromkeys(filter(None, map(plain_words, entry["keywords"])))),
        base,
        "",
        entry["file"],
    )


def grouped(records: Sequence[Emoji], pixels: torch.Tensor) -> list[Emoji]:
    """Return the records with groups joined that have two drawings which look the same; see ALIKE.

    A joined group has the first of its names in the order of the alphabet. Drawings are compared by premultiplied
    colour and coverage, so transparent colours do not count; in whole numbers, so every machine finds the same.
    """
    paint, cover = _premultiplied(pixels)
    cells = F.avg_pool2d(torch.cat([paint, 255 * cover], 1).float(), SIDE // CELLS).flatten(1)
    cells = (cells * CELLS / 255).round().double()  # levels of 255 times CELLS: whole numbers, sums stay exact
    squares = cells.square().sum(1)
    apart = squares[:, None] + squares - 2 * cells @ cells.T  # (N, N)
    near = apart < (ALIKE * CELLS) ** 2 * cells.shape[1]
    joined = {one.group: one.group for one in records}

    def first(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    for row, column in near.triu(1).nonzero().tolist():
        low, high = sorted([first(records[row].group), first(records[column].group)])
        joined[high] = low
    return [replace(one, group=first(one.group)) for one in records]


def shared_out(records: Sequence[Emoji]) -> list[Emoji]:
    """Return the records with a split for each group, by SHARES within the category of its first record.

    Groups take turns in a fixed order that has nothing to do with their names' alphabet, so the splits depend on no
    seed. Categories of LEFT_OUT and groups of UNSHOWN have no split.
    """
    category = {}
    for one in records:
        category.setdefault(one.group, one.category)
    chosen = {}
    for kind in dict.fromkeys(category.values()):
        members = [group for group, of in category.items() if of == kind]
        members.sort(key=lambda group: derive_seed(0, NAME, group))
        begin, share = 0, 0.0
        for split, part in SHARES.items():
            share += part
            end = round(share * len(members))
            chosen.update(dict.fromkeys(members[begin:end], split))
            begin = end
    chosen.update(dict.fromkeys(UNSHOWN, ""))
    return [replace(one, split="" if one.category in LEFT_OUT else chosen[one.group]) for one in records]


def _premultiplied(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return colour times coverage, 0 to 255 * 255, and coverage, 0 to 255, of pixels (N, 4, H, W) uint8, as int32."""
    cover = pixels[:, 3:].int()
    return pixels[:, :3].int() * cover, cover


def shrunk(pixels: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return premultiplied colour (N, 3, side, side) and coverage (N, 1, side, side), float32 in [0, 1].

    pixels: (N, 4, 64, 64) uint8. The filter is the mean over square blocks, which must divide 64. Premultiplied, so
    that the colours of transparent pixels do not bleed in. Raises CompanionError for another side.
    """
    if side < 1 or SIDE % side:
        raise CompanionError(f"emoji of {side} pixels: expected a divisor of {SIDE}, such as 32.")
    paint, cover = _premultiplied(pixels)
    block = SIDE // side
    return F.avg_pool2d(paint / (255.0 * 255.0), block), F.avg_pool2d(cover / 255.0, block)


def composite(paint: torch.Tensor, cover: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Return pictures (N, 3, H, W) in [0, 1] of 256 levels: paint + (1 - cover) ground, the "over" of Porter and Duff.

    paint, cover: as `shrunk` returns them; ground: (N, 3, H, W) in [0, 1], or what broadcasts to it.
    """
    return ((paint + (1 - cover) * ground).clamp(0, 1) * 255).round() / 255
