"""Clean networks of several families, trained from one recipe each and kept in the store for all chapters."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from companion.data import catalogue
from companion.errors import CompanionError
from companion.models.zoo import AdversariallyTrained, build_surrogate
from companion.seeding import generator
from companion.store import ModelStore
from companion.training import TrainingConfig, train

MODULES = ("companion.surrogates",)  # its reach, and the data's digest, decide with the recipe about a stored network


@dataclass(frozen=True)
class SurrogateRecipe:
    """Everything that decides a network.

    data, split, data_options: for `catalogue.load(data, split, **data_options)`; count: the first so many images, None
    for all; family, settings: for `build_surrogate`; robust_eps: above 0, trained on FGSM examples of that size (see
    `AdversariallyTrained`); training: its settings; seed: of every random choice.
    """

    data: str
    family: str
    split: str = "train"
    count: int | None = None
    robust_eps: float = 0.0
    data_options: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TrainedSurrogate:
    """A trained network in evaluation mode, what its training reported, its key in the store, and whether it is new."""

    model: nn.Module
    info: Mapping[str, object]
    key: str
    fresh: bool


def train_surrogate(recipe: SurrogateRecipe, store: ModelStore, device: str | torch.device = "cpu") -> TrainedSurrogate:
    """Return the network of `recipe` on `device`, from the store if it is there.

    Raises `CompanionError` for an unknown data set or family, or a count that the split does not have.

    >>> cnn = train_surrogate(SurrogateRecipe("digits", "cnn"), default_store()).model  # doctest: +SKIP
    """
    stored = store.get_or_train(
        {"kind": "surrogate"} | asdict(recipe),
        lambda: _train(recipe, torch.device(device)),
        MODULES,
        catalogue.digest(recipe.data),
    )
    channels, side, classes = (stored.info[name] for name in ("channels", "side", "classes"))
    model = _network(recipe, channels, side, classes)
    model.load_state_dict(stored.state)
    return TrainedSurrogate(model.to(device).eval(), stored.info, stored.key, stored.fresh)


def _network(recipe: SurrogateRecipe, channels: int, side: int, classes: int) -> nn.Module:
    stream = generator(recipe.seed, "surrogate weights", recipe.family)
    return build_surrogate(recipe.family, channels, classes, side, stream, **recipe.settings)


def _train(recipe: SurrogateRecipe, device: torch.device) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    data = catalogue.load(recipe.data, recipe.split, **recipe.data_options)
    count = len(data) if recipe.count is None else recipe.count
    if not 2 <= count <= len(data):
        raise CompanionError(
            f"the recipe asks for {count} training images of {recipe.data}: expected 2 to {len(data)}, the images of "
            f'its split "{recipe.split}".'
        )
    channels, side, _ = data.shape
    model = _network(recipe, channels, side, len(data.classes))
    learner = AdversariallyTrained(model, recipe.robust_eps) if recipe.robust_eps else model
    stream = generator(recipe.seed, "surrogate training", recipe.family, recipe.robust_eps)
    epochs = train(learner, data.images[:count], data.labels[:count], recipe.training, stream, device=device)
    info = {
        "channels": channels,
        "side": side,
        "classes": len(data.classes),
        "images": count,
        "loss": epochs[-1].loss,
        "training_accuracy": epochs[-1].accuracy,
        "device": device.type,
    }
    return {name: value.cpu().contiguous() for name, value in model.state_dict().items()}, info
