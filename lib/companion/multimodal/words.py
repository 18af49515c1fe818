"""A tokenizer of whole words, in the form that transformers' CLIP and Llava classes expect."""

import difflib
from collections.abc import Iterable, Sequence

import torch

from companion.data.captions import VOCABULARY
from companion.errors import CompanionError

BEGIN, END, PAD, UNKNOWN = "<begin>", "<end>", "<pad>", "<unknown>"
SPECIAL = (PAD, BEGIN, END, UNKNOWN)  # ids 0, 1, 2, 3; words follow in the order given
PAD_ID, BEGIN_ID, END_ID, UNKNOWN_ID = range(4)


def build_tokenizer(words: Iterable[str] = VOCABULARY, context: int = 24):
    """Return a transformers PreTrainedTokenizerFast of these words, lower-case, split at white space.

    words: the vocabulary; more may be added at its end, repeated ones count once. context: tokens of a text at most,
    the begin and end tokens included (`model_max_length`). A text becomes begin, its words, end; CLIP pools at the end
    token (`eos_token_id` of its text configuration must be the tokenizer's). Raises CompanionError for a word with
    white space, for no word at all and for context < 3.

    >>> build_tokenizer(["a", "star"])("a star").input_ids
    [1, 4, 5, 2]
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    listed = list(dict.fromkeys(words))
    wrong = [word for word in listed if not word or word.split() != [word] or word in SPECIAL or word != word.lower()]
    if wrong or not listed or context < 3:
        raise CompanionError(
            f"build_tokenizer: {wrong[0]!r} is not a lower-case word without spaces."
            if wrong
            else f"build_tokenizer was given {len(listed)} words and a context of {context}; expected 1 or more words "
            f"and a context of 3 or more."
        )
    core = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *listed])}, unk_token=UNKNOWN))
    core.normalizer = Lowercase()
    core.pre_tokenizer = WhitespaceSplit()
    core.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, BEGIN_ID), (END, END_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=context,
        padding_side="right",
    )


def encode(tokenizer, texts: str | Sequence[str], *, length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token ids, (n, L) int64, and which of them are not padding, (n, L) int64.

    texts: captions' texts. length: L; None takes the tokenizer's context, so that all batches have one shape.
    Raises CompanionError for a text with an unknown word (it names the word, the text and the nearest known word) and
    for one that is longer than L, begin and end tokens included.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    length = tokenizer.model_max_length if length is None else length
    ids = torch.full((len(texts), length), tokenizer.pad_token_id, dtype=torch.int64)
    if not texts:
        return ids, torch.zeros_like(ids)
    for row, found in enumerate(tokenizer(texts, truncation=False, padding=False, verbose=False).input_ids):
        if tokenizer.unk_token_id in found:
            raise CompanionError(_unknown(tokenizer, texts[row]))
        if len(found) > length:
            raise CompanionError(
                f"the text {texts[row]!r} has {len(found)} tokens with its begin and end; the context is {length}. "
                f"Shorten it by {len(found) - length} words."
            )
        ids[row, : len(found)] = torch.tensor(found)
    return ids, (ids != tokenizer.pad_token_id).long()


def _unknown(tokenizer, text: str) -> str:
    known = tokenizer.get_vocab()
    word = next(word for word in text.lower().split() if word not in known)
    near = difflib.get_close_matches(word, [other for other in known if other not in SPECIAL], n=1, cutoff=0.0)
    return (
        f"the word {word!r} of the text {text!r} is not in the tokenizer's vocabulary of {len(known) - len(SPECIAL)} "
        f"words; the nearest known word is {near[0]!r}. Use that one, or give the word to build_tokenizer."
    )
