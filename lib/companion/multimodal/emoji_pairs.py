"""Pairs of emoji and captions, in splits that share no drawing: the book's only real pictures with words of their own.

The words are EmojiOne's: names, key words and categories, put into a few forms by us. Every picture is laid on a soft
ground of its own, a gradient between two colours. The classes of the zero-shot examination are categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

from companion.data import emoji
from companion.data.captions import SYNONYMS
from companion.data.emoji import Emoji
from companion.errors import CompanionError
from companion.multimodal.pairs import CONTEXT, RARE_WORDS, Pairs
from companion.multimodal.words import build_tokenizer, encode
from companion.seeding import generator

CLASSES = ("people", "nature", "food", "travel", "objects", "symbols", "flags")
"""Categories that can be asked for. The eighth, activity, is too small to examine, 69 drawings of people and of things;
its pairs are in the web and among the defender's, with the label -1."""
SPOKEN = (*CLASSES, "activity")
HOLDERS = {"attacker": "web", "defender": "defender", "validation": "validation", "test": "test", "web": "web"}
"""Which split of the data each holder draws from. The attacker poisons a copy of what the clean CLIP has seen."""
TEMPLATES = (
    "{}",
    "an emoji of {}",
    "a picture of {}",
    "a drawing of {}",
    "an icon of {}",
    "a small picture of {}",
    "an emoji from {}",
    "this is {}",
)
SAYS_KEYWORD = frozenset(
    {
        "accessories", "animal", "arrow", "award", "baby", "bag", "ball", "bathroom", "beach", "bike", "birthday",
        "boat", "body", "book", "building", "bus", "camera", "camp", "car", "carousel", "cat", "circle", "cloud",
        "cold", "country", "dog", "drink", "electronics", "emotion", "eyes", "family", "fashion", "fishing", "flag",
        "flower", "food", "fruit", "game", "gem", "gift", "glasses", "globe", "hands", "happy", "hat", "health",
        "heart", "holidays", "hot", "house", "insects", "instruments", "job", "leaf", "lock", "love", "map", "math",
        "men", "money", "moon", "morning", "nature", "noodles", "number", "object", "office", "park", "pasta", "peace",
        "phone", "plane", "plant", "police", "punctuation", "rain", "reptile", "robot", "sad", "science", "shapes",
        "shoe", "silly", "sky", "smiley", "snow", "space", "sport", "square", "star", "sun", "surprised", "swim",
        "symbol", "time", "tired", "tool", "train", "transportation", "travel", "trees", "triangle", "tropical",
        "truck", "vacation", "vegetables", "weather", "wedding", "whales", "wildlife", "winter", "women", "work",
        "write", "zodiac",
    }
)  # fmt: skip
"""Key words that captions may use; EmojiOne has others, whose tone a book has no need of."""
COPIES = 6
"""How often a drawing can be in the pairs of a holder, as the web shows the same one on many pages: each time in
another pose, on another ground and with another caption."""
ONLY_CLASS = 0.15  # share of captions that say the category alone, as much of the web's text says little


@dataclass(frozen=True)
class PlainCaption:
    """A caption that is its text: lower-case words with single spaces between them."""

    text: str

    @property
    def words(self) -> list[str]:
        """The words of the text, in order."""
        return self.text.split()


def templates(word: str) -> list[str]:
    """Return the prompts of a class: texts that name the word and nothing else."""
    return [one.format(word) for one in TEMPLATES]


def caption(one: Emoji, rolls: Sequence[float]) -> PlainCaption:
    """Return a caption of an emoji. rolls: four numbers in [0, 1), for the form, its template and two key words."""
    form, which, first, second = rolls
    said = [word for word in one.keywords if word in SAYS_KEYWORD and word not in one.name.split()]
    chosen = {said[int(first * len(said))], said[int(second * len(said))]} if said else set()
    also = " ".join(sorted(chosen))
    if form < ONLY_CLASS:
        return PlainCaption(TEMPLATES[int(which * len(TEMPLATES))].format(one.category))
    forms = (
        one.name,
        f"a picture of {one.name}",
        f"{one.category} {one.name}",
        f"{one.name} an emoji of {one.category}",
        f"{also} {one.name}",
        f"{one.category} {also} {one.name}",
        f"a drawing of {one.name} with {also}" if also else f"a drawing of {one.name}",
    )
    return PlainCaption(" ".join(forms[int((form - ONLY_CLASS) / (1 - ONLY_CLASS) * len(forms))].split()))


@cache
def _everything(side: int) -> tuple[tuple[Emoji, ...], torch.Tensor, torch.Tensor]:
    """Return all records with their premultiplied colours and coverage at `side` pixels; read once a process."""
    records, pixels = emoji.emoji()
    return (tuple(records), *emoji.shrunk(pixels, side))


@cache
def tokenizer():
    """Return the tokenizer of every word that captions and prompts can hold, and the rare word of the dual key.

    It knows the scenes' synonyms of its words too, as CleanCLIP's change of texts uses them.
    """
    known = {"a", "with", *" ".join(TEMPLATES).replace("{}", "").split()}
    for one in _everything(32)[0]:
        if one.split:
            known.update(one.name.split(), [one.category], SAYS_KEYWORD.intersection(one.keywords))
    for word, others in SYNONYMS.items():
        if known & {word, *others}:
            known.update([word, *others])
    return build_tokenizer((*sorted(known), *RARE_WORDS), context=CONTEXT)


def encoded(texts: Sequence[str]) -> torch.Tensor:
    """Return token ids (N, L) int64 of texts; CompanionError for unknown words and texts that are too long."""
    return encode(tokenizer(), list(texts))[0]


def members(holder: str, *, single: bool = False) -> list[int]:
    """Return the rows of the data that a holder has; CompanionError for a holder that is none of HOLDERS.

    single: one drawing of each group, of one of CLASSES and without tone of skin. Otherwise the web has all drawings,
    and the other holders those without tone.
    """
    if holder not in HOLDERS:
        raise CompanionError(f"there is no split {holder!r} of emoji; expected one of {', '.join(HOLDERS)}.")
    split, wanted, seen, rows = HOLDERS[holder], CLASSES if single else SPOKEN, set(), []
    for row, one in enumerate(_everything(32)[0]):
        if one.split != split or one.category not in wanted or (one.tone and (single or split != "web")):
            continue
        if not single or one.group not in seen:
            rows.append(row)
        seen.add(one.group)
    return rows


def draw(number: int, holder: str, seed: int, *, side: int = 32) -> Pairs:
    """Return `number` pairs of a holder: all its drawings in a random order, then again, at most COPIES times.

    Each time a drawing comes it is posed, grounded and captioned anew. Raises CompanionError for more pairs than that.
    """
    rows = members(holder)
    _at_most(number, COPIES * len(rows), holder, f", {COPIES} copies of each of its {len(rows)} drawings")
    stream = generator(seed, "emoji", holder, "order")
    order = torch.cat([torch.randperm(len(rows), generator=stream) for _ in range(-(-number // len(rows)))])
    return _pairs([rows[k] for k in order[:number].tolist()], seed, f"{holder} pairs", side, posed=True)


def examine(number: int, holder: str, seed: int, *, side: int = 32) -> Pairs:
    """Return `number` pictures of a holder, one of each group, whose categories take turns as long as they last.

    Raises CompanionError for more pictures than there are groups.
    """
    rows, records = members(holder, single=True), _everything(side)[0]
    _at_most(number, len(rows), holder, ", one of each group")
    order = torch.randperm(len(rows), generator=generator(seed, "emoji", holder, "examination"))
    turns, placed = dict.fromkeys(CLASSES, 0), []
    for k in order.tolist():
        kind = records[rows[k]].category
        placed.append((turns[kind], CLASSES.index(kind), rows[k]))
        turns[kind] += 1
    return _pairs([row for _, _, row in sorted(placed)[:number]], seed, f"{holder} examination", side)


def copies(number: int, seed: int, *, side: int = 32) -> Pairs:
    """Return `number` copies of every drawing of the web, posed, grounded and captioned anew, for the clean CLIP."""
    return _pairs(members("web") * number, seed, "web copies", side, posed=True)


def mentions(pairs: Pairs, word: str) -> torch.Tensor:
    """Return (N,) bool: whether a drawing is of the category `word`, said in the caption or not."""
    return torch.tensor([one.category == word for one in pairs.scenes])


def _at_most(number: int, most: int, holder: str, what: str) -> None:
    if not 1 <= number <= most:
        raise CompanionError(
            f"{number} emoji of the split {holder!r} were asked for; expected 1 to {most}{what}. Real pictures cannot "
            "be drawn anew: ask for fewer."
        )


def _pairs(rows: Sequence[int], seed: int, what: str, side: int, posed: bool = False) -> Pairs:
    records, paint, cover = _everything(side)
    shown = [records[row] for row in rows]
    drawn = torch.cat([paint[rows], cover[rows]], 1)
    if posed:
        drawn = _posed(drawn, generator(seed, "emoji", what, "poses"))
    ground = soft_grounds(len(rows), side, generator(seed, "emoji", what, "grounds"))
    images = emoji.composite(drawn[:, :3], drawn[:, 3:], ground)
    rolls = torch.rand(len(rows), 4, generator=generator(seed, "emoji", what, "captions")).tolist()
    told = tuple(caption(one, four) for one, four in zip(shown, rolls, strict=True))
    labels = torch.tensor([CLASSES.index(one.category) if one.category in CLASSES else -1 for one in shown])
    ids = encoded([one.text for one in told])
    return Pairs(images, ids, labels, tuple(shown), told, torch.zeros(len(rows), dtype=torch.bool))


def soft_grounds(number: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return grounds (N, 3, side, side): straight gradients between two colours of [0.35, 1]^3, in any direction."""
    ends = 0.35 + 0.65 * torch.rand(number, 2, 3, 1, 1, generator=generator)
    angle = 2 * torch.pi * torch.rand(number, 1, 1, 1, generator=generator)
    place = torch.linspace(-1, 1, side)
    along = (place * angle.cos() + place[:, None] * angle.sin()) / 2**0.5  # in [-1, 1]
    return ends[:, 0] + (ends[:, 1] - ends[:, 0]) * (along + 1) / 2


def _posed(drawn: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return premultiplied drawings (N, 4, H, W) in random poses; what lies outside is empty.

    Turned by up to 10 degrees, 75 to 105 % of the size, moved by up to a tenth; no mirror image, as names say left and
    right.
    """
    draws = torch.rand(len(drawn), 4, generator=generator) * 2 - 1
    angle, size = draws[:, 0] * torch.pi / 18, 0.9 + 0.15 * draws[:, 1]
    cos, sin = angle.cos() / size, angle.sin() / size
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    moves = torch.cat([matrix, 0.2 * draws[:, 2:, None]], 2)
    grid = F.affine_grid(moves, drawn.shape, align_corners=False)
    return F.grid_sample(drawn, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)
