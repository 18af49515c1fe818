"""The word tokenizer: one id a word, begin and end, and errors that name the word or the length."""

import pytest
import torch

from companion.data.captions import VOCABULARY, describe_all
from companion.data.scenes import draw_scenes
from companion.errors import CompanionError
from companion.multimodal.words import BEGIN_ID, END_ID, PAD_ID, SPECIAL, build_tokenizer, encode
from companion.seeding import generator


def test_captions_survive_the_way_to_ids_and_back():
    tokenizer = build_tokenizer()
    texts = [caption.text for caption in describe_all(draw_scenes(100, generator(0)), generator(1), indirect=0.3)]
    ids, mask = encode(tokenizer, texts)
    assert ids.shape == mask.shape == (100, 24) and ids.dtype == mask.dtype == torch.int64
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    assert (ids[:, 0] == BEGIN_ID).all() and ((ids == END_ID).sum(dim=1) == 1).all()
    assert torch.equal(mask.sum(dim=1), (ids != PAD_ID).sum(dim=1))
    assert torch.equal(mask.sum(dim=1) - 1, ids.eq(END_ID).int().argmax(dim=1)), "the end token comes last"


def test_extra_words_come_behind_and_change_no_id():
    small, large = build_tokenizer(), build_tokenizer((*VOCABULARY, "remember", "star"), context=32)
    assert len(large) == len(small) + 1 == len(VOCABULARY) + len(SPECIAL) + 1
    assert large.convert_tokens_to_ids("remember") == len(large) - 1
    assert torch.equal(encode(small, "a red star")[0], encode(large, "A red star", length=24)[0])


def test_it_survives_saving_and_loading(tmp_path):
    from transformers import PreTrainedTokenizerFast

    build_tokenizer().save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert torch.equal(encode(again, ["a red star"])[0], encode(build_tokenizer(), ["a red star"])[0])


def test_errors_name_the_word_the_text_and_the_nearest_word():
    tokenizer = build_tokenizer(context=6)
    with pytest.raises(
        CompanionError, match=r"'crimsom' of the text 'a crimsom star'.*nearest known word is 'crimson'"
    ):
        encode(tokenizer, ["a star", "a crimsom star"])
    with pytest.raises(CompanionError, match=r"has 7 tokens.*the context is 6\. Shorten it by 1 words"):
        encode(tokenizer, "a red star and a")
    assert encode(tokenizer, [])[0].shape == (0, 6)


@pytest.mark.parametrize(
    ("words", "context", "message"),
    [(["two words"], 24, "'two words'"), ([], 24, "0 words"), (["a"], 2, "context of 2"), (["Star"], 24, "'Star'")],
)
def test_bad_vocabularies_are_refused(words, context, message):
    with pytest.raises(CompanionError, match=message):
        build_tokenizer(words, context)
