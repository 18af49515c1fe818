"""The loaders on small files in the official formats, and on the real ones where COMPANION_DATA has them."""

import gzip
import io
import os
import struct
import tarfile

import numpy as np
import pytest
import torch
from cifar_toys import cifar_batch, python2_pickle
from data_toys import entry
from sklearn.datasets import load_digits

from companion.data import catalogue, local
from companion.data.manifest import load_manifest, names
from companion.errors import CompanionError


@pytest.fixture
def lay(toys, tmp_path, monkeypatch):
    """A function that lays files out and writes the manifest of the data set `toy` for them."""
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv("COMPANION_DATA", str(folder))

    def lay_out(loader: str, classes: int, split: dict | None = None, **files: bytes) -> None:
        for key, content in files.items():
            (folder / key).write_bytes(content)
        entries = {key: entry(key, content) for key, content in files.items()}
        splits = {"train": {"files": list(files), **(split or {})}}
        names = [f"c{k}" for k in range(classes)]
        toys.write("toy", [{"files": entries}], loader=loader, classes=names, splits=splits)

    return lay_out


def test_cifar_batches_are_joined_in_order(lay):
    (one, first, labels_one), (two, second, labels_two) = cifar_batch(7, 10, seed=0), cifar_batch(5, 10, seed=1)
    lay("companion.data.cifar:load", 10, batch_1=one, batch_2=two)
    images = catalogue.load("toy", "train")
    expected = np.concatenate([first, second]).astype(np.float32) / 255
    assert images.shape == (3, 32, 32) and np.array_equal(images.images.numpy(), expected)
    assert images.labels.tolist() == labels_one + labels_two


def archive_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"toy/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar100_is_read_out_of_its_archive_with_fine_labels(lay, toys):
    batch, pixels, labels = cifar_batch(6, 100, seed=0, key="fine_labels")
    other, _, _ = cifar_batch(4, 100, seed=1, key="fine_labels")
    content = archive_of(test=other, train=batch)
    lay("companion.data.cifar:load", 100, {"members": ["toy/train"]}, archive=content)
    images = catalogue.load("toy", "train")
    assert np.array_equal(images.images.numpy() * 255, pixels.astype(np.float32)) and images.labels.tolist() == labels
    assert toys.visible() == []  # nothing was unpacked
    lay("companion.data.cifar:load", 100, {"members": ["toy/train"]}, archive=archive_of(test=other))
    with pytest.raises(CompanionError, match="member toy/train cannot be read"):
        catalogue.load("toy", "train")


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"labels": [0]}, "`data` is"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, "3071"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "labels for 2 images"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "labels for 2 images"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "outside 0 to 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "1"]}, "outside 0 to 9"),
    ],
)
def test_a_cifar_batch_of_another_form_is_refused(lay, batch, said):
    lay("companion.data.cifar:load", 10, batch=python2_pickle(batch))
    with pytest.raises(CompanionError, match=said):
        catalogue.load("toy", "train")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx_files_are_read_plain_and_compressed(lay, squeeze):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 20), dtype=np.uint8)
    labels = np.array([0, 1, 2, 2, 1, 0], dtype=np.uint8)
    lay("companion.data.idx:load", 3, images=squeeze(idx(pixels)), labels=squeeze(idx(labels)))
    images = catalogue.load("toy", "train")
    assert images.shape == (1, 28, 20) and images.labels.tolist() == labels.tolist()
    assert np.array_equal(images.images[:, 0].numpy(), pixels.astype(np.float32) / 255)


PIXELS, LABELS = np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (idx(PIXELS)[:-1], idx(LABELS), "33 bytes, expected 34"),
        (idx(PIXELS) + b"x", idx(LABELS), "35 bytes, expected 34"),
        (b"\0\0\x0d" + idx(PIXELS)[3:], idx(LABELS), "00000d03"),
        (b"\n", idx(LABELS), "begins with 0a"),
        (b"\0\0\x08\xff", idx(LABELS), "4 bytes"),
        (gzip.compress(idx(PIXELS), mtime=0)[:-9], idx(LABELS), "cannot be decompressed"),
        (idx(PIXELS), idx(LABELS[:1]), r"\(2, 3, 3\).*\(1,\)"),
        (idx(LABELS), idx(LABELS), "expected"),
        (idx(PIXELS), idx(LABELS + 9), "label 9 is outside 0 to 1"),
    ],
    ids=["short", "long", "floats", "not idx", "header", "cut gzip", "counts", "shape", "label"],  # never the bytes
)
def test_a_bad_idx_file_is_refused(lay, images, labels, said):
    lay("companion.data.idx:load", 2, images=images, labels=labels)
    with pytest.raises(CompanionError, match=said):
        catalogue.load("toy", "train")


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3)])
def test_npz_arrays_are_read_with_the_channels_in_front(lay, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    lay("companion.data.arrays:load", 5, arrays=npz(images=pixels, labels=np.arange(5, dtype=np.uint8)))
    images = catalogue.load("toy", "train")
    expected = (pixels[..., None] if pixels.ndim == 3 else pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert images.images.is_contiguous() and np.array_equal(images.images.numpy(), expected)
    assert images.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npz(images=PIXELS), "labels"),
        (npz(images=PIXELS, labels=np.array([{}, {}])), "allow_pickle"),
        (npz(images=PIXELS.astype(float), labels=LABELS), "float64"),
        (npz(images=PIXELS, labels=LABELS[:1]), r"\(1,\)"),
        (npz(images=PIXELS, labels=LABELS + 2), "label 2 is outside"),
        (b"no archive", "not an npz archive"),
        (npz(images=PIXELS, labels=LABELS)[:-30], "not an npz archive"),
    ],
)
def test_a_bad_npz_file_is_refused(lay, content, said):
    lay("companion.data.arrays:load", 2, arrays=content)
    with pytest.raises(CompanionError, match=said):
        catalogue.load("toy", "train")


def test_digits_are_scikit_learns_doubled_exactly():
    images, reference = catalogue.load("digits", "all"), load_digits()
    assert images.shape == (1, 16, 16) and images.labels.tolist() == reference.target.tolist()
    padded = np.pad(reference.images / 16, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = {0: (0.25, 0.75, 0.0), 1: (0.0, 0.75, 0.25)}  # weights of the scan's rows above, here and below
    for down in (0, 1):
        for right in (0, 1):
            expected = sum(
                rows[down][i] * rows[right][j] * padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)
            )
            assert np.array_equal(images.images[:, 0, down::2, right::2].numpy(), expected.astype(np.float32))


def test_digits_split_into_train_and_test_without_overlap():
    train, test = catalogue.load("digits", "train"), catalogue.load("digits", "test")
    assert (len(train), len(test)) == (1438, 359)
    assert (test.labels.bincount() >= 34).all()
    assert torch.equal(catalogue.load("digits", "train").images, train.images)


REAL = {
    ("cifar10", "train"): ((50000, 3, 32, 32), 0.4734),
    ("cifar10", "test"): ((10000, 3, 32, 32), 0.4766),
    ("fashion_mnist", "train"): ((60000, 1, 28, 28), 0.2860),
    ("fashion_mnist", "test"): ((10000, 1, 28, 28), 0.2868),
    ("mnist_t10k", "t10k"): ((10000, 1, 28, 28), 0.1325),
    ("cifar100_fewshot", "train"): ((6000, 3, 32, 32), 0.4765),
    ("clothing_cc0_64", "train"): ((3068, 3, 64, 64), 0.4853),
    ("gtsrb32", "train"): ((6535, 3, 32, 32), 0.3245),
    ("gtsrb32", "fit"): ((5230, 3, 32, 32), 0.3225),
    ("orl_faces", "all"): ((400, 1, 112, 92), 0.4417),
}
needs_data = pytest.mark.skipif(
    not os.environ.get("COMPANION_DATA"), reason="COMPANION_DATA is not set: the real data sets are not on this machine"
)


@needs_data
@pytest.mark.parametrize(("name", "split"), REAL)
def test_real_data_are_the_known_ones(name, split):
    """Shapes, value range, and the mean pixel (for CIFAR-10, MNIST, Fashion-MNIST the published one)."""
    if local.locate(load_manifest(name)) is None:
        pytest.skip(f"COMPANION_DATA has no {name}")
    shape, mean = REAL[name, split]
    images = catalogue.load(name, split)
    assert tuple(images.images.shape) == shape and images.images.dtype == torch.float32
    assert images.images.min() >= 0 and images.images.max() <= 1
    assert float(images.images.mean()) == pytest.approx(mean, abs=1e-4)
    assert images.labels.unique().tolist() == list(range(len(images.classes)))


@needs_data
@pytest.mark.parametrize("name", names())
def test_real_files_are_those_of_the_manifest(name):
    described = load_manifest(name)
    found = local.locate(described) if described.layouts else None
    if found is None:
        pytest.skip(f"{name} is generated, or not in COMPANION_DATA")
    for key in found.layout.files:
        local.check(described, found, key, again=True)


@needs_data
def test_the_gtsrb_halves_share_no_track():
    """A track shows one sign five times; a track in both halves would leak from attacker to defender."""
    described = load_manifest("gtsrb32")
    found = local.locate(described)
    if found is None:
        pytest.skip("COMPANION_DATA has no gtsrb32")
    with np.load(found.path("train")) as archive:
        tracks = list(zip(archive["labels"].tolist(), archive["track"].tolist(), strict=True))
        images = archive["images"]
    owner = {image.tobytes(): track for image, track in zip(images, tracks, strict=True)}
    halves = []
    for split in ("attacker", "defender"):
        pixels = (
            (catalogue.load("gtsrb32", split).images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        )
        halves.append({owner[image.numpy().tobytes()] for image in pixels})
    assert halves[0] | halves[1] == set(tracks) and not halves[0] & halves[1]
