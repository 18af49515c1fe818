"""A Trojan-like attack: draw the trigger from inside a trained network, then retrain the network with it.

Where BadNets chooses a pattern and lets training tie it to the label, the Trojan attack starts from a network that is
already trained. It picks a neuron of the last hidden layer, optimises the pixels of a patch until that neuron fires
strongly, whatever else is in the image, and then retrains for a short time so that the firing neuron means the target.

The outline follows Liu et al. (NDSS 2018); the details are ours, as their paper and code were not read: the layer, the
choice of the neuron by the mean weight magnitude behind it, Adam, and the poisoned share of the retraining.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import nn

from companion.attacks.poisoning import plan_dirty_label, poison
from companion.attacks.triggers import PatchTrigger
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen
from companion.models.prunable import chain_of
from companion.seeding import generator as seeded
from companion.store import ModelStore
from companion.training import TrainingConfig, train
from companion.victims import Victim, VictimRecipe, train_victim


@dataclass(frozen=True)
class TrojanConfig:
    """Settings of the attack.

    neurons: how many of the last stage shall fire; patch: (row, column, side) of the square in pixels; steps,
    learning_rate: Adam on the patch; images: of the attacker, on which the neurons shall fire; training: of the
    retraining, with `poison_count` images of it stamped and relabelled.
    """

    neurons: int = 2
    patch: tuple[int, int, int] = (2, 2, 6)
    steps: int = 100
    learning_rate: float = 0.1
    images: int = 50
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=2, learning_rate=0.05, crop_padding=2)
    )


def best_connected(model: nn.Module, count: int) -> torch.Tensor:
    """Return the `count` neurons of the last stage with the largest sum of absolute incoming weights, (count,) int64.

    Raises CompanionError for more neurons than there are, and where the last stage has no convolution.
    """
    convolutions = [part for part in chain_of(model).stages[-1].modules() if isinstance(part, nn.Conv2d)]
    if not convolutions:
        raise CompanionError("the last stage has no convolution, whose weights would say which neuron is connected.")
    sums = convolutions[-1].weight.detach().abs().sum((1, 2, 3))  # (C,)
    if not 1 <= count <= len(sums):
        raise CompanionError(f"{count} neurons to fire; the last stage has {len(sums)}, choose 1 to that many.")
    return sums.argsort(descending=True, stable=True)[:count].cpu()


def draw_trigger(
    model: nn.Module, images: torch.Tensor, neurons: torch.Tensor, config: TrojanConfig, generator: torch.Generator
) -> PatchTrigger:
    """Return the patch that makes `neurons` of the last stage fire on `images` (N, C, H, W) as strongly as found.

    The patch starts at random; its pixels are a sigmoid of what Adam moves, so that they stay in [0, 1].
    """
    row, column, side = config.patch
    channels, height, width = images.shape[1:]
    if side < 1 or row < 0 or column < 0 or row + side > height or column + side > width:
        raise CompanionError(f"a patch {config.patch} (row, column, side) does not fit into {height} x {width} pixels.")
    support = torch.zeros(height, width, dtype=torch.bool)
    support[row : row + side, column : column + side] = True
    device = device_of(model)
    free = torch.randn(channels, height, width, generator=generator, device=generator.device).to(device)
    free.requires_grad_()
    optimizer = torch.optim.Adam([free], config.learning_rate)
    images, where = images.to(device), support.to(device)
    chain = chain_of(model)
    with frozen(model):
        for _ in range(config.steps):
            maps = torch.where(where, free.sigmoid(), images)
            for stage in chain.stages:
                maps = stage(maps)
            fired = maps.flatten(2).amax(2)[:, neurons]  # (N, count): the strongest place of each neuron's map
            optimizer.zero_grad()
            (-fired.mean()).backward()
            optimizer.step()
    return PatchTrigger(free.detach().sigmoid().cpu(), support)


def train_trojan(
    clean: VictimRecipe,
    target: int,
    poison_count: int,
    config: TrojanConfig,
    store: ModelStore,
    device: str | torch.device = "cpu",
) -> Victim:
    """Return the network of the recipe `clean` (without any poison) after the Trojan attack, from the store if there.

    target: the label that the trigger shall mean; poison_count: images stamped and relabelled in the retraining, which
    uses the recipe's data. Raises CompanionError for a recipe with poison in it.
    """
    if clean.poison_count or clean.cover_count:
        raise CompanionError(
            f"the Trojan attack starts from a clean network, and the recipe has {clean.poison_count} poison and "
            f"{clean.cover_count} cover images; expected none."
        )
    first = train_victim(clean, store, device)
    modules = (__name__, catalogue.loader_module(clean.data))
    recipe = {"kind": "trojan", "clean": first.key, "target": target, "poison_count": poison_count} | asdict(config)
    recipe |= {"device": torch.device(device).type, "seed": clean.seed}
    stored = store.get_or_train(
        recipe, lambda: _attack(first, clean, target, poison_count, config), modules, catalogue.digest(clean.data)
    )
    weights = {name.removeprefix("model."): value for name, value in stored.state.items() if name.startswith("model.")}
    first.model.load_state_dict(weights)
    trigger = PatchTrigger(stored.state["trigger.pattern"], stored.state["trigger.support"])
    plan = replace(first.plan, poison=stored.state["plan.poison"], target=target)
    return Victim(first.model.eval(), trigger, plan, stored.info, stored.key, stored.fresh)


def _attack(
    first: Victim, clean: VictimRecipe, target: int, poison_count: int, config: TrojanConfig
) -> tuple[dict[str, torch.Tensor], Mapping[str, object]]:
    data: ImageSet = catalogue.load(clean.data, "train", **clean.data_options)
    neurons = best_connected(first.model, config.neurons)
    trigger = draw_trigger(
        first.model, data.images[: config.images], neurons, config, seeded(clean.seed, "trojan", "trigger")
    )
    plan = plan_dirty_label(data.labels, target, poison_count, 0, seeded(clean.seed, "trojan", "plan"))
    poisoned = poison(data, plan, trigger, 0.0, seeded(clean.seed, "trojan", "fuzzy"))
    epochs = train(
        first.model, poisoned.images, poisoned.labels, config.training, seeded(clean.seed, "trojan", "training")
    )
    state = {f"model.{name}": value for name, value in first.model.state_dict().items()}
    state |= {"trigger.pattern": trigger.pattern, "trigger.support": trigger.support, "plan.poison": plan.poison}
    info = {"neurons": neurons.tolist(), "loss": epochs[-1].loss, "training_accuracy": epochs[-1].accuracy}
    return state, info
