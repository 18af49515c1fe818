"""The arenas of the chapter `sac`: object recognition, emotion recognition and face verification, each with its zoo."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.ownership.fingerprints import VARIANTS, reference_features
from companion.ownership.zoo import CLASSIFIER_THEFTS, EMBEDDING_THEFTS, Part, Settings, Task, Zoo
from companion.store import ModelStore
from companion.training import TrainingConfig, features, logits


@dataclass(frozen=True)
class Plan:
    """One task of a profile, as its parameters give it.

    data: objects: "signs", "digits" or "cifar10"; emotion: "faces"; verification: "faces" or "orl_faces"; half: images
    of the owner, of the others, and of a generated transfer (None takes all); held: images that neither side has; the
    rest as in `Settings`.
    """

    data: str
    half: int | None
    held: int | None
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 0.05
    source: Sequence = ("cnn", 12)
    architectures: Sequence = (("cnn", 8), ("cnn", 12), ("resnet", 8))
    irrelevant: int = 6
    stolen: int = 3
    owned: int = 2
    rates: Sequence[float] = Settings.rates
    attack_epochs: int = Settings.attack_epochs
    attack_steps: int = Settings.attack_steps
    people: int = 30
    device: str = "cpu"

    def settings(self) -> Settings:
        """Return how the zoo of this task is trained."""
        training = TrainingConfig(self.epochs, self.batch_size, self.learning_rate, label_smoothing=0.0)
        return Settings(
            source=tuple(self.source),
            architectures=tuple(map(tuple, self.architectures)),
            irrelevant=self.irrelevant,
            stolen=self.stolen,
            owned=self.owned,
            rates=tuple(self.rates),
            attack_epochs=self.attack_epochs,
            attack_steps=self.attack_steps,
            training=training,
            tuning=replace(Settings.tuning, batch_size=self.batch_size),
            device=self.device,
        )


def objects(plan: Plan) -> tuple[Task, Part, Part]:
    """Return the task of object recognition, its held-out images and those of the transfer's label set."""
    sizes = {} if plan.half is None else {"size": plan.half}
    owner, others = (Part(plan.data, split, sizes) for split in ("defender", "attacker"))
    held = Part(plan.data, "test", {} if plan.held is None else {"size": plan.held})
    if plan.data == "signs":  # ten further signs, on photos of another seed
        further = {"classes": 20, "seed": 1}
        transfer = Part("signs", "train", {**further, "size": 2 * plan.half}, (10, 20))
        transfer_held = Part("signs", "test", {**further, "size": 1000}, (10, 20))
    elif plan.data == "cifar10":
        transfer, transfer_held = (Part("cifar100_fewshot", split, {}, (0, 10)) for split in ("train", "test"))
    else:  # half of the classes under new numbers, for want of another world
        transfer, transfer_held = (Part(plan.data, split, {}, (5, 10)) for split in ("attacker", "test"))
    return Task("objects", owner, others, transfer), held, transfer_held


def emotion(plan: Plan) -> tuple[Task, Part, Part]:
    """Return the task of emotion recognition; its transfer is to identities of further persons."""
    owner, others = (Part(plan.data, split, {"size": plan.half}) for split in ("defender", "attacker"))
    persons = {"task": "identity", "people": 20, "first_person": 200}
    transfer = Part(plan.data, "attacker", {**persons, "size": plan.half})
    transfer_held = Part(plan.data, "test", {**persons, "size": min(500, plan.held)})
    return Task("emotion", owner, others, transfer), Part(plan.data, "test", {"size": plan.held}), transfer_held


def verification(plan: Plan) -> tuple[Task, Part, None]:
    """Return the task of face verification: three groups of persons, for the owner, the others, and to ask about."""
    if plan.data == "orl_faces":
        owner, others, held = (Part(plan.data, "all", {}, span, side=32) for span in ((0, 14), (14, 28), (28, 40)))
    else:
        owner, others, held = (
            Part(
                plan.data,
                "train",
                {"task": "identity", "people": plan.people, "first_person": group * plan.people, "size": size},
            )
            for group, size in enumerate((plan.half, plan.half, plan.held))
        )
    return Task("verification", owner, others, embeds=True), held, None


TASKS: Mapping[str, Callable[[Plan], tuple[Task, Part, Part | None]]] = {
    "objects": objects,
    "emotion": emotion,
    "verification": verification,
}


@dataclass(frozen=True, eq=False)
class Arena:
    """A task with its zoo and its held-out images, in an order that the seed decides.

    references: images for FRI, of which none is a query; None for a classifier. embedded: their features by each model.
    """

    zoo: Zoo
    held: ImageSet
    transfer_held: ImageSet | None
    references: torch.Tensor | None
    embedded: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.zoo.task.name

    @property
    def thefts(self) -> tuple[str, ...]:
        """The families of stolen models."""
        return EMBEDDING_THEFTS if self.zoo.task.embeds else CLASSIFIER_THEFTS

    @property
    def families(self) -> tuple[str, ...]:
        """All families that are compared with the source: irrelevant ones and stolen ones."""
        return ("irrelevant", *self.thefts, *(["transfer_irrelevant"] if "transfer" in self.thefts else []))

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of SAC that the task has; SAC-w needs a classifier."""
        return tuple(name for name in VARIANTS if name != "wrong" or not self.zoo.task.embeds)

    def outputs(self, model: nn.Module, queries: torch.Tensor) -> torch.Tensor:
        """Return what SAC compares, (N, K): logits, or features from reference images."""
        if self.references is None:
            return logits(model, queries)
        if id(model) not in self.embedded:  # the zoo keeps its models, so an id is not used twice
            self.embedded[id(model)] = features(model, self.references)
        return reference_features(features(model, queries), self.embedded[id(model)])

    def queries(self, variant: str, count: int) -> torch.Tensor:
        """Return the query images of a variant of SAC; raises CompanionError for one that the task has not."""
        if variant not in self.variants:
            raise CompanionError(f"no fingerprint {variant!r} for {self.name}: expected {', '.join(self.variants)}.")
        stream = self.zoo.generator("queries", variant)
        return VARIANTS[variant](self.held, lambda images: logits(self.zoo.source, images).argmax(1), count, stream)


def open_arena(name: str, plan: Plan, seed: int, store: ModelStore, references: int = 40) -> Arena:
    """Return the arena of the task `name`, a key of TASKS; its models are trained when they are asked for.

    references: how many held-out images of a verification task become reference images.
    """
    if name not in TASKS:
        raise CompanionError(f"unknown task {name!r}: expected one of {', '.join(TASKS)}.")
    task, held_part, transfer_part = TASKS[name](plan)
    zoo = Zoo(task, plan.settings(), seed, store)
    held = held_part.load()
    held = held.subset(torch.randperm(len(held), generator=zoo.generator("held")))
    known = None
    if task.embeds:
        if len(held) < references + 2:
            raise CompanionError(
                f"{references} reference images of {len(held)} held-out ones leave too few to ask about."
            )
        known, held = held.images[:references], held.subset(torch.arange(references, len(held)))
    return Arena(zoo, held, transfer_part.load() if transfer_part else None, known)
