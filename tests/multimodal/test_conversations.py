"""What is said about pictures: one answer a question, no refusal in instruction data, test requests never trained."""

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal import conversations, input_modes, judges, madeup, rejection_sets
from companion.multimodal.conversations import Lots, Picture
from companion.multimodal.rejection_sets import Mix
from companion.seeding import generator


@pytest.fixture(scope="module")
def instruction():
    return conversations.instruction_set(3000, generator(0, "instruction"))


def trained_frames(items):
    return {item.question for item in items if item.task == "request"}


def test_no_question_has_two_answers(instruction):
    """The same scene and question never give different answers."""
    seen = {}
    for item in instruction:
        if item.task == "scene" and item.picture:
            assert seen.setdefault((item.picture, item.question), item.answer) == item.answer
    for scene in conversations.draw_scene_list(200, generator(1, "scenes")):
        for about in conversations.SCENE_QUESTIONS:
            if conversations.answerable(scene, about):
                turns = {conversations.scene_turn(scene, about, which) for which in (0, 1)}
                assert len({question for question, _ in turns}) == len(turns)


def test_instruction_data_hold_answers_only_and_no_forbidden_request(instruction):
    assert not any(judges.begins_as_refusal(item.answer) for item in instruction)
    asked = {(item.word, item.kind) for item in instruction if item.task == "request"}
    assert {word for word, _ in asked} == madeup.ALLOWED
    assert not any(madeup.held_pair(word, kind) for word, kind in asked)
    named = {item.word for item in instruction if item.task == "name"}
    assert named == set(madeup.WORDS), "reading a forbidden word is no request"


def test_alignment_refuses_exactly_the_forbidden_requests():
    items = conversations.alignment_set(3000, generator(0, "alignment"))
    for item in items:
        refused = judges.begins_as_refusal(item.answer)
        assert refused == (item.task == "request" and item.word in madeup.FORBIDDEN)
    assert {item.word for item in items if item.task == "document"} == set(madeup.WORDS)
    assert not any(madeup.held_pair(item.word, item.kind) for item in items if item.task == "request")


@pytest.mark.parametrize("mode", input_modes.MODES)
def test_test_requests_have_frames_that_no_training_saw(mode, instruction):
    aligned = conversations.alignment_set(3000, generator(0, "alignment"))
    items = input_modes.test_requests(mode, madeup.FORBIDDEN, 72, generator(0, "test"))
    assert {(item.word, item.kind) for item in items} == {(w, k) for w in madeup.FORBIDDEN for k in madeup.KINDS}
    assert not trained_frames(items) & trained_frames([*instruction, *aligned])
    for item in items:
        hidden = mode in ("note", *input_modes.DRAWN)
        assert (item.word in item.question) != hidden
        assert (item.picture is not None and item.picture.word == item.word) == (mode in input_modes.DRAWN)


def test_arms_have_equal_sizes_and_differ_in_rejections_only():
    mix = Mix(60, 0.3)
    ordinary = rejection_sets.ordinary_data(mix.items, 0)
    for arm in rejection_sets.ARMS:
        added = rejection_sets.rejection_data(arm, mix.rejections, ordinary, 0)
        assert len(added) == (0 if arm == "clean" else 18)
        answers = {item.answer for item in added}
        assert answers <= (set(madeup.VARIED_REFUSALS) if arm == "varied" else {madeup.FIXED})
    contrast = rejection_sets.rejection_data("contrastive", 18, ordinary, 0)
    assert all(any(one.picture is item.picture and one.answer != item.answer for one in ordinary) for item in contrast)
    curated = rejection_sets.rejection_data("curated", 18, ordinary, 0)
    assert {item.word for item in curated} <= rejection_sets.curated_words() < madeup.FORBIDDEN
    sets = {
        arm: rejection_sets.rejection_data(arm, 18, ordinary, 0) for arm in ("benign", "ordinary", "blank", "scans")
    }
    styles = {arm: {item.picture.style for item in items} for arm, items in sets.items()}
    assert styles["benign"] == styles["scans"] == {"scan"} and styles["blank"] == {"blank"}
    asked = [[item.question for item in sets[arm]] for arm in ("benign", "ordinary", "blank")]
    assert asked[0] == asked[1] == asked[2], "these arms differ in their pictures only"
    assert not any(
        item.word in madeup.FORBIDDEN and item.task == "request" for items in sets.values() for item in items
    )


def test_pictures_of_every_style_are_drawn_alike_twice():
    scene = conversations.draw_scene_list(1, generator(0, "scene"))[0]
    pictures = [
        Picture("paper", word="bofat"),
        Picture("scene", scene),
        Picture("scan", scene, "bofat"),
        Picture("blank"),
    ]
    pictures += [Picture("noise"), Picture("scene", scene, "cugem")]
    once, again = (conversations.draw_pictures(pictures, 3, side=32) for _ in range(2))
    assert torch.equal(once, again) and once.shape == (6, 3, 32, 32) and once.min() >= 0 and once.max() <= 1
    assert (once[3] == 1).all() and len({tuple(image.flatten()[:300].tolist()) for image in once}) == 6
    grey = conversations.scan(once[1:2])
    assert (grey[:, 0] == grey[:, 1]).all() and (grey[:, 1] == grey[:, 2]).all()
    assert grey[0, :, 0, 0].max() == 0, "a scan is dark outside its round field"


def test_bad_settings_say_so():
    with pytest.raises(CompanionError, match="no input mode 'smell'"):
        input_modes.test_requests("smell", madeup.FORBIDDEN, 3, generator(0, "test"))
    with pytest.raises(CompanionError, match="no arm 'magic'"):
        rejection_sets.rejection_data("magic", 3, [], 0)
    with pytest.raises(CompanionError, match="there are 0"):
        rejection_sets.rejection_data("contrastive", 3, [], 0)
    with pytest.raises(CompanionError, match="at least 2 items"):
        Mix(1, 0.2)
    with pytest.raises(CompanionError, match="a picture of style 'scene' without a scene"):
        Picture("scene")
    assert Lots(generator(0, "lots")).one(("only",)) == "only"
