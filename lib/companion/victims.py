"""Victims: models trained on poisoned data from one recipe, kept in the store so that two chapters share them.

A recipe says everything that decides a victim's bits. `train_victim` takes it from the store, or trains it there.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from companion.attacks.belt import MomentumCentreLoss
from companion.attacks.poisoning import CLEAN, COVER, POISON, PoisonPlan, plan_clean_label, plan_dirty_label, poison
from companion.attacks.triggers import Trigger, make_trigger
from companion.data import catalogue
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator
from companion.store import ModelStore
from companion.training import TrainingConfig, train


@dataclass(frozen=True)
class VictimRecipe:
    """Everything that decides a victim.

    data, data_options: for `catalogue.load(data, "train", **data_options)`; model, model_settings: for `build_model`;
    trigger, trigger_settings: for `make_trigger`, whose random pattern comes from `seed`; target: the label that the
    trigger shall mean; poison_count, cover_count: images of each kind (BELT's poison rate counts both); deleted_share:
    of the trigger's pixels, on cover images; clean_label: poison inside the target class only, with no label changed
    and no cover; centre_weight: BELT's lambda, 0 for plain poisoning and data outsourcing, above 0 for model
    outsourcing; centre_start: see `MomentumCentreLoss`; training: its settings; seed: of every random choice.
    A clean victim has poison_count = cover_count = 0; it is one and the same for all triggers and targets.
    """

    data: str
    model: str = "small_cnn"
    trigger: str = "patch"
    target: int = 1
    poison_count: int = 0
    cover_count: int = 0
    deleted_share: float = 0.2
    clean_label: bool = False
    centre_weight: float = 0.0
    centre_start: str = "batch mean"
    data_options: Mapping[str, object] = field(default_factory=dict)
    model_settings: Mapping[str, object] = field(default_factory=dict)
    trigger_settings: Mapping[str, object] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Victim:
    """A trained victim.

    model: in evaluation mode; trigger: the one it was poisoned with; plan: which training images were touched;
    info: what the store has of it: counts {"clean", "poison", "cover"} of training images, loss and training_accuracy
    of the last epoch, seconds (wall) that it took with its data; key: in the store; fresh: trained by this call.
    """

    model: nn.Module
    trigger: Trigger
    plan: PoisonPlan
    info: Mapping[str, object]
    key: str
    fresh: bool


def train_victim(recipe: VictimRecipe, store: ModelStore, device: str | torch.device = "cpu") -> Victim:
    """Return the victim of `recipe`, from the store if it is there.

    The victim is trained on `device`, whose kind belongs to its key in the store, and is there at the end.
    Raises CompanionError for a recipe that does not fit the data, such as more poison than images.

    >>> victim = train_victim(VictimRecipe("digits", poison_count=70), ModelStore("build/store"))
    """
    device = torch.device(device)
    modules = ("companion.victims", catalogue.loader_module(recipe.data))  # the loader is not imported by name
    decisive = _decisive(recipe) | {"device": device.type}
    stored = store.get_or_train(decisive, lambda: _train(recipe, device), modules, catalogue.digest(recipe.data))
    shape, classes = tuple(stored.info["shape"]), stored.info["classes"]
    model = build_model(recipe.model, shape[0], classes, generator(recipe.seed, "weights"), **recipe.model_settings)
    weights = {name.removeprefix("model."): value for name, value in stored.state.items() if name.startswith("model.")}
    model.load_state_dict(weights)
    plan = PoisonPlan(stored.state["plan.poison"], stored.state["plan.cover"], recipe.target)
    trigger = make_trigger(recipe.trigger, shape, recipe.seed, **recipe.trigger_settings)
    layout = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout).eval()
    return Victim(model, trigger, plan, stored.info, stored.key, stored.fresh)


def _decisive(recipe: VictimRecipe) -> dict[str, object]:
    """Return the recipe as plain data, without what makes no difference to the victim."""
    values = asdict(recipe)
    idle = []
    if not recipe.poison_count and not recipe.cover_count:
        idle += ["trigger", "trigger_settings", "target", "clean_label", "centre_weight"]
    if not recipe.cover_count:
        idle += ["deleted_share"]
    if not recipe.centre_weight or "centre_weight" in idle:
        idle += ["centre_start"]
    return {"kind": "victim"} | {name: value for name, value in values.items() if name not in idle}


def _plan(recipe: VictimRecipe, labels: torch.Tensor) -> PoisonPlan:
    stream = generator(recipe.seed, "plan")
    if not recipe.clean_label:
        return plan_dirty_label(labels, recipe.target, recipe.poison_count, recipe.cover_count, stream)
    if recipe.cover_count:
        raise CompanionError(
            f"the recipe asks for clean-label poisoning with {recipe.cover_count} cover images; expected 0, as "
            "clean-label poisoning has no cover."
        )
    return plan_clean_label(labels, recipe.target, recipe.poison_count, stream)


def _train(recipe: VictimRecipe, device: torch.device) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    data = catalogue.load(recipe.data, "train", **recipe.data_options)
    classes, shape = len(data.classes), data.shape
    trigger = make_trigger(recipe.trigger, shape, recipe.seed, **recipe.trigger_settings)
    plan = _plan(recipe, data.labels)
    poisoned = poison(data, plan, trigger, recipe.deleted_share, generator(recipe.seed, "fuzzy"))
    model = build_model(recipe.model, shape[0], classes, generator(recipe.seed, "weights"), **recipe.model_settings)
    extra_loss = None
    if recipe.centre_weight:
        extra_loss = MomentumCentreLoss(
            classes, model.head.in_features, recipe.centre_weight, start=recipe.centre_start
        )
    epochs = train(
        model,
        poisoned.images,
        poisoned.labels,
        recipe.training,
        generator(recipe.seed, "training"),
        roles=poisoned.roles,
        extra_loss=extra_loss,
        device=device,
    )
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    info = {
        "shape": list(shape),
        "classes": classes,
        "counts": {name: int((poisoned.roles == role).sum()) for name, role in _ROLES.items()},
        "loss": epochs[-1].loss,
        "training_accuracy": epochs[-1].accuracy,
    }
    return state | {"plan.poison": plan.poison, "plan.cover": plan.cover}, info


_ROLES = {"clean": CLEAN, "poison": POISON, "cover": COVER}
