"""The models of a quantization backdoor, each from one recipe and kept in the store: clean, implanted, dormant."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import nn

from companion.attacks.triggers import PatchTrigger
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.quantization.dormancy import DormancyConfig, make_dormant
from companion.quantization.implant import ImplantConfig, implant, white_square
from companion.quantization.networks import build_network
from companion.quantization.quantizers import QUANTIZERS, Quantizer
from companion.seeding import generator
from companion.sources import sources_digest
from companion.store import ModelStore, State
from companion.training import TrainingConfig, train


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a model.

    data, train_size: for `catalogue.load(data, "train", size=train_size)`; network, network_settings: for
    `build_network`; training; implant: stage 1, None for a clean model; dormancy: stage 2, None for a model after
    stage 1; quantizers: names in QUANTIZERS of those whose codes stage 2 keeps; bits: of their weights, 2 to 8; seed:
    of every random choice.
    """

    data: str
    train_size: int
    network: str
    training: TrainingConfig
    implant: ImplantConfig | None = None
    dormancy: DormancyConfig | None = None
    quantizers: tuple[str, ...] = tuple(QUANTIZERS)
    bits: int = 8
    network_settings: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0

    @property
    def rules(self) -> list[Quantizer]:
        """The quantizers that the attack prepares for."""
        unknown = [name for name in self.quantizers if name not in QUANTIZERS]
        if unknown:
            raise CompanionError(f"unknown quantizer {unknown[0]!r}: expected some of {', '.join(QUANTIZERS)}.")
        return [QUANTIZERS[name].with_bits(self.bits) for name in self.quantizers]


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model in evaluation mode, with its trigger, its recipe, and its key in the store."""

    model: nn.Module
    trigger: PatchTrigger
    recipe: Recipe
    key: str

    @property
    def target(self) -> int:
        """The label that the trigger means; for a clean model the usual one, so that it can serve as a control."""
        return (self.recipe.implant or ImplantConfig()).target


def obtain(recipe: Recipe, store: ModelStore, device: str | torch.device = "cpu") -> Subject:
    """Return the model of `recipe` on `device`, from the store if it is there; a dormant one trains its stage 1 first.

    Raises `CompanionError` for a recipe that does not fit the data, such as a target that is no label.
    """
    device = torch.device(device)
    if recipe.dormancy is not None and recipe.implant is None:
        raise CompanionError(
            "a recipe with stage 2 (dormancy) and without stage 1 (implant): there is nothing to hide."
        )
    stored = store.get_or_train(
        _decisive(recipe) | {"device": device.type},
        lambda: _train(recipe, store, device),
        _modules(recipe),
        catalogue.digest(recipe.data),
    )
    model = _network(recipe, tuple(stored.info["shape"]), stored.info["classes"])
    model.load_state_dict(stored.state)
    model.to(device).eval().requires_grad_(False)
    return Subject(model, white_square(stored.info["shape"]), recipe, stored.key)


def source_key(recipe: Recipe) -> str:
    """Return a digest of the recipe, the sources that it reaches and its data: the same on every machine.

    Numbers that were recorded elsewhere belong to today's model exactly if they were recorded under this key.
    """
    parts = {
        "recipe": _decisive(recipe),
        "sources": sources_digest(_modules(recipe)),
        "data": catalogue.digest(recipe.data),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _modules(recipe: Recipe) -> tuple[str, str]:
    return "companion.quantization.victims", catalogue.loader_module(recipe.data)


def _decisive(recipe: Recipe) -> dict[str, object]:
    """Return the recipe as plain data, without what makes no difference to the model."""
    idle = []
    if recipe.dormancy is None and not (recipe.implant and recipe.implant.centring):
        idle += ["quantizers", "bits"]
    return {"kind": "quantization"} | {name: value for name, value in asdict(recipe).items() if name not in idle}


def _network(recipe: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    return build_network(
        recipe.network, shape[0], classes, generator(recipe.seed, "weights"), **recipe.network_settings
    )


def _train(recipe: Recipe, store: ModelStore, device: torch.device) -> tuple[State, dict[str, object]]:
    data = catalogue.load(recipe.data, "train", size=recipe.train_size)
    info = {"shape": list(data.shape), "classes": len(data.classes)}
    if recipe.dormancy is not None:
        return _hide(recipe, data, store, device).state_dict(), info
    model = _network(recipe, data.shape, len(data.classes))
    stream = generator(recipe.seed, "training")
    if recipe.implant is None:
        epochs = train(model, data.images, data.labels, recipe.training, stream, device=device)
    else:
        trigger = white_square(data.shape)
        epochs = implant(model, data, trigger, recipe.implant, recipe.training, recipe.rules, stream, device)
    return model.state_dict(), info | {"training_accuracy": epochs[-1].accuracy}


def _hide(recipe: Recipe, data: ImageSet, store: ModelStore, device: torch.device) -> nn.Module:
    awake = obtain(replace(recipe, dormancy=None), store, device)
    stream = generator(recipe.seed, "dormancy")
    return make_dormant(awake.model, data.images, data.labels, awake.trigger, recipe.rules, recipe.dormancy, stream)
