"""The experiments of the RBNN chapter: what shares what, drops by hand, and every path at tiny size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from companion.binary.training import BinaryTraining
from companion.errors import CompanionError
from companion.store import ModelStore
from companion.studies import rbnn, rbnn_arena

TINY = rbnn_arena.Arena("embedded", 16, 40, 30, {"vgg": 3, "resnet": 3, "reactnet": 3}, BinaryTraining(1, 20), 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def network(store):
    return rbnn_arena.train_network(TINY, "vgg", range(2), store)


def test_six_tasks_are_pictures_and_one_is_sound():
    for tasks in rbnn_arena.TASKS.values():
        assert sorted(task.modality for task in tasks) == ["audio"] + ["image"] * 6
        assert len({task.name for task in tasks}) == 7


def test_the_drop_by_hand():
    right = torch.tensor([True, True, True, False])
    worse = torch.tensor([True, False, False, False])
    drop = rbnn.mean_drop([right, right], [worse, right])
    assert drop.value == pytest.approx(25) and drop.n == 8
    assert drop.interval.low < 25 < drop.interval.high
    spread = 100 * 1.96 * np.sqrt(np.var([0, 1, 1, 0], ddof=1) / 4) / 2
    assert rbnn.ends(drop) == pytest.approx((25 - spread, 25 + spread))


def test_chance_is_the_best_constant_answer():
    labels = TINY.held[0].labels
    assert TINY.chance(0) == pytest.approx(100 * max(int((labels == k).sum()) for k in range(10)) / len(labels))


def test_networks_start_alike_and_are_reused(store, network):
    before = store.trained
    again = rbnn_arena.train_network(TINY, "vgg", range(2), store)
    assert store.trained == before
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )
    fresh = [rbnn_arena._fresh(TINY, "vgg", 3, [0, 1], sharing) for sharing in rbnn_arena.SHARING]
    assert all(torch.equal(fresh[0].stem.weight, one.stem.weight) for one in fresh)
    assert [one.stem.keys[0] is None for one in fresh] == [False, True, False, False]
    assert [one.shared_norm for one in fresh] == [False, False, False, True]


@pytest.mark.parametrize("sharing", rbnn_arena.SHARING)
def test_every_way_of_sharing_trains(store, sharing):
    right = rbnn.correct(TINY, rbnn_arena.train_network(TINY, "vgg", range(2), store, sharing), range(2))
    assert [len(one) for one in right] == [30, 30]


def test_an_unknown_way_or_set_of_tasks_is_named(store):
    with pytest.raises(CompanionError, match="no way of sharing 'apart'"):
        rbnn_arena.train_network(TINY, "vgg", [0], store, "apart")
    with pytest.raises(CompanionError, match="no set of tasks 'all'"):
        replace(TINY, tasks="all")
    with pytest.raises(CompanionError, match="no start 'guess'"):
        rbnn.fine_tuning_attack(TINY, rbnn_arena.train_network(TINY, "vgg", [0], store), 0, "guess", 0.5, 1)


def test_right_user_and_device_lose_nothing(network):
    access = rbnn.access(TINY, network, 2, 0.1)
    expected = [100 * rbnn.share_of(one).rate for one in rbnn.correct(TINY, network, range(2))]
    assert access.right[:, 0].tolist() == expected
    assert access.wrong_device.shape == access.wrong_user.shape == (2, 2)


def test_no_flipped_bits_change_nothing_and_seeds_differ(network):
    right = [100 * rbnn.share_of(one).rate for one in rbnn.correct(TINY, network, range(2))]
    assert rbnn.flipped_curve(TINY, network, 1, [0.0])[0] == right[1]
    seeds = {TINY.key_seed(0), TINY.key_seed(1), *rbnn.wrong_seeds(TINY, 0, 3), *rbnn.near_seeds(TINY, 0, 3)}
    assert len(seeds) == 8
    assert len(rbnn.other_tasks_keys(TINY, network, 0)) == 1


def test_attacks_leave_the_network_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rbnn.recalibration_attack(TINY, network, 0, rbnn.wrong_seeds(TINY, 0, 1), 20)
    for start in rbnn.STARTS:
        assert rbnn.fine_tuning_attack(TINY, network, 0, start, 0.5, 2).n == 30
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("architecture", ["vgg", "resnet", "reactnet"])
def test_disk_and_packed_bits_give_the_same_answers(store, architecture):
    network = rbnn_arena.train_network(TINY, architecture, range(2), store)
    emulated, counted = rbnn.packed_answers(TINY, network, 1, 30)
    assert torch.equal(emulated, counted)
    copy = rbnn.from_disk(TINY, network, architecture, 1)
    assert torch.equal(rbnn.predict(copy, TINY.held[1].images, 1), emulated)
    assert set(rbnn.seconds_an_image(TINY, network, 1, 10, rounds=1)) == {"float32", "packed bits"}


def test_separate_networks_take_as_many_files_and_no_keys(store, network):
    alone = [rbnn_arena.train_network(TINY, "vgg", [task], store) for task in range(2)]
    one, both = rbnn.file_sizes(alone[0]), rbnn.sizes_of_separate(alone)
    assert rbnn.file_sizes(network).weights == one.weights and both.weights > 1.9 * one.weights
    assert rbnn.file_sizes(network).everything < both.everything
    assert rbnn.sizes_of_separate(alone[:1]).everything < one.everything


def test_another_width_is_another_network(store, network):
    wide = rbnn_arena.train_network(TINY, "vgg", range(2), store, width=6)
    assert wide.stem.weight.shape[0] == 6 and network.stem.weight.shape[0] == 3


def test_two_tasks_agree_in_about_half_of_the_weights(network):
    assert abs(rbnn.alike(network, 0, 1) - 50) < 5


def test_key_failures_grow_with_noise():
    few, many = rbnn.key_failures(TINY, [0.0, 0.35], 20)
    assert few.successes == 0 and many.successes > 15


def test_the_paper_profiles_path_on_larger_pictures(tmp_path):
    """Side 32 and all seven tasks, as the profile `paper` has them."""
    arena = replace(TINY, side=32, train_size=20, test_size=10)
    network = rbnn_arena.train_network(arena, "resnet", range(7), ModelStore(tmp_path))
    assert len(rbnn.correct(arena, network, range(7))) == 7
