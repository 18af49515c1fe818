"""The experiments of the CloFormer chapter: every path of it at tiny size."""

from dataclasses import replace

import pytest
import torch

from companion.errors import CompanionError
from companion.models.cloformer import CloFormerConfig
from companion.store import ModelStore
from companion.studies import cloformer as clo
from companion.vision import nets
from companion.vision.fitting import FitConfig
from companion.vision.streets import generate

TINY = clo.Arena(
    "digits",
    train_size=60,
    held_size=40,
    base=CloFormerConfig(
        (16, 32, 64), (1, 1, 1), (2, 4, 8), (1, 2, 4), (3, 5, 7), (2, 1, 1), ffn_ratio=2.0, stem_stride=2
    ),
    fit=FitConfig(epochs=1, batch_size=20),
    rivals={"mobilenet": {"expansion": 2}, "vit": {"patch": 4, "depth": 2}},
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


def test_sizes_stand_beside_the_published_ones():
    for size in clo.published_sizes(64):
        assert size.parameters / 1e6 == pytest.approx(size.published_parameters, abs=0.05)
    assert (
        set(clo.MAIN) <= set(nets.NETS) and set(clo.GATES_TRIED) <= set(nets.NETS) and set(nets.NETS) <= set(clo.NAMES)
    )


def test_every_measurement_of_the_chapter_at_tiny_size(store):
    held = TINY.held_out()
    trained = clo.train_all(TINY, ("both", "local", "mobilenet", "vit"), 0, store)
    start = clo.untrained(TINY, "both", held, 0)
    assert start.parameters == trained["both"].parameters and start.macs == trained["both"].macs
    again = clo.train_all(TINY, ("both",), 0, store)["both"]
    for net in trained.values():
        right = clo.correct(net, held)
        assert clo.share(right).n == 40 and clo.share(right).successes == right.sum()
        assert clo.throughput(net, held.images[:4], 1) > 0
    assert torch.equal(clo.correct(again, held), clo.correct(trained["both"], held))
    spectra = clo.spectra(trained["both"], held.images[:5])
    assert [one.side for one in spectra] == [8, 4]
    for one in spectra:
        assert all(float(power.sum()) == pytest.approx(1) for power in one.power.values())
    seen = clo.looks(trained["both"], held.images[:3])
    assert seen.gate.shape == (3, 8, 8) and seen.gate.max() <= 1
    assert seen.attended.sum(dim=(1, 2)).tolist() == pytest.approx([1] * 3)
    drawn = clo.picture(seen.gate[0], 16)
    assert drawn.shape == (1, 16, 16) and (float(drawn.min()), float(drawn.max())) == (0, 1)
    with pytest.raises(CompanionError, match="no two-branch attention"):
        clo.spectra(trained["mobilenet"], held.images[:2])


def test_classes_can_be_left_out():
    held = replace(TINY, first_class=4).held_out()
    assert len(held.classes) == 6 and set(held.labels.tolist()) == set(range(6))


def test_detection_and_segmentation_at_tiny_size(store):
    trained = clo.train_dense_all(TINY, ("both", "mobilenet"), 40, 32, 8, 0, store, "cpu")
    data = generate("test", 20, 32)
    for net in trained.values():
        score = clo.dense_score(net, data)
        assert 0 <= score.precision <= 1 and 0 <= score.overlap <= 1 and len(score.overlaps) == 5
        rows = clo.dense_pictures(net, data, 2, threshold=0.0)
        assert len(rows) == 2 and all(one.shape == (3, 32, 32) for row in rows for one in row)
        assert nets.stride_of(net.model, 32) == 2


def test_a_perfect_answer_scores_one():
    data = generate("test", 30, 32)
    masks = torch.nn.functional.one_hot(data.masks, 5).permute(0, 3, 1, 2).float()
    assert torch.equal(clo.full_masks(masks, 32), data.masks)
