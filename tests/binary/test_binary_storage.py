"""Files: one bit a weight, read back to the same network, and refused when damaged or of another network."""

import pytest
import torch

from companion.binary import keys, storage
from companion.binary.networks import ARCHITECTURES, build_network
from companion.binary.training import recalibrated
from companion.errors import CompanionError
from companion.seeding import generator

IMAGES = torch.rand(10, 1, 16, 16, generator=generator(0, "x"))


def made(architecture="vgg", classes=(5, 3), name="w"):
    network = build_network(architecture, classes, 4, generator(0, name)).eval()
    return keys.configure_all(network, [bytes([k + 1] * 16) for k in range(len(classes))])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_read_back_answers_the_same(tmp_path, architecture):
    network = recalibrated(made(architecture), IMAGES, 1)
    copy = made(architecture, name="other")
    storage.save_weights(network, tmp_path / "w")
    storage.save_task(network, 1, bytes(range(16)), tmp_path / "t")
    storage.load_weights(copy, tmp_path / "w")
    assert storage.load_task(copy, 1, tmp_path / "t") == bytes(range(16))
    with torch.no_grad():
        assert torch.equal(copy(IMAGES, 1), network(IMAGES, 1))


def test_the_file_of_weights_has_a_bit_a_weight_and_does_not_grow_with_tasks(tmp_path):
    sizes = [storage.save_weights(made(classes=(5,) * m), tmp_path / "w") for m in (1, 2, 7)]
    network = made()
    assert len(set(sizes)) == 1
    overhead = sizes[0] - (network.binary_weights() + 7) // 8
    assert 0 < overhead < 400, "a header and a digest"
    assert sizes[0] < 4 * network.binary_weights() / 20


def test_a_task_file_holds_its_floats_and_its_seed(tmp_path):
    network = made()
    count = sum(values.numel() for values in network.task_tensors(0).values())
    assert storage.save_task(network, 0, bytes(16), tmp_path / "t") == 4 + 16 + 4 * count + 32
    with pytest.raises(CompanionError, match="wrapped seed of a task file: found 3 bytes"):
        storage.save_task(network, 0, bytes(3), tmp_path / "t")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    network = made()
    storage.save_weights(network, tmp_path / "w")
    storage.save_task(network, 0, bytes(16), tmp_path / "t")
    content = bytearray((tmp_path / "w").read_bytes())
    content[-40] ^= 1
    (tmp_path / "damaged").write_bytes(bytes(content))
    with pytest.raises(CompanionError, match="is damaged"):
        storage.load_weights(network, tmp_path / "damaged")
    with pytest.raises(CompanionError, match="expected b'RBNW'"):
        storage.load_weights(network, tmp_path / "t")
    with pytest.raises(CompanionError, match="Build the network alike"):
        storage.load_weights(made("resnet"), tmp_path / "w")
    with pytest.raises(CompanionError, match="a task of this network has"):
        storage.load_task(made("resnet"), 0, tmp_path / "t")
