"""A real CLIP as this book's own functions take it: images in [0, 1], token ids that end in the end token.

`clip_network` was written for the small CLIP that ships, which differs from published ones in three points: how images
are normalised, that it also reads edge energies, and where a text ends. All are settled when the checkpoint is loaded.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.checkpoints import Place, load_clip
from companion.multimodal.clip_network import ORIENTATIONS
from companion.multimodal.pairs import Encode

OWN_MEAN, OWN_DEVIATION = 0.5, 0.25  # of clip_network.perceived


class Published(NamedTuple):
    """A CLIP for the functions of `clip_network`, what gives token ids for it, and its tokenizer."""

    model: nn.Module
    encode: Encode
    tokenizer: Any


def load_for_clip_network(place: Place, dtype: torch.dtype = torch.float32) -> Published:
    """Return a CLIP for the functions of `clip_network`, in evaluation mode, on the CPU.

    place: a folder or a `Checkpoint`. Its own normalisation of images moves into the first layer, which changes nothing
    but rounding. Raises `CompanionError` as `load_clip` does, and for a folder without preprocessor_config.json.
    """
    found = load_clip(place, dtype)
    if found.mean is None or found.deviation is None:
        raise CompanionError(
            f"{place} has no preprocessor_config.json: expected one with image_mean and image_std, as a CLIP that was "
            "trained elsewhere sees nothing right without them. Fetch it as well."
        )
    fold_normalisation(found.model, found.mean, found.deviation)
    text, end = found.model.text_model, found.tokenizer.eos_token_id
    config = found.model.config.text_config
    config.eos_token_id = text.eos_token_id = config.pad_token_id = end  # the first CLIPs' configurations say 2 and 1
    config.bos_token_id = found.tokenizer.bos_token_id
    context = config.max_position_embeddings

    def encode(texts: Sequence[str]) -> torch.Tensor:
        """Return token ids; raises `CompanionError` for a text longer than the context."""
        rows = [found.tokenizer(one).input_ids for one in texts]
        rows = [row if row and row[-1] == end else [*row, end] for row in rows]
        for one, row in zip(texts, rows, strict=True):
            if len(row) > context:
                raise CompanionError(
                    f"the text {one!r:.60} has {len(row)} tokens: this CLIP has a context of {context}. Shorten it."
                )
        longest = max(map(len, rows), default=0)
        return torch.tensor([row + [end] * (longest - len(row)) for row in rows], dtype=torch.int64)

    return Published(found.model, encode, found.tokenizer)


@torch.no_grad()
def fold_normalisation(model: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
    """Change a CLIPModel in place so that it takes what `clip_network.perceived` makes of x, where it took
    (x - mean) / deviation.

    With u = (x - 0.5) / 0.25 the old input is a u + b, a = 0.25 / deviation, b = (0.5 - mean) / deviation, per colour.
    The patch embedding is linear and without padding: its weights are multiplied by a, and what it makes of b, the same
    for every patch, is added to the positions of the patches. Edge energies get weights of 0; training may move them.
    Raises `CompanionError` for a tower of another number of channels than 3.
    """
    if (found := model.config.vision_config.num_channels) != 3:
        raise CompanionError(f"a vision tower of {found} channels: expected a published CLIP, which has 3.")
    layers = model.vision_model.embeddings
    weight = layers.patch_embedding.weight  # (D, 3, P, P)
    mean, deviation = (torch.tensor(values, dtype=weight.dtype, device=weight.device) for values in (mean, deviation))
    scale, shift = OWN_DEVIATION / deviation, (OWN_MEAN - mean) / deviation
    layers.position_embedding.weight[1:] += (weight * shift[:, None, None]).sum((1, 2, 3))
    edges = weight.new_zeros(weight.shape[0], ORIENTATIONS, *weight.shape[2:])
    layers.patch_embedding.weight = nn.Parameter(torch.cat([weight * scale[:, None, None], edges], 1))
    layers.patch_embedding.in_channels = model.config.vision_config.num_channels = 3 + ORIENTATIONS
