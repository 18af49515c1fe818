"""Loading by name: checked files, named protocols, and errors that name the values."""

import os

import numpy as np
import pytest
import torch
from data_toys import entry

from companion.data import catalogue, local
from companion.data.manifest import load_manifest
from companion.errors import CompanionError


@pytest.fixture
def given(toys, tmp_path, monkeypatch):
    """COMPANION_DATA with a data set of 40 images, ten of each of four classes."""
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv("COMPANION_DATA", str(folder))
    images = np.arange(40, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(folder / "toy.npz", images=images, labels=np.arange(40) % 4)
    splits = {
        "train": {"files": ["blob"], "images": 40},
        "attacker": {"of": "train", "share": [0.0, 0.5]},
        "defender": {"of": "train", "share": [0.5, 1.0]},
        "probe": {"of": "defender", "share": [0.0, 0.4]},
    }
    file = entry("toy.npz", (folder / "toy.npz").read_bytes())
    toys.write("toy", [{"files": {"blob": file}}], classes=["a", "b", "c", "d"], splits=splits)
    return folder


def test_images_come_back_in_the_agreed_form(given):
    images = catalogue.load("toy", "train")
    assert images.shape == (1, 4, 4) and images.images.dtype == torch.float32 and images.labels.dtype == torch.int64
    assert torch.equal(images.images[:, 0, 0, 0] * 255, torch.arange(40.0))
    assert (images.name, images.split, images.classes) == ("toy", "train", ("a", "b", "c", "d"))


def test_halves_are_disjoint_and_a_share_of_a_share_lies_within_it(given):
    values = {s: set(catalogue.load("toy", s).images[:, 0, 0, 0].tolist()) for s in ("attacker", "defender", "probe")}
    assert len(values["attacker"]) == len(values["defender"]) == 20
    assert not values["attacker"] & values["defender"]
    assert len(values["probe"]) == 8 and values["probe"] < values["defender"]
    assert catalogue.load("toy", "probe").split == "probe"


def test_unknown_names_are_refused_with_what_exists(given):
    with pytest.raises(CompanionError, match=r"unknown data set 'tody'.*Known: toy"):
        catalogue.load("tody", "train")
    with pytest.raises(CompanionError, match=r"no split 'test'.*attacker, defender, probe, train"):
        catalogue.load("toy", "test")
    with pytest.raises(CompanionError, match=r"unknown option 'classes'; companion.data.arrays:load accepts: none"):
        catalogue.load("toy", "attacker", classes=3)


def test_size_takes_the_first_images_of_any_split(given):
    for split in ("train", "probe"):
        assert torch.equal(catalogue.load("toy", split, size=3).images, catalogue.load("toy", split).images[:3])
    with pytest.raises(CompanionError, match=r"split 'probe': 9 images were asked for; expected 1 to 8"):
        catalogue.load("toy", "probe", size=9)
    with pytest.raises(CompanionError, match="0 images were asked for"):
        catalogue.load("toy", "train", size=0)


def test_missing_files_are_named_with_every_place_that_was_searched(given, toys):
    (given / "toy.npz").unlink()
    with pytest.raises(CompanionError) as caught:
        catalogue.load("toy", "attacker")
    message = str(caught.value)
    assert str(given / "toy.npz") in message and str(toys.cache / "data/toy.npz") in message
    assert "no public download (a test)" in message


def test_only_the_files_of_the_split_are_needed(given, toys):
    blob = (given / "toy.npz").read_bytes()
    layout = {"files": {"blob": entry("toy.npz", blob), "other": entry("other.npz", b"absent")}}
    splits = {"train": {"files": ["blob"]}, "test": {"files": ["other"]}}
    toys.write("toy", [layout], splits=splits, classes=list("abcd"))
    assert len(catalogue.load("toy", "train")) == 40
    with pytest.raises(CompanionError, match=r"other\.npz"):
        catalogue.load("toy", "test")


def test_a_changed_file_is_refused_with_both_digests(given):
    path = given / "toy.npz"
    content = bytearray(path.read_bytes())
    catalogue.load("toy", "train")
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(CompanionError) as caught:
        catalogue.load("toy", "train")
    for digest in (entry("x", bytes(content))["sha256"], load_manifest("toy").layouts[0].files["blob"].sha256):
        assert digest in str(caught.value)
    path.write_bytes(content[:-1])
    with pytest.raises(CompanionError, match=rf"size {len(content) - 1:,} bytes, expected {len(content):,}"):
        catalogue.load("toy", "train")


def test_a_file_is_hashed_once_until_it_changes(given, monkeypatch):
    hashed = []
    original = local.file_digest
    monkeypatch.setattr(local, "file_digest", lambda path: hashed.append(path) or original(path))
    catalogue.load("toy", "train")
    catalogue.load("toy", "attacker")
    assert len(hashed) == 1
    os.utime(given / "toy.npz", ns=(1, 1))
    catalogue.load("toy", "train")
    assert len(hashed) == 2
    local.check(load_manifest("toy"), local.locate(load_manifest("toy")), "blob", again=True)
    assert len(hashed) == 3


def test_a_cache_that_cannot_be_written_does_not_keep_data_from_being_read(given, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "file"))
    assert len(catalogue.load("toy", "train")) == 40


def test_companion_data_that_is_no_folder_is_an_error(given, monkeypatch):
    monkeypatch.setenv("COMPANION_DATA", str(given / "nowhere"))
    with pytest.raises(CompanionError, match="nowhere"):
        catalogue.load("toy", "train")


def test_a_wrong_number_of_images_is_an_error(given, toys):
    file = entry("toy.npz", (given / "toy.npz").read_bytes())
    splits = {"train": {"files": ["blob"], "images": 41}}
    toys.write("toy", [{"files": {"blob": file}}], splits=splits, classes=list("abcd"))
    with pytest.raises(CompanionError, match=r"40 images were read.*says 41"):
        catalogue.load("toy", "train")


def test_loaders_are_named_and_missing_ones_say_when_they_come(toys):
    files = {"blob": entry("toy.npz", b"x")}
    toys.write("toy", [{"files": files}])
    assert catalogue.loader_module("toy") == "companion.data.arrays"
    toys.write("later", [{"files": files}], loader=None, chapter="rbnn")
    for call in (lambda: catalogue.loader_module("later"), lambda: catalogue.load("later", "train")):
        with pytest.raises(CompanionError, match="no loader yet: it comes with the chapter 'rbnn'"):
            call()
    toys.write("odd", [{"files": files}], loader="companion.data.nowhere:load")
    with pytest.raises(CompanionError, match=r"companion\.data\.nowhere:load.*cannot be found"):
        catalogue.load("odd", "train")


def test_a_folder_of_many_files_is_checked_by_its_listing(toys, tmp_path, monkeypatch):
    folder = tmp_path / "given/sounds"
    folder.mkdir(parents=True)
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path / "given"))
    for name in ("b.wav", "a.wav", "C.wav"):
        (folder / name).write_bytes(name.encode())
    (folder / "readme").write_bytes(b"not part of it")
    lines = [f"{entry('x', name.encode())['sha256']}  {name}\n" for name in ("C.wav", "a.wav", "b.wav")]
    listing = entry("sounds", "".join(lines).encode(), pattern="*.wav", count=3)
    toys.write("toy", [{"files": {"blob": {**listing, "size": 15}}}])
    described = load_manifest("toy")
    found = local.locate(described)
    local.check(described, found, "blob")
    (folder / "a.wav").write_bytes(b"x.wav")
    with pytest.raises(CompanionError, match="sha256"):
        local.check(described, found, "blob")
    (folder / "a.wav").unlink()
    with pytest.raises(CompanionError, match=r"2 files match \*\.wav, expected 3"):
        local.check(described, found, "blob")
