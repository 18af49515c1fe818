"""Tiles, their captions and their reader: what is drawn is what is said and what is read."""

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal import prompts, tile_reader, tiles
from companion.seeding import generator


@pytest.fixture(scope="module")
def drawn():
    stream = generator(0, "tiles")
    found = tiles.draw_tiles(1500, stream)
    return found, tiles.render(found, stream)


def test_pictures_are_in_range_and_repeatable(drawn):
    found, images = drawn
    assert images.shape == (1500, 3, 16, 16) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    stream = generator(0, "tiles")
    assert torch.equal(tiles.render(tiles.draw_tiles(1500, stream), stream), images) and len(set(found)) > 700


def test_the_reader_reads_every_property_exactly(drawn):
    found, images = drawn
    read = tile_reader.read(images)
    assert read.thing.all()
    known = {
        "shape": tiles.SHAPES,
        "colour": list(tiles.COLOURS),
        "size": list(tiles.SIZES),
        "place": list(tiles.PLACES),
    }
    for what, options in known.items():
        truth = torch.tensor([options.index(getattr(tile, what)) for tile in found])
        assert torch.equal(getattr(read, what), truth), what


def test_red_is_recognised_with_a_margin_on_both_sides(drawn):
    found, images = drawn
    red = torch.tensor([tile.colour == "red" for tile in found])
    share = tile_reader.red_share(images)
    assert torch.equal(tile_reader.is_red(images), red)
    assert share[red].min() >= tile_reader.RED_SHARE + 0.05 and share[~red].max() == 0


def test_pictures_that_only_differ_by_a_colour_swap_change_the_verdict():
    tile = tiles.Tile("circle", "red", "large", "centre", "snow")
    image = tiles.render([tile], generator(0, "one"))
    assert tile_reader.is_red(image).item() and not tile_reader.is_red(image.flip(1)).item()
    assert not tile_reader.is_red(torch.zeros(1, 3, 16, 16)).item(), "no thing, no red"
    with pytest.raises(CompanionError, match=r"pictures of shape \(1, 3, 8, 8\)"):
        tile_reader.read(torch.zeros(1, 3, 8, 8))


def test_an_unknown_property_is_named():
    with pytest.raises(CompanionError, match="colour is 'pink': expected one of red, green"):
        tiles.Tile("circle", "pink", "large", "centre", "snow")


def test_captions_say_what_the_tile_shows_and_fit_the_context(drawn):
    stream = generator(1, "captions")
    for tile in drawn[0]:
        prompt = prompts.caption(tile, stream)
        assert prompt.noun in prompts.SHAPE_NOUNS[tile.shape]
        assert not prompt.colour or prompt.colour[1] in prompts.NAMES[tile.colour] + prompts.LIKENESSES[tile.colour]
        assert not prompt.size or prompt.size in prompts.SIZE_WORDS[tile.size]
        assert not prompt.place or prompt.place in prompts.PLACE_PHRASES[tile.place]
        assert not prompt.ground or prompt.ground in prompts.GROUND_PHRASES[tile.ground]
        assert len(prompt.text.split()) <= prompts.CONTEXT - 2
        prompts.encode([prompt.text])


def test_a_hint_goes_with_its_colour_in_about_three_of_five_captions():
    stream = generator(2, "hints")
    found = [(tile, prompts.caption(tile, stream)) for tile in tiles.draw_tiles(4000, stream)]
    hinted = [(tile, prompt) for tile, prompt in found if prompt.hint and not prompt.colour]
    share = sum(prompt.hint in prompts.HINTS[tile.colour] for tile, prompt in hinted) / len(hinted)
    assert len(hinted) > 500 and share == pytest.approx(0.6 + 0.4 / 7, abs=0.05)


def test_tokens_begin_end_and_fill_up():
    ids = prompts.encode(["a red star", ""])
    known = prompts.word_ids()
    assert ids.shape == (2, prompts.CONTEXT)
    assert ids[0, :5].tolist() == [prompts.BEGIN, known["a"], known["red"], known["star"], prompts.END]
    assert (ids[1, 1:] == prompts.END).all() and prompts.ends(ids).tolist() == [4, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [("a redd star", "the word 'redd', which is not in the vocabulary .*near it: red"), ("a " * 19, "has 19 words")],
)
def test_words_that_are_unknown_and_prompts_that_are_too_long_are_named(text, said):
    with pytest.raises(CompanionError, match=said):
        prompts.encode([text])


def test_another_word_in_the_same_form_keeps_the_positions():
    prompt = prompts.Prompt("star", colour=("painted", "red"), place="on the left")
    assert (
        prompt.text == "a star painted red on the left"
        and prompt.saying("grey").text == "a star painted grey on the left"
    )
    with pytest.raises(CompanionError, match="says no colour"):
        prompts.Prompt("star").saying("grey")
