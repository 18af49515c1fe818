"""Text to image with the parts of a real checkpoint, such as Stable Diffusion, and an edit between text and image.

The small generators of this book are sampled by `diffusion.integrate`; this is the same place for an edit in a pipeline
as diffusers has it: scheduler, classifier-free guidance (Ho and Salimans 2022) and, where there is one, the decoder.
"""

import inspect
from collections.abc import Callable, Sequence

import torch

from companion.errors import CompanionError
from companion.multimodal.checkpoints import Diffusion
from companion.multimodal.guidance import Guide, classifier_free
from companion.multimodal.languages import PieceLanguage

Edit = Callable[[torch.Tensor], torch.Tensor]


def language(parts: Diffusion) -> PieceLanguage:
    """Return how the checkpoint reads prompts."""
    return PieceLanguage(parts.tokenizer, parts.text_encoder.config.max_position_embeddings)


def text_states(parts: Diffusion, prompts: Sequence[str]) -> torch.Tensor:
    """Return E = T(p): all token outputs (N, L, d) of the text encoder, padding included, as the U-Net reads them.

    Raises `CompanionError` for a prompt that is longer than the context, and for one with an unknown word.
    """
    ids = language(parts).encode(prompts)
    return parts.text_encoder(input_ids=ids.to(parts.text_encoder.device)).last_hidden_state


@torch.no_grad()
def sample(
    parts: Diffusion,
    prompts: Sequence[str],
    noise: torch.Tensor,
    generator: torch.Generator,
    *,
    edit: Edit | None = None,
    steps: int = 50,
    guidance: float = 7.5,
) -> torch.Tensor:
    """Return pictures (N, 3, H, W) in [0, 1], float32, on the CPU.

    noise: (N, C, h, w) standard normal, in the latent space if there is a decoder; generator: for schedulers that draw;
    edit: applied to the prompts' token outputs (N, L, d), never to those of the empty prompt, such as a sanitizer;
    guidance: weight of the prompt, 1 for none. Raises `CompanionError` as `text_states`, and for noise of another form.
    """
    states = text_states(parts, prompts)
    states = edit(states) if edit is not None else states
    guide = classifier_free(states, text_states(parts, [""]), guidance)
    return decode(parts, sample_latents(parts, guide, noise, generator, steps))


@torch.no_grad()
def sample_latents(
    parts: Diffusion, guide: Guide, noise: torch.Tensor, generator: torch.Generator, steps: int
) -> torch.Tensor:
    """Return what the checkpoint's scheduler reaches from `noise` (N, C, h, w): latents, on the U-Net's device.

    guide: any, with the embeddings of N prompts; noise, generator: as for `sample`.
    """
    expected = (len(guide.texts[0]), parts.unet.config.in_channels)
    if noise.ndim != 4 or tuple(noise.shape[:2]) != expected:
        raise CompanionError(
            f"noise of shape {tuple(noise.shape)} for {expected[0]} prompts: expected {expected} and height and width."
        )
    scheduler, device, dtype = parts.scheduler, parts.unet.device, parts.unet.dtype
    scheduler.set_timesteps(steps, device=device)
    draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents, guide = noise.to(device, dtype) * scheduler.init_noise_sigma, guide.to(device, dtype)
    for time in scheduler.timesteps:
        guess = guide.predict(parts.unet, scheduler.scale_model_input(latents, time), time.expand(len(latents)))
        latents = scheduler.step(guess, time, latents, **draws).prev_sample
    return latents


@torch.no_grad()
def decode(parts: Diffusion, latents: torch.Tensor) -> torch.Tensor:
    """Return latents (N, C, h, w) as pictures (N, 3, H, W) in [0, 1], float32, on the CPU."""
    if parts.vae is not None:
        latents = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample
    return (latents.float().cpu() / 2 + 0.5).clamp(0, 1)
