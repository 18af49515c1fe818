"""The text-to-image model: its sampler against a closed form, causality, guidance, and a recipe that repeats itself."""

from dataclasses import replace

import pytest
import torch

from companion.multimodal import diffusion_recipe as recipes
from companion.multimodal.diffusion import (
    CHANNELS,
    GRID,
    TIMESTEPS,
    ImageTower,
    UNetSettings,
    guided,
    hidden_states,
    integrate,
    to_images,
    to_latent,
    velocity_loss,
)
from companion.multimodal.diffusion_recipe import DiffusionEvaluation, DiffusionRecipe, Stage
from companion.multimodal.prompts import encode
from companion.seeding import generator

TINY = DiffusionRecipe(
    main=UNetSettings((16, 32)),
    small=UNetSettings((16, 16)),
    contrastive=Stage(3, 16, 1e-3, 2),
    joint=Stage(4, 8, 1e-3, 2),
    second=Stage(3, 8, 1e-3, 2),
)


@pytest.fixture(scope="module")
def trained():
    return recipes.train(TINY, torch.device("cpu"))


def test_a_recipe_gives_the_same_bits_and_metrics_again(trained):
    parts, report = trained
    again, same = recipes.train(TINY, torch.device("cpu"))
    assert report == same
    state = again.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in parts.state_dict().items())
    quick = DiffusionEvaluation(images=12, steps=2)
    assert recipes.evaluate(parts, quick) == recipes.evaluate(again, quick)
    other, _ = recipes.train(replace(TINY, seed=1), torch.device("cpu"))
    assert not torch.equal(
        other["text"].state_dict()["embeddings.token_embedding.weight"], state["text.embeddings.token_embedding.weight"]
    )


def test_the_second_generator_leaves_the_text_encoder_alone(trained):
    shorter, _ = recipes.train(replace(TINY, second=Stage(1, 8, 1e-3, 2)), torch.device("cpu"))
    first, second = shorter.state_dict(), trained[0].state_dict()
    assert all(torch.equal(one, second[name]) for name, one in first.items() if not name.startswith("small."))
    assert any(not torch.equal(one, second[name]) for name, one in first.items() if name.startswith("small."))


def test_the_text_encoder_is_causal_and_padding_carries_the_prompt(trained):
    text = trained[0]["text"]
    with torch.no_grad():
        a, b = hidden_states(text, encode(["a red star on sand", "a blue star on sand"]))
    assert torch.equal(a[:2], b[:2]), "what comes before the word does not see it"
    assert all(not torch.allclose(a[k], b[k], atol=1e-4) for k in range(2, len(a))), "what comes after it does"


def test_latents_hold_the_picture_exactly():
    images = torch.rand(2, 3, 16, 16, generator=generator(0, "images"))
    latent = to_latent(images)
    assert latent.shape == (2, CHANNELS, GRID, GRID) and torch.allclose(to_images(latent), images, atol=1e-6)
    assert torch.allclose(latent.square().sum((1, 2, 3)), (2 * images - 1).square().sum((1, 2, 3)), rtol=1e-4)


def test_the_sampler_solves_a_flow_with_a_known_end():
    goal = to_latent(torch.rand(3, 3, 16, 16, generator=generator(0, "goal")))
    noise = torch.randn(goal.shape, generator=generator(0, "noise"))
    clocks = []

    def velocity(latent, clock):
        clocks.append(float(clock[0]))
        return noise - goal  # the straight line from noise to goal

    assert torch.allclose(integrate(velocity, noise, 5), to_images(goal), atol=1e-5)
    assert clocks == pytest.approx([1000, 800, 600, 400, 200])


class Constant(torch.nn.Module):
    """A generator that predicts the mean of its text embeddings everywhere."""

    def forward(self, latent, clock, text, return_dict):
        return (text.mean((1, 2))[:, None, None, None].expand_as(latent),)


def test_guidance_extrapolates_from_the_empty_prompt():
    text, empty = torch.full((2, 4, 8), 0.5), torch.full((1, 4, 8), 0.1)
    latent, clock = torch.zeros(2, CHANNELS, GRID, GRID), torch.full((2,), TIMESTEPS / 2)
    velocity = guided(Constant(), text, empty, 3.0)(latent, clock)
    assert torch.allclose(velocity, torch.full_like(latent, -(0.1 + 3 * 0.4) / 0.5))


def test_the_loss_vanishes_for_the_right_guess():
    images = torch.rand(4, 3, 16, 16, generator=generator(1, "images"))

    class Knows(torch.nn.Module):
        def forward(self, latent, clock, text, return_dict):
            return (to_latent(images) + text,)

    stream = generator(0, "loss")
    assert velocity_loss(Knows(), images, torch.zeros(()), stream).item() == 0
    assert velocity_loss(Knows(), images, torch.ones(()), stream).item() > 1


def test_the_contrastive_loss_prefers_matching_pairs():
    tower = ImageTower(8)
    images = torch.rand(6, 3, 16, 16, generator=generator(2, "images"))
    with torch.no_grad():
        tower.text.weight.copy_(torch.eye(8))
        own = tower(images)
        assert tower.contrastive_loss(images, own) < tower.contrastive_loss(images, own.roll(1, 0))
