"""Base models that ship with the repository: what one is, and how its weights are read.

Weights lie in weights/<name>/weights.safetensors beside a card that says how they were made. `companion.multimodal.zoo`
trains them and writes both; here they are only read, and never without their digest.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import nn

from companion.errors import CompanionError
from companion.seeding import generator

SHIPPED = Path(__file__).with_name("weights")
WEIGHTS = "weights.safetensors"

Report = Mapping[str, Any]
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class BaseModel:
    """One base model; each is a constant of a module of its own, so that a chapter depends on no other.

    name: of its folder; title: what it is, in a few words; recipe: every setting and seed that decides the weights, and
    evaluation: everything that decides the metrics, both frozen dataclasses of JSON values;
    construct(recipe, generator): the network (one module, or a ModuleDict of parts) with initial weights drawn from the
    generator; train(recipe, device): the trained network, and what to report of the training (JSON values);
    evaluate(network, evaluation): {metric: number}, the same whenever it is called, for the network on the CPU, in
    evaluation mode; modules: the companion modules that `train` lives in, whose reach is the training's sources: they
    must not reach companion.multimodal.digests.<name>, which changes when the training ends;
    sha256: of the shipped file, from that module; half: whether the file holds float16, which is read back as float32;
    tolerance: how far a metric may lie from the card's on another machine, as a share of 1 (of 100 where the zoo says
    that metrics are percent) or of the metric where that is larger;
    retraining_tolerance: the same after training anew there.
    """

    name: str
    title: str
    recipe: Any
    evaluation: Any
    construct: Callable[[Any, torch.Generator], nn.Module]
    train: Callable[[Any, torch.device], tuple[nn.Module, Report]]
    evaluate: Callable[[nn.Module, Any], Metrics]
    modules: tuple[str, ...]
    sha256: str = ""
    half: bool = False
    tolerance: float = 0.01
    retraining_tolerance: float = 0.05


def load_base(base: BaseModel, device: str | torch.device = "cpu", folder: str | Path | None = None) -> nn.Module:
    """Return a base model with its shipped weights, float32, in evaluation mode on `device`.

    folder: where its weights lie (default: the package). Raises `CompanionError` if they are missing, if their sha256
    is not the one in companion.multimodal.digests, and if they do not fit the network of the recipe.
    """
    path = (Path(folder) if folder else SHIPPED / base.name) / WEIGHTS
    return construct_with(base, read_verified(path, base), path).to(device)


def read_verified(path: Path, base: BaseModel) -> dict[str, torch.Tensor]:
    """Return the tensors of the file, after its sha256 was compared with the base model's."""
    remedy = f"Restore the file from the repository (git checkout), or train it anew: companion zoo build {base.name}."
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CompanionError(
            f"the weights of {base.name} are missing: expected {path}"
            f"{f' with the sha256 {base.sha256}' if base.sha256 else ''}. {remedy}"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != base.sha256:
        raise CompanionError(
            f"{path} has the sha256 {found}, but companion.multimodal.digests.{base.name.replace('-', '_')} expects "
            f"{base.sha256 or 'none, as it was never built'}: these are not the weights of {base.name} that the "
            f"results stand on, so they are not used. {remedy}"
        )
    try:
        return read_safetensors(content)
    except SafetensorError as error:
        raise CompanionError(f"{path} is no safetensors file ({error}). {remedy}") from error


def construct_with(base: BaseModel, state: Mapping[str, torch.Tensor], origin: str | Path) -> nn.Module:
    """Return the network of a base model with the weights `state`, float32, in evaluation mode, on the CPU.

    state: a tensor for each of `own_names`; origin: where they came from, for the error. Raises `CompanionError` if
    names or shapes are not the network's.
    """
    network = base.construct(base.recipe, generator(0, "overwritten"))
    own = network.state_dict()
    wanted = {name: tuple(own[name].shape) for name in own_names(network)}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != given:
        unlike = sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name))
        shown = "; ".join(
            f"{name}: {given.get(name, 'missing')}, expected {wanted.get(name, 'none')}" for name in unlike[:3]
        )
        raise CompanionError(
            f"{origin} does not fit the network of {base.name} in {len(unlike)} of {len(wanted)} tensors ({shown}): "
            f"the recipe was edited after the training. Train it anew: companion zoo build {base.name}."
        )
    network.load_state_dict(state, strict=False)  # tied weights follow the tensor that they are tied to
    return network.eval()


def own_names(network: nn.Module) -> list[str]:
    """Return the names of the network's tensors, without those that share the memory of an earlier one (tied)."""
    seen: set[tuple] = set()
    names = []
    for name, tensor in network.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        names.append(name)
    return names
