"""Feature extractors for few-shot learners, trained on base classes and kept in the store.

Baseline and Baseline++ train the extractor with a linear or cosine classifier of all base classes; ProtoNet,
MatchingNet and ANIL go on from Baseline's extractor by episodes of the base classes, through the learner's own loss.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.fewshot.episodes import draw_episodes
from companion.fewshot.learners import ANIL, Baseline, MatchingNet, ProtoNet
from companion.models.build import build_model
from companion.seeding import generator
from companion.store import ModelStore
from companion.training import TrainingConfig, train

LEARNERS = ("baseline", "baseline++", "protonet", "matchingnet", "anil")
"""The five learners: two that fine-tune a classifier, two that compare with the support set, one meta-learned start."""


@dataclass(frozen=True)
class ExtractorRecipe:
    """Everything that decides an extractor and its learner.

    learner: of LEARNERS; data, options: for `catalogue.load(data, "train", **options)`, base classes; first_classes:
    how many of the classes of a real data set are base classes (0: all that are loaded); width, model: of the network;
    training: for the two baselines; episodes, tasks, base_ways, shots, queries, rate: of episodic training: how many
    steps, how many tasks in one, and their size, with Adam's highest learning rate; ways: of later tasks.
    """

    learner: str
    data: str
    options: dict
    first_classes: int = 0
    model: str = "small_cnn"
    model_settings: tuple = (("width", 16),)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    episodes: int = 150
    tasks: int = 2
    base_ways: int = 5
    shots: int = 5
    queries: int = 10
    rate: float = 1e-3
    ways: int = 5
    seed: int = 0

    def __post_init__(self):
        if self.learner not in LEARNERS:
            raise CompanionError(f"there is no learner {self.learner!r}; expected one of {', '.join(LEARNERS)}.")


@dataclass(frozen=True, eq=False)
class FewShot:
    """A trained few-shot classifier: images (B, C, H, W) -> features (B, D), and the learner on top."""

    name: str
    extractor: nn.Module
    learner: nn.Module
    dimension: int

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (E, S, D) of images (E, S, C, H, W), with gradients towards the images."""
        return self.extractor.features(images.flatten(0, 1)).view(*images.shape[:2], -1)


class CosineHead(nn.Linear):
    """The cosine classifier of Baseline++ while the extractor is trained, with logits times `scale`."""

    scale = 10.0

    def forward(self, features):
        """Return scores (B, K)."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


def train_fewshot(recipe: ExtractorRecipe, store: ModelStore, device: str = "cpu") -> FewShot:
    """Return the extractor and learner of `recipe`, from the store if they are there, on `device`, in eval mode."""
    modules = ("companion.fewshot.extractors", catalogue.loader_module(recipe.data))
    decisive = {"kind": "fewshot", "device": torch.device(device).type, **asdict(recipe)}
    stored = store.get_or_train(decisive, lambda: _train(recipe, store, device), modules, catalogue.digest(recipe.data))
    parts = _build(recipe, stored.info["channels"], stored.info["classes"])
    parts.load_state_dict(stored.state)
    parts.to(device).eval().requires_grad_(False)
    extractor = parts["extractor"].to(memory_format=torch.channels_last)
    return FewShot(recipe.learner, extractor, parts["learner"], extractor.head.in_features)


def _build(recipe: ExtractorRecipe, channels: int, classes: int) -> nn.ModuleDict:
    stream = generator(recipe.seed, "weights", recipe.learner)
    network = build_model(recipe.model, channels, classes, stream, **dict(recipe.model_settings))
    dimension = network.head.in_features
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=stream)))
        if recipe.learner == "baseline++":
            network.head = CosineHead(dimension, classes, bias=False)
        learner = {
            "baseline": lambda: Baseline(recipe.ways, cosine=False),
            "baseline++": lambda: Baseline(recipe.ways, cosine=True),
            "protonet": lambda: ProtoNet(recipe.ways),
            "matchingnet": lambda: MatchingNet(dimension, recipe.ways, steps=5),
            "anil": lambda: ANIL(dimension, recipe.ways),
        }[recipe.learner]()
    return nn.ModuleDict({"extractor": network, "learner": learner})


def base_classes(recipe: ExtractorRecipe) -> ImageSet:
    """Return the training images of the base classes; learners of one run share them."""
    return _loaded(recipe.data, tuple(sorted(recipe.options.items())), recipe.first_classes)


@lru_cache(maxsize=1)
def _loaded(name: str, options: tuple, first_classes: int) -> ImageSet:
    data = catalogue.load(name, "train", **dict(options))
    return data.subset(data.labels < first_classes) if first_classes else data


def _train(recipe: ExtractorRecipe, store: ModelStore, device: str) -> tuple[dict[str, torch.Tensor], dict]:
    data = base_classes(recipe)
    parts = _build(recipe, data.shape[0], len(data.classes)).to(device)
    stream = generator(recipe.seed, "training", recipe.learner)
    if recipe.learner.startswith("baseline"):
        history = train(parts["extractor"], data.images, data.labels, recipe.training, stream, device=device)
        report = {"training_accuracy": history[-1].accuracy}
    else:
        start = train_fewshot(replace(recipe, learner="baseline"), store, device)
        parts["extractor"].load_state_dict(start.extractor.state_dict())
        report = {"training_accuracy": _train_episodes(parts, data, recipe, stream, device)}
    return parts.state_dict(), report | {"channels": data.shape[0], "classes": len(data.classes)}


def _train_episodes(parts, data: ImageSet, recipe: ExtractorRecipe, stream: torch.Generator, device) -> float:
    """Train extractor and learner by episodes; return the share of right queries in the last tenth."""
    parts.train()
    few = FewShot(recipe.learner, parts["extractor"], parts["learner"], 0)
    trained = [value for name, value in parts.named_parameters() if not name.startswith("extractor.head")]
    optimizer = torch.optim.Adam(trained, recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.episodes)
    right = []
    for _ in range(recipe.episodes):
        tasks = draw_episodes(data, recipe.tasks, recipe.base_ways, recipe.shots, recipe.queries, stream)
        images = torch.cat([tasks.support, tasks.query], 1).to(device)
        found = few.embed(images)
        support, query = found[:, : tasks.support.shape[1]], found[:, tasks.support.shape[1] :]
        answers = tasks.answers.to(device)
        scores = few.learner(support, tasks.labels.to(device), query, stream)
        loss = F.cross_entropy(scores.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        schedule.step()
        right.append((scores.argmax(-1) == answers).float().mean())
    parts.eval()
    return float(torch.stack(right[-max(1, recipe.episodes // 10) :]).mean())
