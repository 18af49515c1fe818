"""The experiments of the chapter on FLBA: episodes, attacks on their support sets, and what learners make of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from companion.attacks import flba
from companion.attacks import support_poisoning as poisons
from companion.attacks.flba import Settings
from companion.attacks.support_poisoning import PoisonedSupport, Stamp
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.defenses import neural_cleanse
from companion.fewshot.episodes import Episodes, draw_episodes
from companion.fewshot.extractors import ExtractorRecipe, FewShot, base_classes, train_fewshot
from companion.fewshot.learners import Head, HeadTraining, refine
from companion.seeding import generator
from companion.store import ModelStore
from companion.training import TrainingConfig

TARGET = 0
"""The attacked label of every episode."""

NOVEL_FROM = 80
"""Classes from this number on are novel, in every data set; base classes are below it."""

RATES = (0.2, 0.4, 0.6, 0.8, 1.0)

FIGURE_1 = {  # the paper's Figure 1, digitised from the plot by the fact sheet: +-1 to 2 points
    "success": {
        "badnet": (36, 49, 83, 93, 98),
        "blended": (52, 82, 93, 97, 99),
        "refool": (70, 91, 97, 99, 100),
        "wanet": (60, 75, 92, 97, 97),
        "label_consistent": (14, 13, 13, 14, 18),
        "tuap": (41, 42, 35, 26, 20),
    },
    "accuracy": {
        "badnet": (64, 62, 33, 24, 20),
        "blended": (63, 49, 36, 28, 20),
        "refool": (66, 56, 45, 34, 20),
        "wanet": (46, 45, 30, 22, 22),
        "label_consistent": (55, 51, 47, 44, 40),
        "tuap": (72, 68, 65, 62, 58),
    },
}


@dataclass(frozen=True)
class Arena:
    """Where episodes come from, and how extractors are trained.

    data: "runes" or the name of a data set with more than NOVEL_FROM classes; base, novel: how many classes of each
    kind; base_size, novel_size: images of them ("runes" only); ways, queries: of an episode.
    """

    data: str = "runes"
    base: int = 60
    base_size: int = 6000
    novel: int = 20
    novel_size: int = 1600
    width: int = 16
    model: str = "small_cnn"
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(crop_padding=2))
    steps: int = 150
    ways: int = 5
    queries: int = 15

    def recipe(self, learner: str, seed: int) -> ExtractorRecipe:
        """Return how the extractor of a learner is trained on the base classes."""
        drawn = self.data == "runes"
        return ExtractorRecipe(
            learner,
            self.data,
            {"size": self.base_size, "classes": self.base} if drawn else {},
            first_classes=0 if drawn else self.base,
            model=self.model,
            model_settings=(("width", self.width),) if self.model == "small_cnn" else (),
            training=self.training,
            episodes=self.steps,
            ways=self.ways,
            seed=seed,
        )

    def learners(self, names: Sequence[str], seed: int, store: ModelStore, device: str) -> dict[str, FewShot]:
        """Return trained learners by name."""
        return {name: train_fewshot(self.recipe(name, seed), store, device) for name in names}

    def novel_images(self) -> ImageSet:
        """Return images of classes that no extractor has seen."""
        if self.data == "runes":
            return catalogue.load("runes", "test", size=self.novel_size, classes=self.novel, first_class=NOVEL_FROM)
        data = catalogue.load(self.data, "train")
        kept = (data.labels >= NOVEL_FROM) & (data.labels < NOVEL_FROM + self.novel)
        return data.subset(kept)

    def episodes(self, count: int, shots: int, seed: int) -> Episodes:
        """Draw episodes of novel classes."""
        return draw_episodes(
            self.novel_images(), count, self.ways, shots, self.queries, generator(seed, "episodes", shots)
        )

    def reflections(self, seed: int) -> torch.Tensor:
        """Return eight images of base classes, for Refool's panes."""
        images = base_classes(self.recipe("baseline", seed)).images
        return images[torch.randperm(len(images), generator=generator(seed, "reflections"))[:8]]


@dataclass(frozen=True)
class Outcome:
    """What the learner does after adapting to a support set, for each of E episodes, in percent.

    accuracy: of clean queries (the benign accuracy); success: triggered queries of other classes called the target;
    success_all: the same over all queries, as the released code counts, with a floor of 100 / ways.
    """

    accuracy: torch.Tensor
    success: torch.Tensor
    success_all: torch.Tensor

    def named(self) -> dict[str, torch.Tensor]:
        """Return the three measures (E,) by the names that metric ids use."""
        return {"ba": self.accuracy, "asr": self.success, "asr_all": self.success_all}

    def means(self) -> list[float]:
        """Return the three means over episodes."""
        return [float(part.mean()) for part in (self.accuracy, self.success, self.success_all)]


def interval(values: torch.Tensor) -> tuple[float, float]:
    """Return the mean's 95 % interval over episodes, 1.96 standard errors to each side, as the field reports it."""
    half = 1.96 * float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean()) - half, float(values.mean()) + half


def judge(
    few: FewShot, episodes: Episodes, poisoned: PoisonedSupport, seed: int, change: Stamp | None = None
) -> Outcome:
    """Adapt to a poisoned support set and judge clean and triggered queries with the same classifier.

    change: what a defender does to all queries before they are classified.
    """
    return judge_all(few, episodes, [poisoned], seed, change)[0]


def judge_all(
    few: FewShot, episodes: Episodes, kinds: Sequence[PoisonedSupport], seed: int, change: Stamp | None = None
) -> list[Outcome]:
    """Return `judge` of several poisoned versions of the same episodes, which adapt side by side."""
    change = change or (lambda images: images)
    count = len(kinds)
    shown: dict[int, torch.Tensor] = {}  # features of triggered queries, by stamp
    with torch.no_grad():
        clean = few.embed(change(episodes.query))
        for kind in kinds:
            if id(kind.stamp) not in shown:
                shown[id(kind.stamp)] = few.embed(change(kind.stamp(episodes.query)))
        support = torch.cat([few.embed(kind.images) for kind in kinds])
        labels = torch.cat([kind.labels for kind in kinds])
        queries = torch.cat([torch.cat([clean, shown[id(kind.stamp)]], 1) for kind in kinds])
        scores = few.learner(support, labels, queries, generator(seed, "adaptation"))
    return [outcome(part, episodes.answers) for part in scores.chunk(count)]


def clean_accuracy(few: FewShot, episodes: Episodes, seed: int) -> torch.Tensor:
    """Return the share of right queries (E,) in percent, with support sets and queries that nobody touched."""
    with torch.no_grad():
        support, query = few.embed(episodes.support), few.embed(episodes.query)
        scores = few.learner(support, episodes.labels, query, generator(seed, "adaptation"))
    return 100 * (scores.argmax(-1) == episodes.answers).float().mean(1)


def outcome(scores: torch.Tensor, answers: torch.Tensor) -> Outcome:
    """Return the outcome of scores (E, 2 Q, N), clean queries first, then the same queries triggered."""
    called = scores.argmax(-1)
    clean, triggered = called.chunk(2, 1)
    hit, other = (triggered == TARGET).float(), (answers != TARGET).float()
    return Outcome(
        100 * (clean == answers).float().mean(1),
        100 * (hit * other).sum(1) / other.sum(1),
        100 * hit.mean(1),
    )


@dataclass(frozen=True)
class Planted:
    """FLBA in E episodes: the poisoned support set, the trigger (E, C, H, W) and the centre of its features (E, D)."""

    poisoned: PoisonedSupport
    trigger: torch.Tensor
    centre: torch.Tensor


def plant(
    few: FewShot, episodes: Episodes, settings: Settings, trigger: torch.Tensor | None = None, batch: int = 8
) -> Planted:
    """Attack the support sets with FLBA; a trigger that is given is taken as it is. `batch` episodes go at a time."""
    region = flba.patch_region(episodes.support.shape, settings.patch)
    triggers, centres, hidden = [], [], []
    for start in range(0, len(episodes), batch):
        part = slice(start, start + batch)
        support, labels = episodes.support[part], episodes.labels[part]
        found = flba.optimise_trigger(few.embed, support, settings) if trigger is None else trigger[part]
        centre = flba.trigger_centre(few.embed, support, found, region)
        hidden.append(flba.hide(few.embed, support, labels, TARGET, centre, settings))
        triggers.append(found)
        centres.append(centre)
    whole = torch.cat(triggers)
    poisoned = PoisonedSupport(torch.cat(hidden), episodes.labels, lambda images: flba.paste(images, whole, region))
    return Planted(poisoned, whole, torch.cat(centres))


def official(learner: str, patch: int, trigger_steps: int, share: float = 1.0) -> Settings:
    """Return the released settings of a learner, with another patch, and a share of the perturbation's steps."""
    settings = flba.OFFICIAL[learner]
    steps = max(1, round(settings.steps * share))
    return replace(settings, patch=patch, trigger_steps=trigger_steps, steps=steps)


def untouched(episodes: Episodes, stamp: Stamp) -> PoisonedSupport:
    """Return clean support sets with a trigger at test time: the control of every attack."""
    return PoisonedSupport(episodes.support, episodes.labels, stamp)


def shaken(episodes: Episodes, stamp: Stamp, eps: float, seed: int) -> PoisonedSupport:
    """Return support sets with random signs of size eps instead of the perturbation: the second control."""
    signs = torch.randint(2, episodes.support.shape, generator=generator(seed, "signs")).to(episodes.support) * 2 - 1
    return PoisonedSupport((episodes.support + eps * signs).clamp(0, 1), episodes.labels, stamp)


DIRTY = ("badnet", "blended", "refool", "wanet")
BASELINES = (*DIRTY, "label_consistent", "tuap")
WARP_STRENGTH = 8.0
"""As in the chapter on BELT: on 32 x 32 pixels the usual 0.5 moves a quarter of a pixel."""


def baselines(
    few: FewShot, episodes: Episodes, arena: Arena, patch: int, seed: int, steps: int
) -> Callable[[str, float], PoisonedSupport]:
    """Return a function (attack, rate) -> poisoned support set; `steps` are those of TUAP, and 3/5 of them for PGD."""
    shape = tuple(episodes.support.shape[2:])
    stamps: dict[str, Stamp] = {
        "badnet": poisons.patched(shape, patch),
        "blended": poisons.from_trigger("blended", shape, seed, alpha=0.1),
        "refool": poisons.reflected(arena.reflections(seed)),
        "wanet": poisons.from_trigger("warp", shape, seed, strength=WARP_STRENGTH),
    }
    support, labels = episodes.support, episodes.labels

    hardened = {
        "label_consistent": poisons.label_consistent(
            few.embed, support, labels, patch, episodes.ways, steps=max(1, round(0.6 * steps))
        ),
        "tuap": poisons.universal_patch(few.embed, support, labels, patch, episodes.ways, steps=steps),
    }

    def make(attack: str, rate: float) -> PoisonedSupport:
        if attack in stamps:
            return poisons.dirty_label(support, labels, stamps[attack], rate, episodes.ways)
        return hardened[attack].poison(support, labels, rate, episodes.ways)

    return make


ABLATIONS = ("full", "white patch", "no attraction", "no repulsion", "nothing kept")


def ablate(few: FewShot, episodes: Episodes, settings: Settings, whole: Planted, name: str) -> PoisonedSupport:
    """Return FLBA with one part taken away (see ABLATIONS)."""
    if name == "full":
        return whole.poisoned
    if name == "white patch":
        return plant(few, episodes, settings, torch.ones_like(whole.trigger)).poisoned
    changes = {
        "no attraction": {"attract": False},
        "no repulsion": {"repel": False},
        "nothing kept": {"attract_keep": 0.0, "repel_keep": 0.0},
    }[name]
    return plant(few, episodes, replace(settings, **changes), whole.trigger).poisoned


def saturated(seed: int, low: float = 0.4, high: float = 1.6) -> Stamp:
    """Return colour jitter: each image's saturation is scaled by a random factor in [low, high]."""

    def change(images: torch.Tensor) -> torch.Tensor:
        stream = generator(seed, "saturation")
        factor = torch.rand(images.shape[:2], generator=stream).to(images) * (high - low) + low
        grey = images.mean(2, keepdim=True)
        return (grey + factor[..., None, None, None] * (images - grey)).clamp(0, 1)

    return change


def refined(
    few: FewShot, episodes: Episodes, poisoned: PoisonedSupport, clean: Episodes, epochs: int, seed: int
) -> Outcome:
    """Return what is left after `epochs` more of training the classifier on a user's clean images."""
    stream = generator(seed, "adaptation")
    with torch.no_grad():
        head = few.learner.fit(few.embed(poisoned.images), poisoned.labels, stream)
        head = refine(head, few.embed(clean.support), clean.labels, HeadTraining(epochs=epochs), stream)
        queries = torch.cat([episodes.query, poisoned.stamp(episodes.query)], 1)
        return outcome(head.scores(few.embed(queries)), episodes.answers)


def split_queries(episodes: Episodes, held: int) -> tuple[Episodes, Episodes]:
    """Part the queries of each class: the first `held` become a user's clean images, the others stay queries."""
    each = episodes.answers.shape[1] // episodes.ways
    place = torch.arange(episodes.answers.shape[1]) % each
    mine, rest = place < held, place >= held
    clean = replace(episodes, support=episodes.query[:, mine], labels=episodes.answers[:, mine], shots=held)
    return clean, replace(episodes, query=episodes.query[:, rest], answers=episodes.answers[:, rest])


class Adapted(nn.Module):
    """The classifier of one episode as a network: images (B, C, H, W) -> scores (B, N)."""

    def __init__(self, few: FewShot, head: Head, episode: int):
        super().__init__()
        self.extractor, self.scale = few.extractor, head.scale
        self.weight = nn.Parameter(head.weight[episode], requires_grad=False)
        self.bias = None if head.bias is None else nn.Parameter(head.bias[episode], requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (B, N)."""
        bias = None if self.bias is None else self.bias[None]
        head = Head(self.weight[None], bias, self.scale)
        return head.scores(self.extractor.features(images)[None])[0]


@dataclass(frozen=True)
class Cleansed:
    """Neural Cleanse on the classifiers of several episodes: index and whether the target or any class is accused."""

    indices: torch.Tensor
    alarms: int
    target_accused: int


def cleanse(few: FewShot, episodes: Episodes, poisoned: PoisonedSupport, steps: int, seed: int) -> Cleansed:
    """Run Neural Cleanse with the clean queries on each episode's adapted classifier (Baseline or Baseline++)."""
    with torch.no_grad():
        head = few.learner.fit(few.embed(poisoned.images), poisoned.labels, generator(seed, "adaptation"))
    settings = replace(neural_cleanse.QUICK, steps=steps)
    indices, accused = [], []
    for episode in range(len(episodes)):
        model = Adapted(few, head, episode)
        stream = generator(seed, "neural cleanse", episode)
        found = neural_cleanse.reverse_triggers(model, episodes.query[episode], range(episodes.ways), settings, stream)
        anomaly = neural_cleanse.anomaly_index(found.norms, found.reached)
        indices.append(anomaly.index)
        accused.append(anomaly.flagged)
    finite = torch.tensor(indices).clamp(max=99.0)
    return Cleansed(finite, sum(bool(f) for f in accused), sum(TARGET in f for f in accused))


def plane(features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return groups of features (M_i, D) in their first two principal components, (M_i, 2); signs are fixed."""
    whole = torch.cat(list(features)).double()
    centre = whole.mean(0)
    axes = torch.linalg.svd(whole - centre, full_matrices=False)[2][:2]
    largest = axes.abs().argmax(1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    return [((group.double() - centre) @ axes.T).float() for group in features]


def turned(settings: Settings, knob: str, value: int) -> Settings:
    """Return settings with `knob` turned: "eps" in grey levels, "patch" in pixels."""
    return replace(settings, **({"eps": value / 255} if knob == "eps" else {"patch": value}))
