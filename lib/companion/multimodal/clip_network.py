"""A small CLIP of transformers' own class, and the embeddings of images and texts that everything else is built on.

What the vision tower gets is not the picture alone: `perceived` adds oriented edge energies, a fixed and differentiable
step in the place of an image processor. A vision transformer has to learn edges from pixels, for which the minutes of
one core are too few: 15 s of supervised training gave 10 % of the twelve shapes right without this step, 37 % with it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.initialising import initialised_from


@dataclass(frozen=True)
class ClipSize:
    """The size of a CLIP: side and patch in pixels, width, layers and heads of both
    towers, the width of their hidden layers, the joint dimension, the context in tokens.
    """

    side: int = 32
    patch: int = 8
    width: int = 64
    vision_layers: int = 3
    text_layers: int = 2
    heads: int = 4
    hidden: int = 128
    joint: int = 64
    context: int = 24


def build_clip(size: ClipSize, tokenizer, generator: torch.Generator) -> nn.Module:
    """Return a transformers.CLIPModel with initial weights drawn from `generator`, in evaluation mode.

    tokenizer: its number of words and its special tokens decide the text tower's.
    """
    from transformers import CLIPConfig, CLIPModel  # here, as this import takes seconds

    tower = {"hidden_size": size.width, "intermediate_size": size.hidden, "num_attention_heads": size.heads}
    vision = tower | {"num_hidden_layers": size.vision_layers, "image_size": size.side, "patch_size": size.patch}
    vision["num_channels"] = 3 + ORIENTATIONS
    text = tower | {
        "num_hidden_layers": size.text_layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": size.context,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config=text | {"projection_dim": size.joint},
        vision_config=vision | {"projection_dim": size.joint},
        projection_dim=size.joint,
    )
    with initialised_from(generator):
        return CLIPModel(config).eval()


ORIENTATIONS = 6


def perceived(images: torch.Tensor) -> torch.Tensor:
    """Return what the vision tower reads, (N, 3 + ORIENTATIONS, H, W), of images (N, 3, H, W) in [0, 1].

    The first three channels are the colours, centred and scaled. The others are edge energies: with the central
    differences (g_x, g_y) of each colour and the angle a_k = pi k / 6, sum over colours of
    (g_x cos a_k + g_y sin a_k)^2 / sqrt(g_x^2 + g_y^2 + 1e-4), centred and scaled.
    """
    edge = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = edge[:, :, 1:-1, 2:] - edge[:, :, 1:-1, :-2]
    down = edge[:, :, 2:, 1:-1] - edge[:, :, :-2, 1:-1]
    weight = (across.square() + down.square() + 1e-4).rsqrt()
    angles = [math.pi * k / ORIENTATIONS for k in range(ORIENTATIONS)]
    energies = [((across * math.cos(a) + down * math.sin(a)).square() * weight).sum(1, keepdim=True) for a in angles]
    return torch.cat([(images - 0.5) / 0.25, (torch.cat(energies, 1) - 0.15) / 0.3], 1)


def embed_images(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return embeddings (N, D) of length one of images (N, 3, H, W) in [0, 1]; gradients flow."""
    return F.normalize(model.get_image_features(perceived(images)).pooler_output, dim=-1)


def embed_texts(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return embeddings (N, D) of length one of token ids (N, L) int64, each row ending in an end token.

    Columns behind the longest text are cut off first. The text tower looks backwards only and is read at the end
    token, so what pads a text makes no difference, and no mask is needed.
    """
    ends = (ids == _end_token(model)).int()
    if ids.shape[1] > (limit := model.config.text_config.max_position_embeddings):
        raise CompanionError(f"texts of {ids.shape[1]} tokens: this CLIP has a context of {limit}. Shorten the texts.")
    if not bool(ends.any(1).all()):
        raise CompanionError("a text has no end token: expected token ids from companion.multimodal.words.encode.")
    last = ends.argmax(1)  # (N,)
    states = model.text_model(ids[:, : int(last.max()) + 1]).last_hidden_state  # (N, L, W)
    return F.normalize(model.text_projection(states[torch.arange(len(ids), device=ids.device), last]), dim=-1)


def _end_token(model: nn.Module) -> int:
    """Return the id of the end token.

    transformers reads a text tower whose eos_token_id is 2 at the token with the largest id, a kindness to the first
    CLIP checkpoints, whose configuration says 2 and whose end token is 49407. In our vocabulary the end token is 2, so
    `get_text_features` would stop at some word in the middle; `embed_texts` looks for the end token itself.
    """
    config = model.config.text_config
    return config.vocab_size - 1 if config.eos_token_id == 2 and config.vocab_size == 49408 else config.eos_token_id


@torch.no_grad()
def image_embeddings(model: nn.Module, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Return `embed_images` without gradients, in batches, on the images' device."""
    device = next(model.parameters()).device
    return torch.cat([embed_images(model, part.to(device)).to(images.device) for part in images.split(batch_size)])


@torch.no_grad()
def text_embeddings(model: nn.Module, ids: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
    """Return `embed_texts` without gradients, in batches, on the ids' device."""
    device = next(model.parameters()).device
    return torch.cat([embed_texts(model, part.to(device)).to(ids.device) for part in ids.split(batch_size)])


def scale_of(model: nn.Module) -> torch.Tensor:
    """Return the learned scale s = exp(logit_scale) of a CLIP."""
    return model.logit_scale.exp()
