"""Backgrounds: in range, varied, and decided by the generator."""

import torch

from companion.data.backdrops import backdrops, smooth_noise
from companion.seeding import generator


def test_backgrounds_are_in_range_varied_and_reproducible():
    scenes = backdrops(60, 32, generator(0))
    assert scenes.shape == (60, 3, 32, 32) and scenes.min() >= 0 and scenes.max() <= 1
    assert torch.equal(scenes, backdrops(60, 32, generator(0)))
    assert not torch.equal(scenes, backdrops(60, 32, generator(1)))
    assert scenes.mean(dim=(2, 3)).std(dim=0).min() > 0.1  # the scenes' mean colours differ
    assert scenes.std(dim=(2, 3)).mean() > 0.05  # and a scene is not flat


def test_noise_is_smooth_where_its_grid_is_coarse():
    coarse, fine = (smooth_noise(40, 1, 32, (cells,), generator(0)) for cells in (3, 15))

    def roughness(noise):
        return ((noise[..., 1:] - noise[..., :-1]).std() / noise.std()).item()

    assert roughness(coarse) < 0.25 < roughness(fine)
