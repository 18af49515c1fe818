"""The scenes world: same bits each time, whatever the size; exact flat pictures; every property can be seen."""

from dataclasses import replace

import pytest
import torch

from companion.data import catalogue
from companion.data.scenes import (
    COLOURS,
    DARK,
    GROUND_COLOURS,
    GROUNDS,
    SHAPES,
    TEXTURES,
    Scene,
    Thing,
    draw_scenes,
    labelled_scenes,
    load,
    masks,
    render,
    render_with_masks,
)
from companion.errors import CompanionError
from companion.seeding import generator


def test_the_first_scenes_and_pictures_are_the_same_whatever_follows():
    many = draw_scenes(700, generator(3), things=(1, 4))
    assert draw_scenes(20, generator(3), things=(1, 4)) == many[:20]
    assert draw_scenes(20, generator(4), things=(1, 4)) != many[:20]
    for side in (32, 64):
        pictures = render(many[:530], generator(1), side=side)  # more than are drawn together
        assert pictures.shape == (530, 3, side, side) and pictures.dtype == torch.float32
        assert torch.equal(pictures[:7], render(many[:7], generator(1), side=side))
        assert torch.equal(pictures, render(many[:530], generator(1), side=side))
        assert not torch.equal(pictures[:7], render(many[:7], generator(2), side=side))
    assert torch.equal(pictures * 255, (pictures * 255).round()) and pictures.amin() >= 0 and pictures.amax() <= 1


def test_scenes_are_made_as_asked_for():
    scenes = draw_scenes(300, generator(0), things=(2, 3), shapes=("star", "ring", "moon"), colours=("red", "blue"))
    assert {len(scene.things) for scene in scenes} == {2, 3}
    for scene in scenes:
        shapes, places = [t.shape for t in scene.things], [t.place for t in scene.things]
        assert len(set(shapes)) == len(shapes) and set(shapes) <= {"star", "ring", "moon"}
        assert len(set(places)) == len(places) and "centre" not in places
        assert {t.colour for t in scene.things} <= {"red", "blue"} and scene.ground in GROUNDS
    assert [scene.things[0].shape for scene in labelled_scenes(14, generator(0))] == [*SHAPES, *SHAPES[:2]]


def test_every_property_is_about_uniform():
    scenes = draw_scenes(4000, generator(0), things=(1, 1))
    for words, found in (
        (SHAPES, [s.things[0].shape for s in scenes]),
        (tuple(COLOURS), [s.things[0].colour for s in scenes]),
        (GROUNDS, [s.ground for s in scenes]),
    ):
        for word in words:
            assert abs(found.count(word) - 4000 / len(words)) < 5 * (4000 / len(words)) ** 0.5, word


@pytest.mark.parametrize("side", [32, 64])
def test_a_flat_picture_has_exactly_its_things_colours_in_its_masks(side):
    scenes = draw_scenes(200, generator(5), things=(1, 4))
    pictures, seen = render(scenes, None, side=side, clutter=0.0), masks(scenes, side=side)
    assert seen.dtype == torch.bool and (seen.sum(dim=1) <= 1).all()
    for scene, picture, own in zip(scenes, pictures, seen, strict=True):
        expected = torch.zeros(3, side, side) + torch.tensor(GROUND_COLOURS[scene.ground]).view(3, 1, 1)
        dark = torch.zeros(side, side, dtype=torch.bool)
        for thing, mask in zip(scene.things, own, strict=False):
            colour = torch.tensor(COLOURS[thing.colour]).view(3, 1, 1)
            if thing.texture != "plain":
                dark |= mask & (((picture * 255 - (colour * DARK * 255).round()).abs() < 0.5).all(dim=0))
            expected = torch.where(mask, torch.where(dark, colour * DARK, colour), expected)
        torch.testing.assert_close(picture, (expected * 255).round() / 255, atol=1e-6, rtol=0)


def test_the_mask_lies_where_the_scene_says_and_a_large_thing_is_larger():
    base = Thing("circle", "red", "plain", "large", "left")
    left, right, top, bottom, small = masks(
        [Scene((replace(base, place=place),), "sand") for place in ("left", "right", "top", "bottom")]
        + [Scene((replace(base, size="small"),), "sand")]
    )[:, 0]
    assert left[:, :16].sum() > 5 * left[:, 16:].sum() and torch.equal(left.flip(1), right)
    assert top[:16].sum() > 5 * top[16:].sum() and torch.equal(top.flip(0), bottom)
    assert left.sum() > 2 * small.sum() > 60


def test_shapes_have_one_area_and_textures_differ():
    areas = masks([Scene((Thing(shape, "red"),), "sand") for shape in SHAPES], side=64).float().sum(dim=(1, 2, 3))
    assert areas.min() > 0.85 * areas.max()  # but for what the pixels of a cross round off
    pictures = render([Scene((Thing("square", "red", t),), "sand") for t in TEXTURES], None, clutter=0.0)
    gaps = torch.cdist(pictures.flatten(1), pictures.flatten(1)) + 9 * torch.eye(len(TEXTURES))
    assert gaps.min() > 1


def test_clutter_changes_pictures_gradually_and_keeps_the_thing_in_view():
    scenes = draw_scenes(60, generator(0), things=(1, 1))
    flat = render(scenes, None, clutter=0.0)
    some, hard = (render(scenes, generator(0), clutter=c) for c in (0.2, 1.0))
    assert (some - flat).abs().mean() < 0.6 * (hard - flat).abs().mean()
    cover = render_with_masks(scenes, generator(0))[1]
    assert cover.shape == (60, 1, 32, 32) and (cover.sum(dim=(1, 2, 3)) > 25).all()
    overlap = (cover[:, 0] * masks(scenes)[:, 0]).sum(dim=(1, 2)) / cover[:, 0].sum(dim=(1, 2))
    assert overlap.mean() > 0.6


def test_no_ground_lies_near_a_colour():
    colours = torch.tensor(list(COLOURS.values()))
    tones, grounds = torch.cat([colours, colours * DARK]), torch.tensor(list(GROUND_COLOURS.values()))
    assert torch.cdist(tones, grounds).min() > 0.1


def test_the_catalogue_loads_labelled_scenes():
    few, many = (catalogue.load("scenes", "train", size=size) for size in (24, 30))
    assert few.classes == SHAPES and few.shape == (3, 32, 32)
    assert few.labels.bincount().tolist() == [2] * 12
    assert torch.equal(few.images, many.images[:24])
    assert not torch.equal(few.images, catalogue.load("scenes", "test", size=24).images)
    assert not torch.equal(few.images, catalogue.load("scenes", "train", size=24, seed=1).images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_scenes(3, generator(0), things=(0, 2)), "0 to 2 things.*1 to 4"),
        (lambda: draw_scenes(3, generator(0), things=(1, 5)), "1 to 5 things"),
        (lambda: draw_scenes(3, generator(0), colours=("red", "mauve")), "'mauve' is not among the colours.*red"),
        (lambda: draw_scenes(3, generator(0), grounds=()), "an empty list.*grounds"),
        (lambda: render([Scene((Thing("blob", "red"),), "sand")], None, clutter=0.0), "'blob' is no word"),
        (lambda: render([Scene((), "sand")], None, clutter=0.0), "0 things"),
        (lambda: render([], None), "need a generator"),
        (lambda: render([], generator(0), clutter=2.0), "clutter 2.0"),
        (lambda: render([], generator(0), side=4), "side 4"),
        (lambda: load(None, "holdout"), "no split 'holdout'"),
        (lambda: load(None, "test", size=0), "0 images"),
    ],
)
def test_errors_name_the_value_and_what_was_expected(call, message):
    with pytest.raises(CompanionError, match=message):
        call()
