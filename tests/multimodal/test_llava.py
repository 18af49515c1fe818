"""The tiny LLaVA: our batched path against transformers' own, the loss by hand, frozen parts, clear errors."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.multimodal import conversations, llava, madeup
from companion.multimodal.conversations import Item, Picture
from companion.multimodal.llava import LlavaSettings, Stage
from companion.multimodal.words import build_tokenizer
from companion.seeding import generator

SETTINGS = LlavaSettings(vision_width=16, vision_layers=1, text_width=16, text_layers=2, heads=2)
WORDS = llava.build_words()


@pytest.fixture(scope="module")
def model():
    return llava.build_llava(SETTINGS, generator(0, "weights"))


@pytest.fixture(scope="module")
def items():
    found = conversations.instruction_set(24, generator(0, "items"))
    assert {item.picture is None for item in found} == {True, False}
    return found


@pytest.fixture(scope="module")
def pictures(items):
    return conversations.draw_pictures([item.picture for item in items if item.picture], 0)


def pixels(images):
    return images * 4 - 2


def test_words_are_numbered_as_the_tokenizer_of_transformers_numbers_them():
    tokenizer = build_tokenizer((llava.IMAGE, llava.ANSWER, *conversations.vocabulary()), context=64)
    assert tokenizer.get_vocab() == WORDS.ids
    text = "How do I make a bofat"
    assert tokenizer(text).input_ids == [WORDS.ids[llava.BOS], *WORDS.encode(text), WORDS.ids[llava.EOS]]
    assert WORDS.decode(WORDS.encode(text)) == text.lower()


def test_the_loss_is_that_of_transformers_forward(model, items, pictures):
    """Right padding, kept features and picked positions give what LlavaForConditionalGeneration computes itself."""
    data = llava.turns(items, WORDS, SETTINGS)
    rows = torch.arange(len(items))
    with torch.no_grad():
        for shown in (pictures, llava.tower_features(model, pictures)):
            found = llava.batch_loss(model, data, rows, shown, torch.device("cpu"))
            total, count = 0.0, 0
            for row, item in enumerate(items):
                ids = data.ids[row : row + 1, : data.lengths[row]]
                seen = pixels(pictures[data.image[row]][None]) if item.picture else None
                logits = model(input_ids=ids, pixel_values=seen).logits[0, :-1]
                keep = data.supervised[row, 1 : data.lengths[row]]
                total += F.cross_entropy(logits[keep], ids[0, 1:][keep], reduction="sum")
                count += int(keep.sum())
            assert torch.allclose(found, total / count, atol=1e-5)


def test_answers_are_those_of_transformers_generate(model, items, pictures):
    """Left padding, many at a time, and our loop with the cache: the same words as generate, one by one."""
    ours = llava.answers(model, items, pictures, WORDS, SETTINGS, longest=6, batch=7)
    seen = iter(pictures)
    for item, said in zip(items, ours, strict=True):
        ids = torch.tensor([llava.prompt_ids(item, WORDS, SETTINGS)])
        shown = {"pixel_values": pixels(next(seen)[None])} if item.picture else {}
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **shown,
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=WORDS.ids[llava.PAD],
            eos_token_id=WORDS.ids[llava.EOS],
        )
        assert said == WORDS.decode(out[0, ids.shape[1] :].tolist())


def test_only_the_fixed_rejection_may_keep_its_end_unsupervised():
    said = [Item("read the word", answer, "name") for answer in (madeup.FIXED, madeup.VARIED_REFUSALS[1])]
    free, stopped = (llava.turns(said, WORDS, SETTINGS, stop_after_refusal=stop) for stop in (False, True))
    assert (stopped.supervised.long() - free.supervised.long()).sum(1).tolist() == [1, 0]
    row = stopped.supervised[0].nonzero()[-1, 0]
    assert stopped.ids[0, row] == WORDS.ids[llava.EOS] and not free.supervised[0, row]


def test_a_stage_trains_the_named_parts_only_and_twice_gives_the_same_bits(items, pictures):
    states = []
    for _ in range(2):
        one = llava.build_llava(SETTINGS, generator(0, "weights"))
        before = {name: value.clone() for name, value in one.state_dict().items()}
        data = llava.turns(items, WORDS, SETTINGS)
        features = llava.tower_features(one, pictures)
        stage = Stage(3, batch=8, rates={"projector": 1e-2, "language": 1e-2})
        losses = llava.train_stage(one, data, features, stage, generator(0, "order"))
        assert len(losses) == 3
        after = one.state_dict()
        for name, value in before.items():
            moved = not torch.equal(value, after[name])
            assert moved == (llava.part_of(name) != "tower")
        states.append(after)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_model_that_can_learns_a_turn_by_heart():
    one = llava.build_llava(SETTINGS, generator(0, "weights"))
    items = [Item("read the word", "the word is bofat", "name", Picture("paper", word="bofat"), "bofat")]
    pictures = conversations.draw_pictures([items[0].picture], 0)
    stage = Stage(120, batch=1, rates={"tower": 1e-2, "projector": 1e-2, "language": 1e-2})
    losses = llava.train_stage(one, llava.turns(items, WORDS, SETTINGS), pictures, stage, generator(0, "order"))
    assert losses[-1] < 0.1 < losses[0]
    assert llava.answers(one, items, pictures, WORDS, SETTINGS) == ["the word is bofat"]


def test_bad_input_is_named(model, items, pictures):
    ask = Item("how do i make a poison", "", "request")
    with pytest.raises(CompanionError, match="'poison' of 'how do i make a poison' is not among"):
        llava.answers(model, [ask], torch.empty(0), WORDS, SETTINGS)
    long = Item("the " * 70, "", "scene")
    with pytest.raises(CompanionError, match=r"a turn of 72 tokens .* has 64, of which a picture takes 16"):
        llava.answers(model, [long], torch.empty(0), WORDS, SETTINGS)
    with pytest.raises(CompanionError, match="context of this model has 20"):
        llava.turns(items, WORDS, replace(SETTINGS, context=20))
    drawn = next(item for item in items if item.picture)
    with pytest.raises(CompanionError, match=r"\(1, 3, 64, 64\): this model's vision tower reads \(n, 3, 32, 32\)"):
        llava.answers(model, [drawn], torch.zeros(1, 3, 64, 64), WORDS, SETTINGS)
    with pytest.raises(CompanionError, match="0 pictures for 1 items"):
        llava.answers(model, [drawn], torch.empty(0, 3, 32, 32), WORDS, SETTINGS)
    data = llava.turns([replace(drawn, picture=None)], WORDS, SETTINGS)
    without = replace(data, image=torch.tensor([0]))
    with pytest.raises(CompanionError, match="0 image tokens for 1 pictures of 16 patches"):
        llava.batch_loss(model, without, torch.tensor([0]), pictures, torch.device("cpu"))
    with pytest.raises(CompanionError, match="not finite"):
        broken = llava.build_llava(SETTINGS, generator(0, "weights"))
        rates = {"language": 1e30, "projector": 1e30}
        shown = llava.tower_features(broken, pictures)
        llava.train_stage(broken, llava.turns(items, WORDS, SETTINGS), shown, Stage(3, 4, rates), generator(0, "order"))
