import pytest
import torch

from companion.errors import CompanionError
from companion.store import ModelStore
from companion.surrogates import SurrogateRecipe, train_surrogate
from companion.training import TrainingConfig

QUICK = TrainingConfig(epochs=1)


def recipe(**changes):
    return SurrogateRecipe("digits", changes.pop("family", "cnn"), count=128, training=QUICK, **changes)


def test_a_network_comes_back_from_the_store_bit_for_bit(tmp_path):
    store = ModelStore(tmp_path)
    first, second = train_surrogate(recipe(), store), train_surrogate(recipe(), store)
    assert first.fresh and not second.fresh and first.key == second.key
    images = torch.linspace(0, 1, 2 * 256).view(2, 1, 16, 16)
    assert torch.equal(first.model(images), second.model(images)) and not first.model.training
    assert first.info["images"] == 128 and first.info["classes"] == 10


def test_seeds_families_and_robustness_make_other_networks(tmp_path):
    store = ModelStore(tmp_path)
    recipes = [recipe(), recipe(seed=1), recipe(family="resnet"), recipe(robust_eps=0.1)]
    assert len({train_surrogate(one, store).key for one in recipes}) == 4


def test_a_count_beyond_the_split_is_named(tmp_path):
    with pytest.raises(CompanionError, match="asks for 99999 training images of digits"):
        train_surrogate(SurrogateRecipe("digits", "cnn", count=99999, training=QUICK), ModelStore(tmp_path))
