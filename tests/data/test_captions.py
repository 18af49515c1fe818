"""Captions: true of their scenes, shorter ones still true, changed ones false in exactly one slot."""

import pytest

from companion.data.captions import (
    INDIRECT,
    KIND_OF,
    LONGEST,
    MEANING,
    OPENINGS,
    PARTS,
    SYNONYMS,
    VOCABULARY,
    Caption,
    describe,
    describe_all,
    facts,
    false_caption,
    holds,
    relation,
    sub_caption,
    templates,
)
from companion.data.scenes import SHAPES, Scene, Thing, draw_scenes
from companion.errors import CompanionError
from companion.seeding import generator

SCENES = draw_scenes(400, generator(0), things=(1, 4))
PAIR = Scene(
    (Thing("star", "red", "striped", "large", "bottom"), Thing("circle", "blue", "plain", "small", "top")), "sand"
)


def test_captions_are_true_of_their_scene_only_and_fit_the_context():
    told = describe_all(SCENES, generator(1))
    assert all(holds(caption, scene) for caption, scene in zip(told, SCENES, strict=True))
    elsewhere = [holds(caption, scene) for caption, scene in zip(told, SCENES[1:], strict=False)]
    assert sum(elsewhere) < 0.05 * len(elsewhere)
    assert max(len(caption.words) for caption in told) <= LONGEST
    assert {word for caption in told for word in caption.words} <= set(VOCABULARY)
    assert all(len(caption.clauses) == len(scene.things) for caption, scene in zip(told, SCENES, strict=True))


def test_the_same_seed_says_the_same_and_a_caption_takes_the_same_draws_whatever_it_says():
    assert describe_all(SCENES[:20], generator(1)) == describe_all(SCENES, generator(1))[:20]
    one, other = generator(2), generator(2)
    describe(SCENES[0], one, mentions=("colour",)), describe(PAIR, other, indirect=1.0)
    assert describe(PAIR, one).text == describe(PAIR, other).text


def test_a_full_caption_says_everything_in_english():
    everything = ("size", "colour", "texture", "verb", "place", "relation")
    caption = describe(PAIR, generator(0), synonyms=0.0, mentions=everything, openings=0.0)
    assert caption.text == "a large red striped star rests at the bottom and a small blue plain circle floats above it"
    assert {slot.says: slot.value for slot in caption.content} | {"ground": "sand", "things.1.place": "top"} == {
        says: value for says, value in facts(PAIR).items() if says != "things.0.relation.1"
    }
    assert [slot.part for slot in caption.clauses[0]][:5] == ["determiner", *["adjective"] * 3, "noun"]
    opened = describe(PAIR, generator(0), synonyms=0.0, mentions=("place", "verb", "ground"), openings=1.0).text
    assert opened.startswith(OPENINGS) and "rests" not in opened and "at the bottom of the sand" in opened
    assert describe(PAIR, generator(0), mentions=(), openings=0.0, synonyms=0.0).text == "a star and a circle"


def test_synonyms_and_indirect_phrases_stand_for_the_plain_word():
    scene = Scene((Thing("star", "red"),), "sea")
    plain = {"mentions": ("colour",), "openings": 0.0}
    often = {describe(scene, generator(i), synonyms=1.0, **plain).text for i in range(30)}
    assert often == {f"a {word} sparkle" for word in SYNONYMS["red"]}
    phrases = {describe(scene, generator(i), indirect=1.0, synonyms=0.0, **plain).text for i in range(30)}
    assert phrases == {f"a thing with five points {phrase}" for phrase in INDIRECT["red"]}
    assert all(holds(describe(scene, generator(i), indirect=1.0), scene) for i in range(5))


def test_a_sub_caption_is_true_and_says_a_part():
    stream = generator(4)
    for caption in describe_all(SCENES, generator(1), indirect=0.2):
        part = sub_caption(caption, stream)
        assert holds(part, caption.scene) and len(part.clauses) == 1
        assert set(part.content) <= set(caption.content) and "shape" in {slot.kind for slot in part.content}
        assert len(part.words) <= len(caption.words)
    assert len({sub_caption(caption, generator(i)).text for i in range(20)}) > 2


def test_a_false_caption_is_false_in_exactly_one_slot_of_the_same_part_of_speech():
    stream = generator(5)
    for caption in describe_all(SCENES, generator(1)):
        wrong = false_caption(caption, stream, exclude=("star", "sparkle", "red"))
        assert not holds(wrong, caption.scene)
        pairs = list(zip(caption.content, wrong.content, strict=True))
        changed = [(old, new) for old, new in pairs if old != new]
        assert len(changed) == 1
        ((old, new),) = changed
        assert old.says == new.says and old.part == new.part and old.value != new.value
        assert new.word not in ("star", "sparkle", "red") and MEANING[new.word] == new.value


def test_the_excluded_word_comes_in_when_it_is_not_excluded():
    caption = describe(Scene((Thing("ring", "red"),), "sea"), generator(0), mentions=(), openings=0.0)
    words = {false_caption(caption, generator(i), synonyms=0.0).content[0].word for i in range(150)}
    assert words == set(SHAPES) - {"ring"}


def test_a_false_caption_is_never_true_by_way_of_another_thing():
    part = sub_caption(describe(PAIR, generator(0), mentions=()), generator(1))
    assert len(part.content) == 1
    for i in range(60):
        assert false_caption(part, generator(i)).content[0].value not in ("star", "circle")


def test_relations_and_verbs_follow_from_the_places():
    assert (relation(PAIR, 0, 1), relation(PAIR, 1, 0)) == ("below", "above")
    side = Scene((Thing("star", "red", place="left"), Thing("moon", "red", place="right")), "sea")
    assert relation(side, 0, 1) == "beside" and facts(side)["things.0.verb"] == "stands"


def test_the_lexicon_is_consistent():
    assert len(VOCABULARY) <= 150 and list(VOCABULARY) == sorted(set(VOCABULARY))
    meanings = [(word, other) for word, others in SYNONYMS.items() for other in others]
    assert len({other for _, other in meanings}) == len(meanings), "a synonym stands for two words"
    for word, other in meanings:
        assert PARTS[word] == PARTS[other] and KIND_OF[word] == KIND_OF[other] and MEANING[other] == word
    assert {word for phrases in INDIRECT.values() for phrase in phrases for word in phrase.split()} <= set(VOCABULARY)
    for shape in SHAPES:
        assert len(set(templates(shape))) == 8
        assert {word for text in templates(shape) for word in text.split()} <= set(VOCABULARY)
    assert templates("arrow")[0] == "a picture of an arrow"


def test_errors_name_the_value_and_what_was_expected():
    with pytest.raises(CompanionError, match=r"cannot mention 'smell'.*size, colour"):
        describe(PAIR, generator(0), mentions=("smell",))
    with pytest.raises(CompanionError, match="2 things cannot be described in 4 words; allow at least 5"):
        describe(PAIR, generator(0), longest=4)
    caption = describe(PAIR, generator(0), mentions=(), openings=0.0)
    with pytest.raises(CompanionError, match=r"no word can make 'a .* and a .*' false"):
        false_caption(caption, generator(0), kinds=("colour",))
    with pytest.raises(CompanionError, match="cannot be taken apart"):
        sub_caption(Caption(()), generator(0))
