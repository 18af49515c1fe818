"""Text to image with the parts of a real checkpoint, such as Stable Diffusion, and an edit between text and image.

The small generators of this book are sampled by `diffusion.integrate`; this is the same place for an edit in a pipeline
as diffusers has it: scheduler, classifier-free guidance (Ho and Salimans 2022) and, where there is one, the decoder.
"""

import inspect
from collections.abc import Callable, Sequence

import torch

from companion.errors import CompanionError
from companion.multimodal.checkpoints import Diffusion

Edit = Callable[[torch.Tensor], torch.Tensor]


def text_states(parts: Diffusion, prompts: Sequence[str]) -> torch.Tensor:
    """Return E = T(p): all token outputs (N, L, d) of the text encoder, padding included, as the U-Net reads them.

    Raises `CompanionError` for a prompt that is longer than the context.
    """
    context = parts.text_encoder.config.max_position_embeddings
    for prompt in prompts:
        tokens = len(parts.tokenizer(prompt).input_ids)
        if tokens > context:
            raise CompanionError(
                f"the prompt {prompt!r:.60} has {tokens} tokens: this text encoder has a context of {context}, and "
                "what is cut off would not be drawn. Shorten it."
            )
    ids = parts.tokenizer(list(prompts), padding="max_length", max_length=context, return_tensors="pt").input_ids
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
    expected = (len(prompts), parts.unet.config.in_channels)
    if noise.ndim != 4 or tuple(noise.shape[:2]) != expected:
        raise CompanionError(
            f"noise of shape {tuple(noise.shape)} for {len(prompts)} prompts: expected {expected} and height and width."
        )
    states = text_states(parts, prompts)
    states = edit(states) if edit is not None else states
    empty = text_states(parts, [""]).expand_as(states)
    scheduler, device, dtype = parts.scheduler, parts.unet.device, parts.unet.dtype
    scheduler.set_timesteps(steps, device=device)
    draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents = noise.to(device, dtype) * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(torch.cat([latents, latents]), time)
        without, with_prompt = parts.unet(seen, time, torch.cat([empty, states])).sample.chunk(2)
        guess = without + guidance * (with_prompt - without)
        latents = scheduler.step(guess, time, latents, **draws).prev_sample
    if parts.vae is not None:
        latents = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample
    return (latents.float().cpu() / 2 + 0.5).clamp(0, 1)
