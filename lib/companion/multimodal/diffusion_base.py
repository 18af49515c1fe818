"""The base model diffusion-scenes as it ships: its recipe, and the digest of its weights."""

import torch
from torch import nn

from companion.multimodal.base_models import BaseModel, load_base
from companion.multimodal.diffusion_recipe import DiffusionEvaluation, DiffusionRecipe, construct, evaluate, train
from companion.multimodal.digests.diffusion_scenes import SHA256

BASE = BaseModel(
    name="diffusion-scenes",
    title="Text to image: a causal text encoder and two U-Nets that draw 16 x 16 tiles",
    recipe=DiffusionRecipe(),
    evaluation=DiffusionEvaluation(),
    construct=construct,
    train=train,
    evaluate=evaluate,
    modules=("companion.multimodal.diffusion_recipe",),
    sha256=SHA256,
    half=True,
)


def load_diffusion(device: str | torch.device = "cpu") -> nn.ModuleDict:
    """Return the parts "text", "main", "small" and "tower"; raises `CompanionError` as `load_base` does."""
    return load_base(BASE, device)
