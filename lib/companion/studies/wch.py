"""The experiments of the chapter on weighted contrastive hashing (Yu et al., ACCV 2022): arenas, heads, measurements.

An `Arena` says which images are queries, training images and database, and how backbone and heads are trained; a
`Scene` is an arena with its images and its warm backbone; `Codes` are what a hash makes of the scene's images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.hashing import classical, quality, retrieval
from companion.hashing.backbone import BackboneConfig, build_backbone, pooled_features, read_weights, tokens_of
from companion.hashing.codes import hamming_distances, nearest, pack
from companion.hashing.heads import HeadBank
from companion.hashing.learning import HashingConfig, HashSpec, new_bank, train_heads
from companion.hashing.protocols import PROTOCOLS, Protocol, assign, protocol
from companion.hashing.views import Augmentation, random_views
from companion.hashing.warmup import WarmupConfig, warm_start
from companion.hashing.weights import mutual_attention, weights_of
from companion.seeding import generator
from companion.statistics import Interval, bootstrap
from companion.store import ModelStore

BITS = (16, 32, 64)

CONTRASTIVE = {
    "plain": {"weights": "identity"},
    "pooled": {"weights": "global"},
    "patch": {"weights": "patch"},
    "wch": {"weights": "patch", "mutual": True},
}
"""Plain contrastive hashing and the steps to the paper's method: weights from mean tokens, weights from patches, and
mutual attention before both the weights and the hash head."""

RIVALS = {name: {"objective": name} for name in ("cibhash", "greedyhash", "bihalf")}
CLASSICAL = ("itq", "lsh")
NAMES = {
    "plain": "plain contrastive",
    "pooled": "global weights",
    "patch": "patch weights",
    "wch": "WCH",
    "cibhash": "CIBHash-like",
    "greedyhash": "GreedyHash-like",
    "bihalf": "Bi-half-like",
    "itq": "ITQ",
    "lsh": "LSH",
    "detached": "WCH, W detached",
    "normalised": "WCH, rows normalised",
    "attention_only": "attention, no weights",
    "t_020": "WCH, T = 0.2",
    "t_005": "WCH, T = 0.05",
    "unbalanced": "WCH, no balance term",
}

ABLATIONS = {
    "detached": {"weights": "patch", "mutual": True, "detach": True},
    "normalised": {"weights": "patch", "mutual": True, "normalise": True},
    "attention_only": {"weights": "identity", "mutual": True},
    "t_020": {"weights": "patch", "mutual": True, "attention_temperature": 0.2},
    "t_005": {"weights": "patch", "mutual": True, "attention_temperature": 0.05},
    "unbalanced": {"weights": "patch", "mutual": True, "balance": False},
}
"""WCH with one thing changed: W held constant in the gradient, rows of W divided by their sum, no weights, a sharper
attention, no balance term."""

TRAINED = CONTRASTIVE | RIVALS
TEMPERATURES = {"wch": 1.0, "t_020": 0.2, "t_005": 0.05}
"""T of mutual attention, by the setting that has it."""


@dataclass(frozen=True)
class Arena:
    """A data set with its roles, and how backbone and heads are trained on it.

    data: a manifest's name; splits: which are merged; options: for its loader; hashing: of
    heads on the frozen backbone; tuning: of heads that are trained together with it; limit: most database images of a
    class; joint: whether the code lengths of a tuned method share one backbone;
    weights: a file of ImageNet weights instead of the warm start ("" for none), for backbones of timm.
    """

    data: str
    splits: tuple[str, ...]
    rule: Protocol
    backbone: BackboneConfig
    warmup: WarmupConfig
    hashing: HashingConfig
    tuning: HashingConfig
    views: Augmentation
    options: Mapping[str, object] = field(default_factory=dict)
    limit: int | None = None
    joint: bool = True
    weights: str = ""


class Scene(NamedTuple):
    """An arena with its images and its backbone, and the mean tokens (N, D) of each group of images."""

    arena: Arena
    seed: int
    queries: ImageSet
    train: ImageSet
    database: ImageSet
    backbone: nn.Module
    features: dict[str, torch.Tensor]
    info: dict


class Codes(NamedTuple):
    """Codes of a scene's queries and database: (Q, bits) and (N, bits) bool."""

    queries: torch.Tensor
    database: torch.Tensor


def make_arena(description: Mapping) -> Arena:
    """Return the arena that a chapter's parameters describe.

    description: the fields of `Arena` as plain data; `rule` is a mapping or the name of a protocol of the literature.
    Raises CompanionError for a field that is missing or unknown.
    """
    kinds = {
        "backbone": BackboneConfig,
        "warmup": WarmupConfig,
        "hashing": HashingConfig,
        "tuning": HashingConfig,
        "views": Augmentation,
    }
    values = dict(description)
    try:
        for name, kind in kinds.items():
            values[name] = kind(**values.get(name, {}))
        rule = values["rule"]
        values["rule"] = protocol(rule) if isinstance(rule, str) else Protocol(**rule)
        return Arena(**values | {"splits": tuple(values["splits"])})
    except (TypeError, KeyError) as error:
        raise CompanionError(
            f"the arena {dict(description)!r:.200} does not fit: {error}. Expected the fields of companion.studies.wch."
            "Arena; look at the parameters cell."
        ) from error


def whole(arena: Arena) -> ImageSet:
    """Return all images of an arena's data; its backbone resizes them where it takes another side."""
    parts = [catalogue.load(arena.data, split, **arena.options) for split in arena.splits]
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    return replace(parts[0], images=images, labels=labels, split="all")


def images_of(arena: Arena, seed: int) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Return queries, training images and database, as the arena's protocol has them."""
    everything = whole(arena)
    roles = assign(everything.labels, arena.rule, generator(seed, "roles"), arena.limit)
    return tuple(everything.subset(chosen) for chosen in (roles.queries, roles.train, roles.database))


def open_scene(arena: Arena, seed: int, store: ModelStore, device: str = "cpu") -> Scene:
    """Load the images of an arena, train its backbone or take it from the store, and compute all mean tokens."""
    queries, train, database = images_of(arena, seed)
    backbone, info = warm_backbone(arena, train.images, seed, store, device)
    groups = {"queries": queries, "train": train, "database": database}
    features = {name: pooled_features(backbone, group.images) for name, group in groups.items()}
    return Scene(arena, seed, queries, train, database, backbone, features, info)


def warm_backbone(
    arena: Arena, images: torch.Tensor, seed: int, store: ModelStore, device: str
) -> tuple[nn.Module, dict]:
    """Return the arena's backbone after its warm start on `images`, or with ImageNet weights, and what was reported."""
    target = torch.device(device)
    backbone = build_backbone(arena.backbone, generator(seed, "backbone")).to(target)
    if arena.weights:
        read_weights(backbone, arena.weights)
        return backbone.eval(), {"weights": arena.weights}
    recipe = _recipe(arena, seed, target) | {"kind": "hashing backbone", "warmup": asdict(arena.warmup)}

    def training() -> tuple[dict[str, torch.Tensor], dict]:
        trained, losses = warm_start(arena.backbone, images, arena.warmup, arena.views, seed, target)
        return trained.state_dict(), {"losses": losses}

    modules = ("companion.hashing.warmup", catalogue.loader_module(arena.data))
    stored = store.get_or_train(recipe, training, modules, catalogue.digest(arena.data))
    backbone.load_state_dict(stored.state)
    return backbone.eval(), stored.info


def _recipe(arena: Arena, seed: int, device: torch.device) -> dict[str, object]:
    values = asdict(arena)
    for name in ("warmup", "hashing", "tuning", "joint"):  # each kind of recipe adds what it uses
        del values[name]
    return values | {"seed": seed, "device": device.type}


def specs_of(settings: Mapping[str, Mapping], lengths: Sequence[int] = BITS) -> dict[tuple[str, int], HashSpec]:
    """Return {(name, bits): spec} for every name of `settings` and every length."""
    return {(name, bits): HashSpec(bits, **values) for name, values in settings.items() for bits in lengths}


def learned_codes(
    scene: Scene, specs: Mapping[tuple[str, int], HashSpec], store: ModelStore
) -> dict[tuple[str, int], Codes]:
    """Train one head for each spec on the frozen backbone, or take them from the store, and return their codes."""
    arena, chosen = scene.arena, list(specs.values())
    device = next(scene.backbone.parameters()).device
    recipe = _recipe(arena, scene.seed, device) | {"kind": "hash heads", "warmup": asdict(arena.warmup)}
    recipe |= {"hashing": asdict(arena.hashing), "specs": [asdict(spec) for spec in chosen]}

    def training() -> tuple[dict[str, torch.Tensor], dict]:
        done = train_heads(scene.backbone, scene.train.images, chosen, arena.hashing, arena.views, scene.seed)
        return done.bank.state_dict(), {"losses": done.losses[-1].tolist()}

    stored = store.get_or_train(recipe, training, _modules(arena), catalogue.digest(arena.data))
    bank = new_bank(arena.backbone.width, chosen, arena.hashing, scene.seed)
    bank.load_state_dict(stored.state)
    queries, database = (bank.codes(scene.features[name]) for name in ("queries", "database"))
    return {key: Codes(*pair) for key, pair in zip(specs, zip(queries, database, strict=True), strict=True)}


def classical_codes(scene: Scene, lengths: Sequence[int] = BITS) -> dict[tuple[str, int], Codes]:
    """Return the codes of ITQ and LSH, fitted on the training images' mean tokens."""
    found = {}
    for name in CLASSICAL:
        fit = getattr(classical, name)
        for bits in lengths:
            hash_ = fit(scene.features["train"], bits, generator(scene.seed, name, bits))
            found[name, bits] = Codes(*(hash_.codes(scene.features[group]) for group in ("queries", "database")))
    return found


@dataclass(frozen=True)
class TunedHash:
    """A method whose backbone was trained with its heads. By code length: the codes of the scene's images, and the
    bank, the head's number in it and the backbone that make a code."""

    codes: dict[int, Codes]
    heads: dict[int, tuple[HeadBank, int]]
    backbones: dict[int, nn.Module]

    def encode(self, images: torch.Tensor, bits: int) -> torch.Tensor:
        """Return the codes (N, bits) bool of images (N, C, side, side)."""
        bank, number = self.heads[bits]
        return bank.codes(pooled_features(self.backbones[bits], images))[number]


def tuned_codes(scene: Scene, settings: Mapping, store: ModelStore, lengths: Sequence[int] = BITS) -> TunedHash:
    """Train heads of one setting together with a copy of the backbone, as the paper does, or take them from the store.

    The lengths share one backbone if the arena's `joint` says so, else each has its own.
    """
    groups = [tuple(lengths)] if scene.arena.joint else [(bits,) for bits in lengths]
    codes, heads, backbones = {}, {}, {}
    for group in groups:
        bank, backbone = _tuned(scene, [HashSpec(bits, **settings) for bits in group], store)
        found = [bank.codes(pooled_features(backbone, part.images)) for part in (scene.queries, scene.database)]
        for number, bits in enumerate(group):
            codes[bits] = Codes(found[0][number], found[1][number])
            heads[bits], backbones[bits] = (bank, number), backbone
    return TunedHash(codes, heads, backbones)


def _tuned(scene: Scene, specs: list[HashSpec], store: ModelStore) -> tuple[HeadBank, nn.Module]:
    arena, config = scene.arena, scene.arena.tuning
    device = next(scene.backbone.parameters()).device
    recipe = _recipe(arena, scene.seed, device) | {"kind": "tuned hash", "warmup": asdict(arena.warmup)}
    recipe |= {"hashing": asdict(config), "specs": [asdict(spec) for spec in specs]}

    def training() -> tuple[dict[str, torch.Tensor], dict]:
        done = train_heads(scene.backbone, scene.train.images, specs, config, arena.views, scene.seed)
        parts = {"head": done.bank, "backbone": done.backbone}
        state = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
        return state, {"losses": done.losses.tolist()}

    stored = store.get_or_train(recipe, training, _modules(arena), catalogue.digest(arena.data))
    backbone = build_backbone(arena.backbone, generator(scene.seed, "backbone")).to(device)
    bank = new_bank(arena.backbone.width, specs, config, scene.seed)
    for part, net in (("head", bank), ("backbone", backbone)):
        prefix = f"{part}."
        net.load_state_dict({k.removeprefix(prefix): v for k, v in stored.state.items() if k.startswith(prefix)})
    return bank, backbone.eval()


def _modules(arena: Arena) -> tuple[str, ...]:
    return ("companion.hashing.learning", "companion.hashing.warmup", catalogue.loader_module(arena.data))


def at_rate(scene: Scene, rate: float) -> Scene:
    """Return the scene with another learning rate of the backbone in tuning; 0.0 would freeze it."""
    tuning = replace(scene.arena.tuning, backbone_rate=rate)
    return scene._replace(arena=replace(scene.arena, tuning=tuning))


class UnderProtocol(NamedTuple):
    """Average precisions (Q,) in percent of each method under a protocol, and its queries and database images."""

    values: dict[str, np.ndarray]
    queries: int
    database: int


def rule_like(arena: Arena, name: str) -> Protocol:
    """Return the protocol `name` of the literature, with the arena's own counts unless its rule is a protocol's too."""
    published = protocol(name)
    if arena.rule in PROTOCOLS.values():
        return published
    return replace(published, queries=arena.rule.queries, train=arena.rule.train)


def under_protocol(scene: Scene, name: str, methods: Mapping[str, TunedHash], bits: int) -> UnderProtocol:
    """Return how trained methods rank under a protocol, without training them again.

    Their training images are training images of every protocol, so no query was ever trained on.
    """
    arena = replace(scene.arena, rule=rule_like(scene.arena, name))
    queries, _, database = images_of(arena, scene.seed)
    labels, found = (queries.labels.numpy(), database.labels.numpy()), {}
    for key, method in methods.items():
        packed = [pack(method.encode(part.images, bits)) for part in (queries, database)]
        found[key] = 100 * retrieval.average_precisions(*packed, *labels, arena.rule.top)
    return UnderProtocol(found, len(queries), len(database))


def precisions(scene: Scene, codes: Codes, ties: str = "expected", database: torch.Tensor | None = None) -> np.ndarray:
    """Return the average precision (Q,) in percent of every query; `database`: positions to search, in their order."""
    chosen = codes.database if database is None else codes.database[database]
    labels = scene.database.labels if database is None else scene.database.labels[database]
    return 100 * retrieval.average_precisions(
        pack(codes.queries), pack(chosen), scene.queries.labels.numpy(), labels.numpy(), scene.arena.rule.top, ties
    )


def class_order(scene: Scene) -> torch.Tensor:
    """Return the database's positions sorted by class, as an unshuffled data set has them."""
    return scene.database.labels.argsort(stable=True)


class Reference(NamedTuple):
    """What a hash is held against: mAP of a random ranking and of the backbone's real-valued features, in percent, and
    how many queries have their class's item nearest by these features."""

    chance: float
    features: float
    nearest: tuple[int, int]


def reference(scene: Scene) -> Reference:
    """Return the two ends of the scale; a random ranking is computed as a single group of ties, exactly."""
    queries, database = scene.features["queries"], scene.features["database"]
    labels = scene.queries.labels, scene.database.labels
    mean = scene.features["train"].mean(0)
    real = quality.cosine_average_precision(queries - mean, labels[0], database - mean, labels[1], scene.arena.rule.top)
    relevant = retrieval.relevance(labels[0].numpy(), labels[1].numpy()).sum(1)
    counts = np.full((len(relevant), 1), len(labels[1]))
    top = min(scene.arena.rule.top, len(labels[1]))
    chance = retrieval.expected_average_precisions(counts, relevant[:, None], top)
    right = quality.nearest_neighbour_accuracy(queries - mean, labels[0], database - mean, labels[1])
    return Reference(100 * float(chance.mean()), 100 * float(real.mean()), right)


def curve(scene: Scene, codes: Codes, points: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean precision and mean recall in percent over the queries after k = `points` items, (P,) each."""
    hits, total = retrieval.hits_at(
        pack(codes.queries), pack(codes.database), scene.queries.labels.numpy(), scene.database.labels.numpy(), points
    )
    return 100 * (hits / np.asarray(points)).mean(0), 100 * (hits / total[:, None]).mean(0)


def curve_points(size: int) -> list[int]:
    """Return where the official code measures its curve, k = 1, 500, 1,000, ..., 10,000 of 54,000, for `size` items."""
    step = max(1, round(500 * size / 54000))
    return [1, *range(step, min(size, 20 * step) + 1, step)]


class Weighing(NamedTuple):
    """Weights of pairs in a few batches: (K, B, B) values, labels (K, B), and chance in percent that W ranks a pair of
    one class above a pair of two."""

    values: torch.Tensor
    labels: torch.Tensor
    auc: float

    def by_class(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the W of all pairs of one class, the diagonal left out, and of all pairs of two."""
        same = self.labels[:, :, None] == self.labels[:, None, :]
        off = ~torch.eye(self.labels.shape[1], dtype=torch.bool)
        return self.values[same & off], self.values[~same]

    def means(self) -> tuple[float, float]:
        """Return the mean W of pairs of one class and of two."""
        return tuple(float(part.mean()) for part in self.by_class())


def weighing(scene: Scene, kind: str, attention: float, batches: int, backbone: nn.Module | None = None) -> Weighing:
    """Return the weights of `batches` training batches; attention: T of mutual attention, 0 for none.

    The views are the same for every kind and backbone. Labels serve the analysis only.
    """
    net = scene.backbone if backbone is None else backbone
    draw = generator(scene.seed, "weighing")
    size = scene.arena.hashing.batch_size
    if len(scene.train) < size * batches:
        raise CompanionError(
            f"{batches} batches of {size} were asked for; there are {len(scene.train)} training images."
        )
    order = torch.randperm(len(scene.train), generator=draw)[: size * batches].view(batches, size)
    found = []
    for chosen in order:
        images = scene.train.images[chosen]
        first, second = (tokens_of(net, random_views(images, scene.arena.views, draw)) for _ in range(2))
        if attention:
            first, second = mutual_attention(first, second, attention)
        found.append(weights_of(kind, first, second, scene.arena.hashing.weight_temperature))
    values, labels = torch.stack(found), scene.train.labels[order]
    return Weighing(values, labels, 100 * quality.same_class_auc(values, labels))


def packed_mismatches(codes: Codes, queries: int = 100) -> tuple[int, int]:
    """Return (wrong, compared): Hamming distances of packed codes that differ from those of a multiplication."""
    left, right = (2 * part.float() - 1 for part in (codes.queries[:queries], codes.database))
    expected = (left.shape[1] - left @ right.T) / 2
    found = hamming_distances(pack(codes.queries[:queries]), pack(codes.database))
    return int((found != expected.numpy()).sum()), found.size


class Gain(NamedTuple):
    """The mean difference of average precision in points, and its bootstrap interval over queries."""

    mean: float
    interval: Interval


def gain(better: np.ndarray, base: np.ndarray, seed: int) -> Gain:
    """Compare two methods on the same queries: their average precisions (Q,) in percent are paired."""
    difference = better - base
    return Gain(float(difference.mean()), bootstrap(difference, generator(seed, "gain")))


def nearest_images(scene: Scene, codes: Codes, chosen: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and distances (len(chosen), count) of the database images nearest to some queries."""
    distances = hamming_distances(pack(codes.queries[list(chosen)]), pack(codes.database))
    order = nearest(distances, count)
    return order, np.take_along_axis(distances, order, axis=1)


def one_query_a_class(scene: Scene, count: int) -> list[int]:
    """Return the first query of each of the first `count` classes."""
    return [int((scene.queries.labels == label).nonzero()[0]) for label in range(count)]
