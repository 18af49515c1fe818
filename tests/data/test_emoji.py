"""The emoji: words, groups that share a drawing, fixed splits, exact compositing, and files that are wrong."""

import hashlib
import json

import numpy as np
import pytest
import torch
from data_toys import entry
from PIL import Image

from companion.data import catalogue, emoji, local
from companion.data.manifest import load_manifest
from companion.errors import CompanionError

NAMES = {
    "people": ["Boy", "boy tone 1", "boy tone2", "family", "family (man,woman,girl)", "old man", "ghost"],
    "flags": ["Norway", "Bouvet Island", "Åland Islands", "Côte d’Ivoire", "U.S. Virgin Islands"],
    "symbols": ["clock face one oclock", "clock face six-thirty", "keycap ten", "no entry"],
    "regional": ["regional indicator symbol letter z"],
}


def drawing(seed: int) -> np.ndarray:
    """A picture of 64 x 64 pixels: coloured blocks on a transparent ground."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    blocks[..., 3] = np.where(rng.random((4, 4)) < 0.3, 0, 255)
    return blocks.repeat(16, 0).repeat(16, 1)


def told(name: str, category: str, number: int) -> dict:
    return {"file": f"{number:03d}.png", "name": name, "category": category, "keywords": ["T-shirt", "t shirt", "!"]}


@pytest.fixture
def place(toys, tmp_path, monkeypatch):
    """The folder of a small data set laid out as the real one; `place.again()` writes the manifest of what it holds."""
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path / "given"))
    folder = tmp_path / "given" / "emoji_captions"
    folder.mkdir(parents=True)
    entries = [told(name, kind, 0) for kind, names in NAMES.items() for name in names]
    for number, one in enumerate(entries):
        one["file"] = f"{number:03d}.png"
        picture = drawing(7 if one["name"] in ("Norway", "Bouvet Island") else 100 + number)
        Image.fromarray(picture).save(folder / one["file"])
    (folder / "captions.json").write_text(json.dumps(entries), encoding="utf-8")
    describe(toys, folder)
    return folder


def describe(toys, folder) -> None:
    found = sorted(folder.glob("*.png"))
    listing = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in found)
    pictures = entry("emoji_captions", listing.encode(), pattern="*.png", count=len(found))
    pictures["size"] = sum(path.stat().st_size for path in found)
    captions = entry("emoji_captions/captions.json", (folder / "captions.json").read_bytes())
    layout = {"files": {"pictures": pictures, "captions": captions}}
    split = {"all": {"files": ["pictures", "captions"]}}
    toys.write("emoji_captions", [layout], loader="companion.data.emoji:load", classes=list(NAMES), splits=split)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("see-no-evil monkey", "see no evil monkey"),
        ("family (man,woman)", "family man woman"),
        ("Åland Islands", "aland islands"),
        ("Côte d’Ivoire", "cote divoire"),
        ("u.s. virgin islands", "us virgin islands"),
        ("rainbow_flag: 6708", "rainbow flag 6708"),
        ("-", ""),
    ],
)
def test_names_become_plain_words(text, words):
    assert emoji.plain_words(text) == words


def test_a_record_says_what_the_entry_says_in_plain_words(place):
    records, pixels = emoji.emoji()
    named = {one.name: one for one in records}
    assert [named[name].tone for name in ("boy", "boy tone 1", "boy tone 2")] == [0, 1, 2]
    assert {one.group for one in records if one.name.startswith("boy")} == {"boy"}
    assert named["family man woman girl"].group == named["family"].group == "family"
    assert named["clock face six thirty"].group == "clock face" and named["keycap ten"].group == "keycap"
    assert named["old man"].keywords == ("t shirt",)
    assert pixels.shape == (len(records), 4, 64, 64) and pixels.dtype == torch.uint8
    assert np.array_equal(pixels[0].permute(1, 2, 0).numpy(), drawing(100))


def test_drawings_that_look_the_same_are_one_group_and_no_group_is_in_two_splits(place):
    records, _ = emoji.emoji()
    groups = {one.name: one.group for one in records}
    assert groups["norway"] == groups["bouvet island"] == "bouvet island", "the first name of the alphabet"
    assert groups["cote divoire"] == "cote divoire"
    splits = {}
    for one in records:
        splits.setdefault(one.group, set()).add(one.split)
    assert all(len(found) == 1 for found in splits.values())
    assert splits.pop("regional indicator symbol letter z") == {""}
    assert set.union(*splits.values()) <= set(emoji.SHARES)


def test_transparent_colours_do_not_make_drawings_differ():
    first = torch.from_numpy(drawing(0)).permute(2, 0, 1)
    second = torch.where(first[3:] == 0, torch.tensor([9, 99, 199, 0], dtype=torch.uint8)[:, None, None], first)
    other = torch.where(first[3:] == 0, torch.tensor([9, 99, 199, 255], dtype=torch.uint8)[:, None, None], first)
    assert not torch.equal(first, second)
    records = [emoji.Emoji(name, 0, "food", (), name, "", "") for name in "cba"]
    assert [one.group for one in emoji.grouped(records, torch.stack([first, second, other]))] == ["b", "b", "a"]


def test_shares_hold_within_each_category_and_whatever_else_there_is():
    records = [emoji.Emoji(f"{kind} {k}", 0, kind, (), f"{kind} {k}", "", "") for kind in "ab" for k in range(100)]
    found = emoji.shared_out(records)
    for kind in "ab":
        counts = [sum(one.split == split and one.category == kind for one in found) for split in emoji.SHARES]
        assert counts == [15, 9, 13, 63]
    alone = {one.name: one.split for one in emoji.shared_out([one for one in records if one.category == "b"])}
    assert alone == {one.name: one.split for one in found if one.category == "b"}


def test_a_pixel_is_laid_over_its_ground_exactly():
    pixels = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
    pixels[0, :, 0, 0] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)  # opaque red
    pixels[0, :, 0, 1] = torch.tensor([0, 255, 0, 51], dtype=torch.uint8)  # a fifth of green
    pixels[0, :, 1, 0] = torch.tensor([90, 90, 90, 0], dtype=torch.uint8)  # nothing, of some colour
    ground = torch.tensor([0.0, 0.4, 1.0])[None, :, None, None]
    whole = emoji.composite(*emoji.shrunk(pixels, 64), ground)
    assert whole.shape == (1, 3, 64, 64)
    levels = (whole[0] * 255).round().int()
    assert levels[:, 0, 0].tolist() == [255, 0, 0]
    assert levels[:, 0, 1].tolist() == [0, round(51 + 0.8 * 102), 204]
    assert levels[:, 1, 0].tolist() == levels[:, 9, 9].tolist() == [0, 102, 255]
    half = (emoji.composite(*emoji.shrunk(pixels, 32), ground)[0] * 255).round().int()
    red, green, blue = 255 / 4, (51 + 0.8 * 102 + 2 * 102) / 4, (204 + 2 * 255) / 4
    assert half[:, 0, 0].tolist() == [round(red), round(green), round(blue)]


def test_the_catalogue_reads_all_of_them_as_labelled_pictures(place):
    images = catalogue.load("emoji_captions", "all", side=16, ground=0.5)
    assert images.shape == (3, 16, 16) and len(images) == sum(map(len, NAMES.values()))
    assert images.labels.bincount().tolist() == [len(names) for names in NAMES.values()]
    empty = drawing(100)[::4, ::4, 3] == 0
    assert (images.images[0][:, torch.from_numpy(empty)] == 128 / 255).all()
    with pytest.raises(CompanionError, match="emoji of 30 pixels: expected a divisor of 64"):
        catalogue.load("emoji_captions", "all", side=30)


def test_a_missing_folder_says_where_it_was_looked_for(place):
    place.rename(place.with_name("elsewhere"))
    with pytest.raises(CompanionError, match=r"'emoji_captions' is not on this machine(.|\n)*emoji_captions"):
        emoji.emoji()


def test_other_files_than_the_manifests_are_refused(place):
    Image.fromarray(drawing(1)).save(place / "003.png")
    with pytest.raises(CompanionError, match=r"is not the file that .*emoji_captions\.yml describes"):
        emoji.emoji()


def test_pictures_and_captions_that_cannot_be_read_are_named(place, toys):
    path = place / "002.png"
    whole = path.read_bytes()
    for content, said in ((whole[:90], "002.png, which captions.json names, cannot be read"), (b"text", "cannot be")):
        path.write_bytes(content)
        describe(toys, place)
        with pytest.raises(CompanionError, match=said):
            emoji.emoji()
    Image.fromarray(drawing(0)[:32]).save(path)
    describe(toys, place)
    with pytest.raises(CompanionError, match=r"002.png has 64 x 32 pixels; expected 64 x 64"):
        catalogue.load("emoji_captions", "all")
    path.unlink()
    with pytest.raises(CompanionError, match=r"002\.png, which captions.json names, cannot be read"):
        emoji.read(place / "captions.json", place)
    for content in ("{", '[{"name": "boy"}]', '["boy"]', json.dumps([told("!", "people", 0)]), '[{"name": 3}]'):
        (place / "captions.json").write_text(content, encoding="utf-8")
        with pytest.raises(CompanionError, match="expected a list of emoji, each with file, name, category"):
            emoji.read(place / "captions.json", place)


def test_a_category_that_the_manifest_does_not_name_is_refused(place, toys):
    entries = json.loads((place / "captions.json").read_text())
    entries[0]["category"] = "weather"
    (place / "captions.json").write_text(json.dumps(entries))
    describe(toys, place)
    with pytest.raises(CompanionError, match="category 'weather' is none of people"):
        catalogue.load("emoji_captions", "all")


def test_the_real_emoji_are_the_known_ones():
    """Runs where COMPANION_DATA has them: counts, and that the splits share no group and no drawing."""
    if local.locate(load_manifest("emoji_captions")) is None:
        pytest.skip("emoji_captions is not on this machine")
    records, pixels = emoji.emoji()
    assert len(records) == 1820 and len({one.group for one in records}) == 1332
    counts = {split: sum(one.split == split for one in records) for split in ("", *emoji.SHARES)}
    assert counts == {"": 37, "test": 273, "validation": 166, "defender": 210, "web": 1134}
    held = {}
    for one, picture in zip(records, pixels.flatten(1), strict=True):
        if one.split:
            held.setdefault(one.group, set()).add(one.split)
            held.setdefault(hashlib.sha256(picture.numpy().tobytes()).digest(), set()).add(one.split)
    assert all(len(splits) == 1 for splits in held.values())
    alike = [one.group for one in records if one.name in ("clipperton island", "france", "saint martin")]
    assert len(alike) == 3 and len(set(alike)) == 1, "three names of one flag"
