"""Generators that a prompt's embedding can be drawn with: the tiles' own, and a published one as its folder has it.

Both take a guide and noise. Defences that train a generator need its clean latents, and noise put on them as in its
own training.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal import pipeline
from companion.multimodal.checkpoints import Diffusion
from companion.multimodal.diffusion import CHANNELS, GRID, TIMESTEPS, integrate, to_latent
from companion.multimodal.guidance import Guide
from companion.seeding import generator


class Noised(NamedTuple):
    """Latents with noise on them (B, C, h, w), and the clock (B,) that says how much."""

    latents: torch.Tensor
    clock: torch.Tensor


@dataclass(frozen=True)
class TileGenerator:
    """A generator of tiles, sampled by flow matching; unet predicts the picture."""

    unet: nn.Module
    batch: int = 128
    latent_shape: tuple[int, int, int] = (CHANNELS, GRID, GRID)

    def latents(self, guide: Guide, noise: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the clean latents (N, C, h, w) that the guide leads to from noise of that shape."""
        return to_latent(self.draw(guide, noise, steps))

    def draw(self, guide: Guide, noise: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the pictures (N, 3, 16, 16) in [0, 1] that the guide leads to."""
        return torch.cat([self._pictures(*one, steps) for one in _parts(guide, noise, self.batch)])

    def _pictures(self, guide: Guide, noise: torch.Tensor, steps: int) -> torch.Tensor:
        def velocity(latent: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
            return (latent - guide.predict(self.unet, latent, clock)) / (clock / TIMESTEPS)[:, None, None, None]

        return integrate(velocity, noise, steps)

    def noised(self, clean: torch.Tensor, stream: torch.Generator) -> Noised:
        """Return latents noised as in training, noise levels logit-normal."""
        level = torch.sigmoid(torch.randn(len(clean), generator=stream))
        s = level[:, None, None, None]
        return Noised((1 - s) * clean + s * torch.randn(clean.shape, generator=stream), TIMESTEPS * level)

    def with_unet(self, unet: nn.Module) -> "TileGenerator":
        """Return the generator with another U-Net in it."""
        return replace(self, unet=unet)


@dataclass(frozen=True)
class PublishedGenerator:
    """A generator of a published checkpoint, sampled as diffusers does; parts: its parts, the U-Net on any device."""

    parts: Diffusion
    batch: int = 8

    @property
    def unet(self) -> nn.Module:
        """The network that predicts from noisy latents and a prompt's embeddings."""
        return self.parts.unet

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents, at the side that the checkpoint's configuration names."""
        config = self.unet.config
        side = config.sample_size
        return (config.in_channels, *(side if isinstance(side, list | tuple) else (side, side)))

    def latents(self, guide: Guide, noise: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the clean latents (N, C, h, w), on the CPU; what the scheduler draws is the same for every prompt."""
        return torch.cat([self._latents(*one, steps).float().cpu() for one in _parts(guide, noise, self.batch)])

    def draw(self, guide: Guide, noise: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the pictures (N, 3, H, W) in [0, 1], on the CPU."""
        drawn = [self._latents(*one, steps) for one in _parts(guide, noise, self.batch)]
        return torch.cat([pipeline.decode(self.parts, one) for one in drawn])

    def _latents(self, guide: Guide, noise: torch.Tensor, steps: int) -> torch.Tensor:
        return pipeline.sample_latents(self.parts, guide, noise, generator(0, "scheduler"), steps)

    def noised(self, clean: torch.Tensor, stream: torch.Generator) -> Noised:
        """Return latents noised by the checkpoint's scheduler at uniform steps of its training."""
        scheduler = self.parts.scheduler
        if not hasattr(scheduler, "add_noise"):
            raise CompanionError(
                f"the checkpoint's scheduler {type(scheduler).__name__} puts no noise on latents (add_noise), so no "
                "defence can train this generator. Use a checkpoint of Stable Diffusion 1 or 2."
            )
        clock = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=stream)
        return Noised(scheduler.add_noise(clean, torch.randn(clean.shape, generator=stream), clock), clock)

    def with_unet(self, unet: nn.Module) -> "PublishedGenerator":
        """Return the generator with another U-Net in it."""
        return replace(self, parts=replace(self.parts, unet=unet))


ImageGenerator = TileGenerator | PublishedGenerator


def _parts(guide: Guide, noise: torch.Tensor, size: int) -> zip:
    return zip(guide.split(size), noise.split(size), strict=True)
