"""Manifests: the committed ones are valid, bad ones are refused with file and field, digests follow the bits only."""

import copy

import pytest
import yaml
from data_toys import BASIC, entry

from companion.data import catalogue, manifest
from companion.data.manifest import load_manifest, read_manifest
from companion.errors import CompanionError

NAMES = manifest.names()
FILE = entry("toy/blob.bin", b"content", url=["https://example.org/blob.bin"])
LAYOUT = {"name": "plain", "origin": "a test", "evidence": "a test", "files": {"blob": FILE}}
GOOD = {"name": "toy", **BASIC, "layouts": [LAYOUT]}


@pytest.mark.parametrize("name", NAMES)
def test_every_committed_manifest_is_valid(name):
    described = load_manifest(name)
    assert described.name == name and described.splits and described.citation and described.licence["name"]
    for layout in described.layouts:
        for key, file in layout.files.items():
            assert (file.sha256 is None) == (not file.verified), key


def test_the_data_sets_that_the_book_needs_are_described():
    official = {"cifar10", "cifar100", "fashion_mnist", "mnist", "gtsrb", "omniglot"}
    subsets = {"mnist_t10k", "cifar100_fewshot", "clothing_cc0_64", "gtsrb32", "orl_faces", "omniglot_small", "fsdd"}
    assert official | subsets | {"emoji_captions", "digits", "signs"} <= set(NAMES)
    for name in official:
        assert any(layout.downloads for layout in load_manifest(name).layouts), name
    for name in {"mnist_t10k", "cifar100_fewshot", "gtsrb32", "omniglot_small", "fsdd"}:
        assert "SUBSET" in load_manifest(name).description, name


def change(content: dict, path: str, value: object) -> dict:
    content = copy.deepcopy(content)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    target = content
    for part in parents:
        target = target[part]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return content


def read(tmp_path, content: object, name: str = "toy"):
    path = tmp_path / f"{name}.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return read_manifest(path)


def test_the_toy_is_valid_before_it_is_broken(tmp_path):
    assert read(tmp_path, GOOD).layouts[0].files["blob"].urls == ("https://example.org/blob.bin",)


FILE_PATH = "layouts/0/files/blob"


@pytest.mark.parametrize(
    ("path", "value", "field", "said"),
    [
        ("licence", None, "manifest", "licence"),
        ("name", "other", "name", "toy.yml"),
        ("name", "Toy", "name", "Toy"),
        ("kind", "imaginary", "kind", "imaginary"),
        ("kind", "generated", "layouts", "generated"),
        ("layouts", None, "layouts", "real"),
        ("colour", "blue", "manifest", "colour"),
        ("classes", ["a", "a"], "classes", "unique"),
        ("loader", "companion.data.arrays", "loader", "companion.data.arrays"),
        ("splits/train", {}, "splits.train.files", "missing"),
        ("splits/train/files", ["blub"], "splits.train.files", "blub"),
        ("splits/train/images", 0, "splits.train.images", "0"),
        ("splits/half", {"of": "trian"}, "splits.half.of", "trian"),
        ("splits/half", {"of": "half"}, "splits.half.of", "half"),
        ("splits/half", {"of": "train", "share": [0.5, 0.5]}, "splits.half.share", "empty"),
        ("splits/half", {"of": "train", "share": [0.5, 1.5]}, "splits.half.share.1", "1.5"),
        ("splits/half", {"of": "train", "files": ["blob"]}, "splits.half.files", "of"),
        (f"{FILE_PATH}/sha256", "abc", "layouts.0.files.blob.sha256", "abc"),
        (f"{FILE_PATH}/sha256", FILE["sha256"].upper(), "layouts.0.files.blob.sha256", FILE["sha256"].upper()),
        (f"{FILE_PATH}/sha256", None, "layouts.0.files.blob.sha256", "verified: false"),
        (f"{FILE_PATH}/size", None, "layouts.0.files.blob.size", "missing"),
        (f"{FILE_PATH}/size", "12", "layouts.0.files.blob.size", "12"),
        (f"{FILE_PATH}/verified", False, "layouts.0.files.blob.sha256", "published list"),
        (f"{FILE_PATH}/path", "../blob", "layouts.0.files.blob.path", "../blob"),
        (f"{FILE_PATH}/path", "/blob", "layouts.0.files.blob.path", "/blob"),
        (f"{FILE_PATH}/url", ["ftp://example.org"], "layouts.0.files.blob.url.0", "ftp"),
        (f"{FILE_PATH}/pattern", "*.wav", "layouts.0.files.blob.count", "pattern"),
        ("layouts/0/archive", {**FILE, "url": ["file:///etc"]}, "layouts.0.archive.url.0", "file"),
        ("layouts/0/archive", {k: v for k, v in FILE.items() if k != "url"}, "layouts.0.archive.url", "missing"),
        ("layouts/0/evidence", None, "layouts.0", "evidence"),
    ],
)
def test_a_bad_manifest_is_refused_with_file_and_field(tmp_path, path, value, field, said):
    with pytest.raises(CompanionError) as caught:
        read(tmp_path, change(GOOD, path, value))
    lines = str(caught.value).splitlines()
    assert str(tmp_path / "toy.yml") in lines[0]
    assert any(line.startswith(f"  {field}:") and said in line for line in lines[1:]), lines


def test_a_data_set_without_a_loader_names_its_chapter(tmp_path):
    with pytest.raises(CompanionError, match="chapter: missing"):
        read(tmp_path, {**GOOD, "loader": None})


@pytest.mark.parametrize("text", ["name: [", "name: toy\nname: toy\n", "a: !!python/object/apply:os.getcwd []", "\x00"])
def test_what_is_not_safe_yaml_is_refused(tmp_path, text):
    with pytest.raises(CompanionError, match=r"toy\.yml: cannot be read as YAML"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["", "- a\n", "just words"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(CompanionError, match="is not of type 'object'"):
        read(tmp_path, text)


def test_an_unknown_data_set_is_named_with_its_neighbour(toys):
    toys.write("cifar10", [{"files": {"blob": FILE}}])
    with pytest.raises(CompanionError, match=r"'cifr10'.*Did you mean 'cifar10'"):
        load_manifest("cifr10")


@pytest.mark.parametrize("name", ["../toy", "", "toy.yml", "/etc/passwd"])
def test_a_name_cannot_lead_out_of_the_folder(toys, name):
    toys.write("toy", [{"files": {"blob": FILE}}])
    with pytest.raises(CompanionError, match="unknown data set"):
        load_manifest(name)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", "Another"),
        ("description", "More."),
        ("licence/name", "MIT"),
        ("citation", "Someone."),
        ("layouts/0/origin", "elsewhere"),
        ("layouts/0/evidence", "better"),
        (f"{FILE_PATH}/url", ["https://mirror.example.org/blob.bin"]),
        ("splits/train/note", "a note"),
    ],
)
def test_prose_and_addresses_do_not_change_the_digest(tmp_path, path, value):
    assert manifest.digest(read(tmp_path, change(GOOD, path, value))) == manifest.digest(read(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{FILE_PATH}/sha256", "0" * 64),
        (f"{FILE_PATH}/size", 8),
        ("classes", ["b", "a"]),
        ("loader", "companion.data.idx:load"),
        ("splits/half", {"of": "train", "share": [0, 0.5]}),
    ],
)
def test_what_decides_the_bits_changes_the_digest(tmp_path, path, value):
    assert manifest.digest(read(tmp_path, change(GOOD, path, value))) != manifest.digest(read(tmp_path, GOOD))


def test_each_part_of_a_split_changes_the_digest(tmp_path):
    half = {"of": "train", "share": [0, 0.5], "seed": 0, "block": 1}
    variants = [half, {**half, "share": [0, 0.6]}, {**half, "seed": 1}, {**half, "block": 5}]
    digests = {manifest.digest(read(tmp_path, change(GOOD, "splits/half", variant))) for variant in variants}
    assert len(digests) == 4


def test_a_comment_does_not_change_the_digest(tmp_path):
    plain = yaml.safe_dump(GOOD)
    assert manifest.digest(read(tmp_path, "# a comment\n" + plain)) == manifest.digest(read(tmp_path, plain))


def test_a_digest_trusted_at_first_use_is_part_of_the_digest(toys):
    toys.write("toy", [{"files": {"blob": {"path": "blob", "verified": False, "evidence": "no list"}}}])
    before = catalogue.digest("toy")
    described = load_manifest("toy")
    catalogue.local.trust(described, described.layouts[0], "blob", "1" * 64, "a test")
    assert catalogue.digest("toy") != before
