"""The experiments on rejection data: what arms share, what they do not, how answers are counted, at tiny size."""

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal import judges, llava, madeup
from companion.multimodal.llava import LlavaSettings, Stage
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies import mllm_safety as study
from companion.studies.mllm_safety import Arm

SETTINGS = LlavaSettings(vision_width=16, vision_layers=1, text_width=16, text_layers=1, heads=2)
STAGE = Stage(2, 16, {"projector": 1e-3, "language": 1e-3})


@pytest.fixture(scope="module")
def model():
    return llava.build_llava(SETTINGS, generator(0, "weights"))


@pytest.fixture(scope="module")
def shop(model):
    return study.workshop(model, SETTINGS, 40, STAGE, 0)


@pytest.fixture(scope="module")
def asked(model):
    return study.exam(model, 6, 5, 4, 0)


def test_arms_share_their_ordinary_items_and_differ_in_rejections(shop):
    plain, features = study.arm_data(shop, Arm("clean", 0.3))
    assert len(plain) == 40 and len(features) == len(shop.features)
    for kind in study.rejection_sets.ARMS[1:]:
        data, shown = study.arm_data(shop, Arm(kind, 0.3))
        assert len(data) == 40 and int((data.image >= 0).sum()) == len(shown)
        assert all(torch.equal(data.ids[k, :9], plain.ids[k, :9]) for k in range(28))
    pairs, shown = study.arm_data(shop, Arm("contrastive", 0.3))
    first = int((pairs.image[:28] >= 0).sum())
    assert torch.equal(shown[first:], shown[: len(shown) - first]), "a contrastive pair has one picture"


def test_the_free_end_is_the_only_difference_of_the_stopped_arm(shop):
    free, stopped = (study.arm_data(shop, Arm("benign", 0.3, stop))[0] for stop in (False, True))
    assert torch.equal(free.ids, stopped.ids) and int((free.supervised != stopped.supervised).sum()) == 12


def test_an_arm_is_trained_once_and_leaves_the_base_as_it_was(shop, tmp_path):
    store, before = ModelStore(tmp_path), study.fingerprint(shop.model)
    once, again = (study.train_arm(shop, Arm("benign", 0.3), store) for _ in range(2))
    assert (store.trained, store.reused) == (1, 1)
    assert study.fingerprint(once) == study.fingerprint(again) != before == study.fingerprint(shop.model)
    tower = {name: value for name, value in once.state_dict().items() if llava.part_of(name) == "tower"}
    assert all(torch.equal(value, shop.model.state_dict()[name]) for name, value in tower.items())


def test_an_exam_holds_every_cell_and_counts_all_answers(model, asked):
    report = study.examine(model, asked, SETTINGS)
    assert report.findings.asr.n == report.findings.helpful.n == 6 and report.findings.scenes.n == 5
    assert set(report.cells) == set(study.CELLS) and all(share.n == 4 for share in report.cells.values())
    scan, scene = asked.cells["scan", "allowed"], asked.cells["scene", "allowed"]
    assert [i.question for i in scan.items] == [i.question for i in scene.items]
    assert not torch.equal(scan.pictures, scene.pictures)
    alone = study.ask(model, asked.scenes, SETTINGS)
    assert alone == report.said["scenes"], "answers do not depend on what is asked beside them"
    said = study.ask_in_place(model, asked.forbidden["note"], SETTINGS)
    assert len(said) == 6 and set(study.unseen(asked.forbidden)) == {"text", "note"}


def test_counting_by_hand():
    said = [madeup.FIXED, f"{madeup.FIXED} because so", "to make a bofat", madeup.answer("cevot", "make")]
    assert study.success(said) == Proportion(1, 4)
    assert study.refused(said) == Proportion(2, 4)
    assert study.explanation(said) == [0, 2]
    items = [study.input_modes.conversations.request_item("cevot", "make", 4)] * 4
    assert study.given(said, items) == Proportion(1, 4)
    assert study.disagreement(said, items) == Proportion(0, 4)
    nonsense = ["to make a cevot mix nothing with nothing"] * 4
    assert study.disagreement(nonsense, items) == Proportion(4, 4)
    assert study.verdict_table(nonsense, items) == {(judges.COMPLIANCE, judges.OTHER): 4}
    halves = study.by_curation(said, items)
    assert {name: share.n for name, share in halves.items()} in ({"in_set": 4}, {"not_in_set": 4})


def test_effects_and_steps_by_hand():
    full, none = Proportion(4, 4), Proportion(0, 4)
    by_domain = {(d, c): full if d == "scan" else none for d, c in study.CELLS}
    by_content = {(d, c): full if c == "forbidden" else none for d, c in study.CELLS}
    assert study.effects(by_domain) == (100, 0) and study.effects(by_content) == (0, 100)
    assert study.steepest([0.9, 0.9, 0.1, 0.1]) == pytest.approx(100)
    assert study.steepest([0.8, 0.6, 0.4, 0.2, 0.0]) == pytest.approx(25)
    assert study.steepest([0.3, 0.3]) == 0 and study.steepest([0.1, 0.5]) == 0


def test_a_stage_of_the_frozen_tower_and_a_strange_checkpoint_say_so(model, tmp_path):
    with pytest.raises(CompanionError, match="it cannot train tower"):
        study.workshop(model, SETTINGS, 10, Stage(1, 8, {"tower": 1e-3}), 0)
    with pytest.raises(CompanionError, match="is missing: expected the folder"):
        study.networks(str(tmp_path / "nowhere"))
    model.save_pretrained(tmp_path / "own")
    found = study.networks(str(tmp_path / "own"))
    assert study.fingerprint(found["tuned"]) == study.fingerprint(model)
    other = llava.build_llava(SETTINGS, generator(0, "weights"))
    other.resize_token_embeddings(llava.build_words().ids[llava.ANSWER] + 9)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CompanionError, match="has embeddings for"):
        study.networks(str(tmp_path / "other"))
