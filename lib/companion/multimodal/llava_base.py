"""The base model llava-scenes as it ships: its recipe, and the digest of its weights."""

import torch
from torch import nn

from companion.multimodal.base_models import BaseModel, load_base
from companion.multimodal.digests.llava_scenes import SHA256
from companion.multimodal.llava_recipe import LlavaEvaluation, LlavaRecipe, construct, evaluate, train

BASE = BaseModel(
    name="llava-scenes",
    title="LLaVA of 32 x 32 scenes and drawn words: aligned on text, matched to pictures, tuned on instructions",
    recipe=LlavaRecipe(),
    evaluation=LlavaEvaluation(),
    construct=construct,
    train=train,
    evaluate=evaluate,
    modules=("companion.multimodal.llava_recipe",),
    sha256=SHA256,
    half=True,
)


def load_llava(device: str | torch.device = "cpu") -> nn.ModuleDict:
    """Return the shipped networks of llava_recipe.STAGES in evaluation mode; raises as `load_base` does."""
    return load_base(BASE, device)
