"""Sub-texts: positive ones are true, negative ones are not, and the target's words stay out of the pool."""

import pytest
import torch

from companion.data import captions
from companion.errors import CompanionError
from companion.multimodal.pairs import draw_pairs
from companion.multimodal.sub_texts import SubTexts, changed_texts, with_synonyms
from companion.seeding import generator


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(60, "defender", 1)


def drawn(pairs, excluded=(), number=10):
    sampler, stream = SubTexts(pairs.captions, excluded), generator(0, "sub-texts")
    return [(row, *sampler.texts(row, stream)) for _ in range(number) for row in range(len(pairs))]


def test_positive_sub_texts_say_part_of_the_caption_and_negative_ones_bring_a_wrong_word(pairs):
    wrong_parts = set()
    for row, near, far in drawn(pairs):
        said = set(pairs.captions[row].words)
        articles = {"a", "an"}
        assert set(near.split()) - articles <= said
        new = set(far.split()) - said - articles
        content = [word for word in new if word in captions.KIND_OF]
        changed = content or [word for word in far.split() if word in captions.KIND_OF]
        assert changed and len(content) <= 1
        wrong_parts |= {captions.PARTS[word] for word in content}
    assert wrong_parts == {"adjective", "noun", "verb"}


def test_the_target_never_comes_in_unless_it_may(pairs):
    barred = with_synonyms(["star"])
    assert barred == {"star", "sparkle"} == with_synonyms(["sparkle"])

    def told(excluded):
        return [
            far
            for row, _, far in drawn(pairs, excluded)
            if set(far.split()) & barred and not set(pairs.captions[row].words) & barred
        ]

    assert not told(["star"])
    assert told([]), "without the exclusion a small vocabulary names the target"


def test_sub_texts_are_drawn_anew_each_time(pairs):
    sampler, stream = SubTexts(pairs.captions), generator(0)
    first, second = (sampler.draw(torch.arange(20), stream) for _ in range(2))
    assert first[0].shape == first[1].shape and len(first[0]) == 20
    assert not torch.equal(first[1], second[1])


def test_a_poisoned_pair_has_no_sub_texts(pairs):
    with pytest.raises(CompanionError, match="no caption to take sub-texts from"):
        SubTexts([*pairs.captions, None])


def test_texts_are_changed_once_and_stay_in_the_context(pairs):
    found = changed_texts(pairs.captions, generator(0))
    assert found.shape[0] == 60 and torch.equal(found, changed_texts(pairs.captions, generator(0)))
    assert (found != pairs.ids).any(1).float().mean() > 0.7
