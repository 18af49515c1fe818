"""The base model clip-scenes as it ships: its recipe, and the digest of its weights."""

import torch
from torch import nn

from companion.multimodal.base_models import BaseModel, load_base
from companion.multimodal.clip_recipe import ClipEvaluation, ClipRecipe, construct, evaluate, train
from companion.multimodal.digests.clip_scenes import SHA256

BASE = BaseModel(
    name="clip-scenes",
    title="CLIP of 32 x 32 scenes and captions",
    recipe=ClipRecipe(),
    evaluation=ClipEvaluation(),
    construct=construct,
    train=train,
    evaluate=evaluate,
    modules=("companion.multimodal.clip_recipe",),
    sha256=SHA256,
)


def load_clip(device: str | torch.device = "cpu") -> nn.Module:
    """Return the shipped CLIP in evaluation mode; raises `CompanionError` as `load_base` does."""
    return load_base(BASE, device)
