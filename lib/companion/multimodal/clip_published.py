"""Published CLIP checkpoints behind the functions of this book, which hand a tower colours and edge energies."""

import copy

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.clip_network import ORIENTATIONS

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def adapted(model: nn.Module, mean: tuple[float, ...] = MEAN, deviation: tuple[float, ...] = DEVIATION) -> nn.Module:
    """Return a copy of a CLIP of three channels that `clip_network.embed_images` can use, with the same embeddings.

    model: transformers.CLIPModel, such as `checkpoints.load_clip(folder).model`; mean, deviation: with which it wants
    colours normalised. `perceived` hands over (x - 0.5) / 0.25 and edge energies: the copy's first convolution is
    rescaled for the former and has zeros for the latter, and what is constant goes into the position embeddings.
    Raises CompanionError for a tower of another number of channels.
    """
    if (found := model.config.vision_config.num_channels) != 3:
        raise CompanionError(f"a vision tower of {found} channels: expected a published CLIP, which has 3.")
    result = copy.deepcopy(model)
    result.config.vision_config.num_channels = 3 + ORIENTATIONS
    seeing = result.vision_model.embeddings
    old, device = seeing.patch_embedding, seeing.patch_embedding.weight.device
    mean, deviation = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, deviation))
    new = nn.Conv2d(3 + ORIENTATIONS, old.out_channels, old.kernel_size, old.stride, bias=False, device=device)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :3] = old.weight * (0.25 / deviation)
        constant = (old.weight * ((0.5 - mean) / deviation)).sum((1, 2, 3))  # (W,)
        seeing.position_embedding.weight[1:] += constant
    seeing.patch_embedding = new
    return result.eval()
