"""A text-to-image model of the real classes at a tiny size: CLIPTextModel, UNet2DConditionModel, flow matching.

Pictures are 16 x 16; a fixed orthogonal `pixel_unshuffle` turns them into 8 x 8 with 12 channels before the U-Net. The
text encoder is causal, like Stable Diffusion's: what a word says leaks into every later position, padding included.
Flow matching (Lipman et al. 2023): x_s = (1 - s) x + s n, and the network predicts the velocity v = n - x from x_s, the
noise level s in (0, 1) and the prompt's embeddings.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.multimodal.initialising import initialised_from
from companion.multimodal.tiles import SIDE

PATCH = 2
CHANNELS = 3 * PATCH**2
GRID = SIDE // PATCH
LOWEST = 0.1
"""Below this noise level the loss weighs no more, and sampling takes its last step from here or above."""
TIMESTEPS = 1000
"""The network's clock counts to this as the noise level goes from 0 to 1."""


@dataclass(frozen=True)
class TextSettings:
    """Size of the text encoder: width d, layers, heads, and context L (tokens of a prompt)."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 20


@dataclass(frozen=True)
class UNetSettings:
    """Size of a generator: channels at 8 x 8 and 4 x 4 positions, whether each level attends to text, and heads."""

    channels: tuple[int, ...] = (48, 96)
    attends: tuple[bool, ...] = (False, True)
    heads: int = 4


def build_text_encoder(words: int, settings: TextSettings, end: int, generator: torch.Generator) -> nn.Module:
    """Return a `transformers.CLIPTextModel` for a vocabulary of `words` tokens whose end token has the id `end`."""
    from transformers import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        projection_dim=settings.width,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
    )
    with initialised_from(generator):
        return CLIPTextModel(config)


def build_unet(settings: UNetSettings, width: int, generator: torch.Generator) -> nn.Module:
    """Return a `diffusers.UNet2DConditionModel` that attends to text embeddings of `width`."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if one else "DownBlock2D" for one in settings.attends)
    with initialised_from(generator):
        return UNet2DConditionModel(
            sample_size=GRID,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=settings.channels,
            layers_per_block=1,
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
            cross_attention_dim=width,
            attention_head_dim=settings.heads,  # in this class: how many heads
            norm_num_groups=16,
        )


def to_latent(images: torch.Tensor) -> torch.Tensor:
    """Return pictures (N, 3, 16, 16) in [0, 1] as the network sees them: (N, 12, 8, 8) in [-1, 1]."""
    return F.pixel_unshuffle(2 * images - 1, PATCH)


def to_images(latent: torch.Tensor) -> torch.Tensor:
    """Return latents (N, 12, 8, 8) as pictures (N, 3, 16, 16), clipped to [0, 1]."""
    return ((F.pixel_shuffle(latent, PATCH) + 1) / 2).clamp(0, 1)


class ImageTower(nn.Module):
    """The small network of the contrastive loss: pictures (N, 3, 16, 16) to features (N, width).

    Its features also serve for the Frechet distance.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.last = nn.Linear(64 * (GRID // 2) ** 2, width)
        self.text = nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = F.silu(self.second(F.silu(self.first(to_latent(images)))))
        return self.last(hidden.flatten(1))

    def contrastive_loss(self, images: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Return CLIP's symmetric loss of pictures (N, 3, 16, 16) and their captions' end-token states (N, width)."""
        a, b = F.normalize(self(images), dim=1), F.normalize(self.text(pooled), dim=1)
        logits = self.log_scale.exp().clamp(max=100) * a @ b.T
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def hidden_states(text_encoder: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return E = T(p): all token outputs (N, L, d) of the text encoder for token ids (N, L), padding included."""
    return text_encoder(input_ids=ids).last_hidden_state


def velocity_loss(
    unet: nn.Module, images: torch.Tensor, text: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return the flow-matching loss, noise levels logit-normal (Esser et al. 2024), of pictures given embeddings."""
    clean = to_latent(images)
    noise = torch.randn(clean.shape, generator=generator)
    level = torch.sigmoid(torch.randn(len(clean), generator=generator))
    s = level[:, None, None, None]
    guess = unet((1 - s) * clean + s * noise, TIMESTEPS * level, text, return_dict=False)[0]
    return ((guess - clean) / s.clamp(min=LOWEST)).square().mean()


Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def noise_levels(steps: int) -> list[float]:
    """Return the noise levels 1 = s_0 > ... > s_steps = 0 of a sampling in `steps` Euler steps."""
    return torch.linspace(1, 0, steps + 1).tolist()


@torch.no_grad()
def integrate(velocity: Velocity, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the pictures (N, 3, 16, 16) that Euler's method reaches from `noise` (N, 12, 8, 8).

    velocity: (latents, clock (N,)) to velocities. The steps are those of diffusers' FlowMatchEulerDiscreteScheduler.
    """
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    levels = noise_levels(steps)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS)
    scheduler.set_timesteps(sigmas=levels[:-1])
    latent = noise
    for clock in scheduler.timesteps:
        latent = scheduler.step(velocity(latent, clock.expand(len(latent))), clock, latent, return_dict=False)[0]
    return to_images(latent)


def guided(unet: nn.Module, text: torch.Tensor, empty: torch.Tensor, guidance: float) -> Velocity:
    """Return classifier-free guidance: v = v_empty + guidance (v_text - v_empty), both in one batch."""
    pair = torch.cat([text, empty.expand_as(text)])

    def velocity(latent: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        both = unet(torch.cat([latent, latent]), torch.cat([clock, clock]), pair, return_dict=False)[0]
        with_text, without = both.chunk(2)
        guess = without + guidance * (with_text - without)
        return (latent - guess) / (clock / TIMESTEPS)[:, None, None, None]

    return velocity
