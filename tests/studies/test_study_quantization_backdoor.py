"""The experiments of the chapter on quantization backdoors, every path of them at tiny size."""

from dataclasses import replace

import pytest
import torch

from companion.defenses import neural_cleanse, strip
from companion.errors import CompanionError
from companion.quantization import tflite_record
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies import quantization_backdoor as study

TINY = study.arena(
    {
        "data": "digits",
        "train_size": 100,
        "held_size": 120,
        "networks": ["resnet"],
        "settings": {"resnet": {"width": 4}},
        "training": {"epochs": 1, "batch_size": 25, "learning_rate": 0.05},
        "dormancy": {"epochs": 1},
        "calibration": 20,
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def models(store):
    return TINY.models("resnet", 0, store)


def test_an_arena_is_described_by_plain_values():
    assert TINY.training.epochs == 1 and TINY.dormancy.epochs == 1 and TINY.implant == study.ImplantConfig()
    assert TINY.recipe("resnet", "clean", 0).implant is None and TINY.recipe("resnet", "implanted", 0).dormancy is None
    with pytest.raises(CompanionError, match="no stage 'asleep'"):
        TINY.recipe("resnet", "asleep", 0)
    with pytest.raises(CompanionError, match="Check the names"):
        study.arena({"data": "digits", "train_size": 9, "held_size": 9, "epoch": 1})


def test_every_deployment_answers_and_is_counted_without_the_target_class(models):
    held, calibration = TINY.held_out(), TINY.calibration_images()
    for kind in study.DEPLOYMENTS:
        found = study.outcome(study.deployed(models["dormant"], kind, calibration), models["dormant"], held)
        assert found.accuracy.n == 120 and found.success.n == int((held.labels != 0).sum())
        assert found.percent() == [100 * found.accuracy.rate, 100 * found.success.rate]
    margins = study.margins(models["dormant"].model, models["dormant"], held)
    assert len(margins) == found.success.n
    plain = study.outcome(models["dormant"].model, models["dormant"], held)
    assert int((margins > 0).sum()) >= plain.success.successes


def test_codes_are_compared_for_every_rule_and_with_the_toolkit(models):
    found = study.check_codes(models, TINY.calibration_images())
    weights = sum(layer.weight.numel() for layer in study.quantized_layers(models["clean"].model).values())
    assert found == study.CodeCheck(3 * weights, 0, 0)
    assert study.check_codes({**models, "dormant": models["clean"]}, TINY.calibration_images()).moved > 0


def test_defences_and_mitigations_at_tiny_size(models):
    held, calibration, subject = TINY.held_out(), TINY.calibration_images(), models["dormant"]
    config = replace(neural_cleanse.QUICK, steps=2, check_every=1, batch=2)
    for model in (subject.model, study.deployed(subject, "fbgemm", calibration)):
        found = study.inspect(model, 0, held, config, 0, size=4)
        assert found.target_norm >= 0 and abs(found.target_index) <= 1e6
    report, clean, trojan = study.strip_of(subject.model, subject, held, 20, strip.Config(overlays=2), 0)
    assert len(clean) == len(trojan) == report.false_rejection.n == report.false_acceptance.n == 20
    with pytest.raises(CompanionError, match="needs more than 120"):
        study.strip_of(subject.model, subject, held, 40, strip.Config(overlays=2), 0)
    for rounding in (*study.mitigations.ROUNDINGS, "learned"):
        assert study.outcome(study.rounded(subject, rounding, calibration, 0), subject, held).accuracy.n == 120
    nearest = study.answers(study.rounded(subject, "nearest", calibration, 0), held.images)
    assert torch.equal(nearest, study.answers(study.deployed(subject, "fbgemm", calibration), held.images))
    assert torch.equal(nearest, study.answers(study.shaken(subject, 0.0, calibration, 0), held.images))


def test_ablations_change_stage_1_only_and_share_the_default(store, models):
    for name, changes in study.ABLATIONS.items():
        awake, asleep = study.ablated(TINY, "resnet", 0, store, name)
        assert asleep.recipe.implant == replace(TINY.implant, **changes) == awake.recipe.implant
        assert asleep.recipe.dormancy == TINY.dormancy and awake.recipe.dormancy is None
    assert study.ablated(TINY, "resnet", 0, store, "full")[1].key == models["dormant"].key
    low = study.ablated(TINY, "resnet", 0, store, "no widening", bits=4)[1]
    assert low.recipe.bits == 4 and study.peakedness(low.model) > 1


def test_rows_of_the_record():
    assert study.recorded_row(None)[:5] == ["-"] * 5
    outcomes = {kind: (Proportion(9, 10), Proportion(1, 8)) for kind in tflite_record.KINDS}
    record = tflite_record.Measured(outcomes, 100, 2, "2026-11-21", {"tensorflow": "2.21.0"}, "ab" * 32)
    row = study.recorded_row(record)
    assert row == [90.0, 12.5, 90.0, 12.5, "2 of 100", "2026-11-21, tensorflow 2.21.0, key abababab"]
    assert len(row) == len(study.RECORDED)
    assert tflite_record.measured(TINY.recipe("resnet", "clean", 0)) is None


@pytest.mark.parametrize("network", ["vgg16", "resnet18"])
def test_the_profile_paper_takes_the_same_path(store, network):
    """The paper's networks and loss of stage 1, on a dozen images."""
    settings = {"hesitation": 0.0, "widening": 0.0, "centring": 1.0, "share": 0.5}
    large = replace(TINY, train_size=12, settings={}, implant=study.ImplantConfig(**settings), calibration=4)
    large = replace(large, training=replace(TINY.training, batch_size=9))
    subject = study.obtain(large.recipe(network, "dormant", 0), store)
    held = TINY.held_out().subset(torch.arange(4))
    integer = study.deployed(subject, "pytorch_fbgemm", large.calibration_images())
    assert study.outcome(integer, subject, held).accuracy.n == 4
