"""How prompts become token ids: word by word for the encoder that ships, in pieces for a published one.

Concepts, searches and the sanitizer need four things of a text encoder's tokens: ids of prompts, where a prompt ends,
how many tokens a word has, and the words of ids.
"""

from collections.abc import Sequence
from typing import Any

import torch

from companion.errors import CompanionError
from companion.multimodal import prompts


class WordLanguage:
    """The shipped encoder's words, one token each (`companion.multimodal.prompts`)."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return token ids (N, L) int64; raises `CompanionError` for an unknown word and for a prompt too long."""
        return prompts.encode(texts)

    def ends(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the position (N,) of the first end token of each row."""
        return prompts.ends(ids)

    def pieces(self, word: str) -> int:
        """Return how many tokens a word has."""
        return 1

    def word_ids(self) -> dict[str, int]:
        """Return the id of every word of the grammar that is one token."""
        return prompts.word_ids()

    def texts(self, ids: torch.Tensor) -> list[str]:
        """Return the prompts of token ids (N, L)."""
        words = {index: word for word, index in prompts.word_ids().items()}
        return [" ".join(words[index] for index in row if index in words) for row in ids.tolist()]

    def word_positions(self, ids: torch.Tensor) -> torch.Tensor:
        """Return which tokens (N, L) bool belong to words: after the begin and before the first end token."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return (places > 0) & (places < self.ends(ids)[:, None])

    def spans(self, text: str) -> list[range]:
        """Return the token positions of every word of a prompt."""
        found, start = [], 1
        for word in text.split():
            found.append(range(start, start + self.pieces(word)))
            start += self.pieces(word)
        return found


class PieceLanguage(WordLanguage):
    """The tokens of a published encoder; tokenizer: transformers', which puts a begin and an end token; context: L.

    Words are those of the same grammar. A word of several tokens is judged, and can be erased, as a whole; an attacker
    searches among the words of one token.
    """

    def __init__(self, tokenizer: Any, context: int):
        self.tokenizer, self.context = tokenizer, context
        self._pieces: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        rows = self.tokenizer(list(texts), padding=False, truncation=False, verbose=False).input_ids
        unknown = self.tokenizer.unk_token_id
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.context:
                raise CompanionError(
                    f"the prompt {text!r:.60} has {len(row)} tokens: this text encoder has a context of "
                    f"{self.context}, and what is cut off would not be drawn. Shorten it."
                )
            if unknown not in (None, self.tokenizer.eos_token_id) and unknown in row:
                raise CompanionError(
                    f"the prompt {text!r:.60} has a word that the checkpoint's tokenizer does not know. Use other "
                    "words, or a checkpoint whose tokenizer knows all words, as those of published models do."
                )
        padded = self.tokenizer.pad({"input_ids": rows}, padding="max_length", max_length=self.context)
        return torch.tensor(padded["input_ids"], dtype=torch.int64).reshape(len(rows), self.context)

    def ends(self, ids: torch.Tensor) -> torch.Tensor:
        found = ids == self.tokenizer.eos_token_id
        if not bool(found.any(1).all()):
            raise CompanionError(
                "a prompt's token ids have no end token: expected the checkpoint's tokenizer to put one, as CLIP's do."
            )
        return found.to(torch.uint8).argmax(1)

    def pieces(self, word: str) -> int:
        if word not in self._pieces:
            self._pieces[word] = len(self.tokenizer(word, add_special_tokens=False).input_ids)
        return self._pieces[word]

    def word_ids(self) -> dict[str, int]:
        rows = {word: self.tokenizer(word, add_special_tokens=False).input_ids for word in prompts.vocabulary()}
        return {word: row[0] for word, row in rows.items() if len(row) == 1 and row[0] != self.tokenizer.unk_token_id}

    def texts(self, ids: torch.Tensor) -> list[str]:
        return [" ".join(one.split()) for one in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


WORDS = WordLanguage()
"""The language of the shipped encoder."""
