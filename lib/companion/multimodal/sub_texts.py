"""Sub-texts of TA-Cleaner, and CleanCLIP's one-time change of texts, for captions whose grammar is known.

A positive sub-text is one true clause of a caption. A negative one is a clause in which one word of one part of speech,
adjective, noun or verb, is replaced by a wrong one. No tagger is needed, because the captions know their slots.
"""

from collections.abc import Collection, Sequence

import torch

from companion.data.captions import LONGEST, SYNONYMS, Caption, false_caption, sub_caption
from companion.errors import CompanionError
from companion.multimodal.clip_augmentation import changed_words
from companion.multimodal.pairs import Encode, ids_of

KINDS_OF_PART = {"adjective": ("size", "colour", "texture"), "noun": ("shape", "place", "ground"), "verb": ("verb",)}
"""What words of each part of speech speak of; a wrong word speaks of what the right one spoke of."""


def with_synonyms(words: Collection[str]) -> frozenset[str]:
    """Return words with all their synonyms, in both directions."""
    found = set(words)
    for word, others in SYNONYMS.items():
        family = {word, *others}
        if family & set(words):
            found |= family
    return frozenset(found)


class SubTexts:
    """Draws positive and negative sub-texts of pairs; two draws differ, as TA-Cleaner resamples each epoch.

    excluded: words that, with their synonyms, never replace another; without them a small vocabulary would often hand
    the attack's target to the defence; encode: gives token ids. Raises CompanionError for a pair without a caption (a
    poisoned one), and for captions that know no grammar.
    """

    def __init__(self, captions: Sequence[Caption | None], excluded: Collection[str] = (), encode: Encode = ids_of):
        if any(caption is None for caption in captions):
            raise CompanionError("a pair has no caption to take sub-texts from: expected clean pairs only.")
        if not all(isinstance(caption, Caption) for caption in captions):
            raise CompanionError(
                "sub-texts need captions of the scenes' grammar, which knows each word's part of speech: the texts of "
                "these pairs do not. Repair with CleanCLIP, or draw pairs of a scenes world."
            )
        self.captions, self.excluded, self.encode = captions, with_synonyms(excluded), encode

    def draw(self, rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids of the positive and the negative sub-texts, (m, L) each, of some pairs (m,) int64."""
        near, far = zip(*(self.texts(row, generator) for row in rows.tolist()), strict=True)
        return tuple(self.encode([*near, *far]).chunk(2))

    def texts(self, row: int, generator: torch.Generator) -> tuple[str, str]:
        """Return (positive, negative) of one pair; the part of speech of the wrong word is drawn uniformly."""
        caption = self.captions[row]
        fragment = sub_caption(caption, generator, keep=1.0)
        parts = [part for part, kinds in KINDS_OF_PART.items() if any(slot.kind in kinds for slot in fragment.content)]
        part = parts[int(torch.rand((), generator=generator) * len(parts))]
        wrong = false_caption(fragment, generator, exclude=self.excluded, kinds=KINDS_OF_PART[part])
        return sub_caption(caption, generator, keep=1.0).text, wrong.text


def changed_texts(
    captions: Sequence[Caption | None], generator: torch.Generator, encode: Encode = ids_of
) -> torch.Tensor:
    """Return token ids (N, L) of captions after `changed_words`: CleanCLIP's text change, made once for all epochs."""
    families = {word: (base, *others) for base, others in SYNONYMS.items() for word in (base, *others)}
    known = {word: tuple(other for other in family if other != word) for word, family in families.items()}
    return encode([" ".join(changed_words(caption.words, known, generator)[:LONGEST]) for caption in captions])
