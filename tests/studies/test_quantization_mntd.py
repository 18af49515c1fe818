"""MNTD's shadows beside models with batch normalisation, at tiny size."""

from dataclasses import replace

import pytest
import torch

from companion.defenses import mntd
from companion.errors import CompanionError
from companion.fleet import FleetTraining
from companion.quantization.emulator import emulate
from companion.quantization.networks import build_network
from companion.quantization.quantizers import QUANTIZERS
from companion.seeding import generator
from companion.store import ModelStore
from companion.studies import quantization_mntd
from companion.victim_fleets import task

TINY = quantization_mntd.Shadows(
    "digits", 10, (103, 112), per_side=3, validation=2, width=2, training=FleetTraining(epochs=1, batch_size=30),
    meta=mntd.Config(queries=2, epochs=2, batch=2, replacement=False, repeats=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def suspects():
    images = task("digits", "test", tuple(range(10)), (0, 2)).images
    model = build_network("resnet", 1, 10, generator(0, "weights"), width=4).eval()
    return {"float": model, "integer": emulate(model, QUANTIZERS["fbgemm"], images)}


def test_float_and_integer_models_are_judged_by_the_same_shadows(store, suspects):
    before = {name: value.clone() for name, value in suspects["float"].state_dict().items()}
    found, auc = quantization_mntd.judge(suspects, TINY, store, 0)
    assert list(found) == list(suspects) and 0 <= auc <= 1
    assert all(one.flagged == (one.score > 0) for one in found.values())
    assert all(torch.equal(before[name], value) for name, value in suspects["float"].state_dict().items())
    trained = store.trained
    again, _ = quantization_mntd.judge({"float": suspects["float"]}, TINY, store, 0)
    assert again["float"] == found["float"], "a judgement does not depend on who else is judged"
    assert store.trained == trained
    with pytest.raises(CompanionError, match="no model to judge"):
        quantization_mntd.judge({}, TINY, store, 0)


def test_clean_and_backdoored_shadows_are_trained_alike():
    clean, jumbo = (TINY.recipe(kind, "train", 3, 0) for kind in ("clean", "jumbo"))
    assert clean.enlarged and replace(clean, kind="jumbo", enlarged=False) == jumbo
    assert TINY.recipe("clean", "validation", 3, 0).seed != clean.seed, "validation shadows are others"
