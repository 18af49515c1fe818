"""The zoo: one source model, its stolen copies and irrelevant models of the same making, kept in the store by family.

The owner trains the source on his half of the data. Everybody else works on the other half: thieves with the source's
help, the irrelevant models with the true labels, by the same recipe and of the same architectures. So what tells a
stolen from an irrelevant model is not whose data or whose recipe it had.

Networks are trained one after another: on one thread, stacking those of one architecture with torch.func and vmap takes
2 to 4 times as long (benchmarks/zoo_training.py), as their convolutions become grouped ones.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.ownership import networks, stealing
from companion.seeding import generator
from companion.store import ModelStore
from companion.training import TrainingConfig, logits, train

MODULES = ("companion.ownership.zoo",)


@dataclass(frozen=True)
class Part:
    """Labelled images: of `catalogue.load(data, split, **options)` some classes and some images.

    classes: (first, last + 1), counted from 0 afterwards; None takes all. size: the first so many of these; side: of
    the square to which images of another form are resized.
    """

    data: str
    split: str
    options: Mapping[str, object] = field(default_factory=dict)
    classes: tuple[int, int] | None = None
    size: int | None = None
    side: int | None = None

    def load(self) -> ImageSet:
        """Return the images; raises CompanionError where the data set has fewer than `size`."""
        found = catalogue.load(self.data, self.split, **self.options)
        if self.classes is not None:
            low, high = self.classes
            kept = found.subset((found.labels >= low) & (found.labels < high))
            found = replace(kept, labels=kept.labels - low, classes=found.classes[low:high])
        if self.size is not None:
            if len(found) < self.size:
                raise CompanionError(
                    f"{self.data}/{self.split} has {len(found)} images of these classes, {self.size} are wanted."
                )
            found = found.subset(torch.arange(self.size))
        if self.side is not None and found.shape[1:] != (self.side, self.side):
            found = replace(found, images=_resized(found.images, self.side))
        return found


def _resized(images: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


@dataclass(frozen=True)
class Task:
    """What the models do and with which images.

    embeds: False for a classifier, whose logits are its outputs, True for face verification, whose features are;
    owner, others: the two halves; transfer: another label set, or None.
    """

    name: str
    owner: Part
    others: Part
    transfer: Part | None = None
    embeds: bool = False


@dataclass(frozen=True)
class Settings:
    """How the zoo is trained.

    source: family and width of the source's network; architectures: of all that is trained from scratch, in turn;
    irrelevant, stolen, owned: how many models a family has, the latter of the owner's own surrogates and references;
    rates: of fine-pruning, one model each; training: from scratch; tuning: what fine-tuning does to a trained network;
    transfer takes as many epochs as training, pruning `prune_epochs` for each rate; attack_epochs, attack_steps: of
    adversarial training and its PGD; device: where all that happens.
    """

    source: tuple[str, int] = ("cnn", 12)
    architectures: tuple[tuple[str, int], ...] = (("cnn", 8), ("cnn", 12), ("resnet", 8))
    irrelevant: int = 6
    stolen: int = 3
    owned: int = 2
    rates: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    training: TrainingConfig = TrainingConfig(epochs=8, batch_size=32, learning_rate=0.05, label_smoothing=0.0)  # noqa: RUF009
    tuning: TrainingConfig = TrainingConfig(  # noqa: RUF009
        epochs=3, batch_size=32, learning_rate=0.01, schedule="cosine", label_smoothing=0.0
    )
    prune_epochs: int = 2
    attack_epochs: int = 2
    attack_steps: int = 4
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Family:
    """Models that were made in one way; seconds: what making them took; fresh: whether it was now."""

    name: str
    models: list[nn.Module]
    architectures: list[tuple[str, int]]
    seconds: float
    fresh: bool


@dataclass(frozen=True, eq=False)
class Zoo:
    """A task's models by family, made when they are first asked for."""

    task: Task
    settings: Settings
    seed: int
    store: ModelStore
    made: dict[str, Family] = field(default_factory=dict)
    loaded: dict[str, ImageSet] = field(default_factory=dict)

    def family(self, name: str) -> Family:
        """Return the family `name`, a key of MAKERS, from the store or trained now."""
        if name not in MAKERS:
            raise CompanionError(f"unknown family of models {name!r}: expected one of {', '.join(MAKERS)}.")
        if name not in self.made:
            self.made[name] = _from_store(self, name)
        return self.made[name]

    def data(self, part: str) -> ImageSet:
        """Return the images of "owner", "others" or "transfer", read or drawn once, on the device."""
        if part not in self.loaded:
            where = getattr(self.task, part)
            if where is None:
                raise CompanionError(f"the task {self.task.name} has no second label set to transfer to.")
            found, device = where.load(), self.settings.device
            self.loaded[part] = replace(found, images=found.images.to(device), labels=found.labels.to(device))
        return self.loaded[part]

    @property
    def source(self) -> nn.Module:
        """The model whose theft is in question."""
        return self.family("source").models[0]

    def generator(self, *names: object) -> torch.Generator:
        """Return the random stream `names` of this zoo."""
        return generator(self.seed, "sac", self.task.name, *names)


Member = tuple[nn.Module, tuple[str, int]]
"""A model with its architecture: family of networks and width."""


def _from_store(zoo: Zoo, name: str) -> Family:
    parts = [part for part in (zoo.task.owner, zoo.task.others, zoo.task.transfer) if part is not None]
    names = sorted({part.data for part in parts})
    digests = hashlib.sha256("".join(map(catalogue.digest, names)).encode()).hexdigest()
    recipe = {"kind": "sac zoo", "family": name, "task": asdict(zoo.task), "seed": zoo.seed}
    recipe["settings"] = asdict(zoo.settings)
    modules = (*MODULES, *map(catalogue.loader_module, names))
    stored = zoo.store.get_or_train(recipe, lambda: _packed(MAKERS[name](zoo)), modules, digests)
    models = []
    for place, shape in enumerate(stored.info["models"]):
        own = {key.split(".", 1)[1]: value for key, value in stored.state.items() if key.startswith(f"{place}.")}
        models.append(_rebuilt(shape, own).to(zoo.settings.device))
    architectures = [tuple(shape["architecture"]) for shape in stored.info["models"]]
    return Family(name, models, architectures, stored.info["seconds"], stored.fresh)


def _packed(members: list[Member]) -> tuple[dict[str, torch.Tensor], dict]:
    """Return all weights of a family, each under the number of its model, and what to rebuild the models from."""
    state, shapes = {}, []
    for place, (model, architecture) in enumerate(members):
        state |= {f"{place}.{name}": value for name, value in model.state_dict().items()}
        first = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
        shapes.append({"architecture": architecture, "channels": first.in_channels, "classes": model.head.out_features})
    return state, {"models": shapes}


def _rebuilt(shape: dict, state: dict[str, torch.Tensor]) -> nn.Module:
    architecture = tuple(shape["architecture"])
    model = networks.build(architecture, shape["channels"], shape["classes"], 32, generator(0, "overwritten"))
    model.load_state_dict(state)
    return model.eval()


def _new(zoo: Zoo, data: ImageSet, architecture: tuple[str, int], *names: object) -> nn.Module:
    stream = zoo.generator(*names, "weights")
    model = networks.build(architecture, data.shape[0], len(data.classes), data.shape[1], stream)
    return model.to(zoo.settings.device)


def _turns(zoo: Zoo, count: int) -> list[tuple[str, int]]:
    kinds = zoo.settings.architectures
    return [kinds[place % len(kinds)] for place in range(count)]


def _scratch(zoo: Zoo, name: str, part: str, architectures: list[tuple[str, int]]) -> list[Member]:
    """Train networks on true labels."""
    data, members = zoo.data(part), []
    for place, architecture in enumerate(architectures):
        model = _new(zoo, data, architecture, name, place)
        train(model, data.images, data.labels, zoo.settings.training, zoo.generator(name, place))
        members.append((model, architecture))
    return members


def _extracted(zoo: Zoo, name: str, steal: Callable, part: str, count: int) -> list[Member]:
    """Train students by `steal(student, source, images, config, generator)`."""
    data, members = zoo.data(part), []
    for place, architecture in enumerate(_turns(zoo, count)):
        student = _new(zoo, data, architecture, name, place)
        config, stream = zoo.settings.training, zoo.generator(name, place)
        members.append((steal(student, zoo.source, data.images, config, stream), architecture))
    return members


def _extracted_embeddings(zoo: Zoo, name: str, match: str) -> list[Member]:
    data, members = zoo.data("others"), []
    for place, architecture in enumerate(_turns(zoo, zoo.settings.stolen)):
        student = _new(zoo, data, architecture, name, place)
        config, stream = zoo.settings.training, zoo.generator(name, place)
        stolen = stealing.extract_embedding(student, zoo.source, data.images, data.labels, config, stream, match)
        members.append((stolen, architecture))
    return members


def _hardened(zoo: Zoo) -> list[Member]:
    """Adversarially train the models that were extracted."""
    before = zoo.family("extract_embedding" if zoo.task.embeds else "extract_label")
    data, settings, members = zoo.data("others"), zoo.settings, []
    config = replace(settings.tuning, epochs=settings.attack_epochs)
    labels = data.labels if zoo.task.embeds else logits(zoo.source, data.images).argmax(1)
    for place, (model, architecture) in enumerate(zip(before.models, before.architectures, strict=True)):
        stream = zoo.generator("harden", place)
        hardened = stealing.harden(model, data.images, labels, config, stream, steps=settings.attack_steps)
        members.append((hardened, architecture))
    return members


def _tuned(zoo: Zoo, name: str, part: str, config: TrainingConfig, **changes: object) -> list[Member]:
    """Train copies of the source further; `new_labels`: with a new last layer, for the labels of `part`."""
    data, members = zoo.data(part), []
    classes = len(data.classes) if changes.pop("new_labels", False) else None
    for place in range(zoo.settings.stolen):
        stream = zoo.generator(name, place)
        tuned = stealing.fine_tune(zoo.source, data.images, data.labels, config, stream, classes=classes, **changes)
        members.append((tuned, zoo.settings.source))
    return members


def _pruned(zoo: Zoo) -> list[Member]:
    data, settings, source = zoo.data("others"), zoo.settings, zoo.source
    config = replace(settings.tuning, epochs=settings.prune_epochs)
    if zoo.task.embeds:  # the thief's persons are others than the owner's
        stream = zoo.generator("fine_prune", "head")
        source = stealing.fine_tune(
            source, data.images, data.labels, config, stream, last_only=True, classes=len(data.classes)
        )
    stream = zoo.generator("fine_prune")
    models = stealing.fine_prune(source, data.images, data.labels, settings.rates, config, stream)
    return [(model, settings.source) for model in models]


MAKERS: dict[str, Callable[[Zoo], list[Member]]] = {
    "source": lambda zoo: _scratch(zoo, "source", "owner", [zoo.settings.source]),
    "irrelevant": lambda zoo: _scratch(zoo, "irrelevant", "others", _turns(zoo, zoo.settings.irrelevant)),
    "extract_label": lambda zoo: _extracted(
        zoo, "extract_label", stealing.extract_by_label, "others", zoo.settings.stolen
    ),
    "extract_probability": lambda zoo: _extracted(
        zoo, "extract_probability", stealing.extract_by_probability, "others", zoo.settings.stolen
    ),
    "extract_embedding": lambda zoo: _extracted_embeddings(zoo, "extract_embedding", "direction"),
    "extract_similarity": lambda zoo: _extracted_embeddings(zoo, "extract_similarity", "similarity"),
    "extract_adversarial": _hardened,
    "fine_tune_all": lambda zoo: _tuned(
        zoo, "fine_tune_all", "others", zoo.settings.tuning, new_labels=zoo.task.embeds
    ),
    "fine_tune_last": lambda zoo: _tuned(zoo, "fine_tune_last", "others", zoo.settings.tuning, last_only=True),
    "fine_prune": _pruned,
    "transfer": lambda zoo: _tuned(
        zoo,
        "transfer",
        "transfer",
        replace(zoo.settings.tuning, epochs=zoo.settings.training.epochs),
        new_labels=True,
    ),
    "transfer_irrelevant": lambda zoo: _scratch(
        zoo, "transfer_irrelevant", "transfer", _turns(zoo, zoo.settings.stolen)
    ),
    "surrogates": lambda zoo: _extracted(zoo, "surrogates", stealing.extract_by_label, "owner", zoo.settings.owned),
    "references": lambda zoo: _scratch(zoo, "references", "owner", _turns(zoo, zoo.settings.owned)),
}
"""How each family is made. The last two are the owner's, for the conferrable fingerprint."""

CLASSIFIER_THEFTS = (
    "extract_label", "extract_probability", "extract_adversarial", "fine_tune_all", "fine_tune_last", "fine_prune",
    "transfer",
)  # fmt: skip
EMBEDDING_THEFTS = ("extract_embedding", "extract_similarity", "extract_adversarial", "fine_tune_all", "fine_prune")
