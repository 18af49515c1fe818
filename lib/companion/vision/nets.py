"""The networks that are compared with a CloFormer at equal cost, and how one of them is trained and kept in the store.

"Equal cost" is taken literally: a variant of CloFormer gets another width of its feed-forward layers, so that one image
takes the same number of multiply-accumulates as in the full network; a network of another family gets the width that
brings its number of parameters nearest.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial

import torch
from torch import nn

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.models.cloformer import GATES, CloFormer, CloFormerConfig
from companion.models.cost import multiply_accumulates, parameter_count
from companion.seeding import generator
from companion.store import ModelStore
from companion.vision.dense import DenseNet, dense_loss, encode
from companion.vision.fitting import FitConfig, fit, smoothed_cross_entropy
from companion.vision.rivals import MobileNetLike, vision_transformer
from companion.vision.streets import CLASSES, generate

CHANGES: Mapping[str, Mapping[str, str]] = {
    "both": {},
    "local": {"branch": "local"},
    "pooled": {"branch": "global"},
    "depthwise": {"branch": "local", "gate": "none"},
    "no_gate": {"gate": "none"},
    **{gate: {"gate": gate} for gate in GATES if gate not in ("full", "none")},
    "plain_ffn": {"ffn": "plain"},
}
"""The variants of CloFormer: both branches as specified; local branches only; global ones only; local ones only, whose
gate is 1, which makes a plain depthwise network; both with a gate of 1; the gates of `GATES`; no depthwise convolution
in the feed-forward layers."""

FAMILIES = ("mobilenet", "vit")
"""Networks of other families: inverted residuals, and timm's vision transformer."""

NETS = (*CHANGES, *FAMILIES)

MEAN, DEVIATION = 0.5, 0.25  # of a pixel, the same for every network and data set


@dataclass(frozen=True)
class NetRecipe:
    """Everything that decides a network and its training.

    name: one of NETS; base: sizes of the full CloFormer; rivals: settings of the other families beside their width;
    data, data_options, train_size: for `catalogue.load(data, "train", ...)`; fit: the training; rates: the highest
    learning rate of a family, where it differs from the training's; first_class: see `without_classes`; seed: of every
    random choice.
    """

    name: str
    base: CloFormerConfig
    data: str
    train_size: int
    fit: FitConfig
    rivals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    data_options: Mapping[str, object] = field(default_factory=dict)
    first_class: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network in evaluation mode, the mean loss of its last epoch, and what it costs an image."""

    model: nn.Module
    loss: float
    parameters: int
    macs: int


class Normalised(nn.Module):
    """A network that takes images in [0, 1], which are shifted and scaled for it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.network((images - MEAN) / DEVIATION)


class Pyramid(nn.Module):
    """The maps of a network's stages, from fine to coarse, for images in [0, 1].

    network: a CloFormer or a `MobileNetLike`, whose head is not used.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        if not isinstance(network, CloFormer | MobileNetLike):
            raise CompanionError(
                f"there is no pyramid of a {type(network).__name__}: expected a CloFormer or a MobileNet, as a "
                "transformer has maps of one size only."
            )
        self.network = network
        self.network.head = nn.Identity()
        self.widths = list(network.config.channels) if isinstance(network, CloFormer) else network.widths

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return maps [(B, C_i, H_i, W_i)] of images (B, C, H, W)."""
        x = (images - MEAN) / DEVIATION
        if isinstance(self.network, CloFormer):
            return self.network.forward_intermediates(x, intermediates_only=True, norm=True)
        return self.network.maps(x)


@cache
def config_of(name: str, base: CloFormerConfig, shape: tuple[int, int, int], classes: int) -> CloFormerConfig:
    """Return the variant `name` of CHANGES of a CloFormer, with feed-forward layers that make its cost that of `base`.

    shape: (C, H, W) of an image. The cost is met as nearly as whole hidden channels allow.
    """
    changes = dict(CHANGES[name])
    branch = changes.pop("branch", None)
    config = replace(base, **changes)
    if branch:
        config = config.only(branch)
    wanted, found = _macs(base, shape, classes), base.ffn_ratio
    for _ in range(2):  # the cost is linear in the hidden widths but for their rounding
        cost, more = (_macs(replace(config, ffn_ratio=found + extra), shape, classes) for extra in (0.0, 1.0))
        found = max(0.25, found + (wanted - cost) / (more - cost))
    return replace(config, ffn_ratio=found)


def build(recipe: NetRecipe, shape: tuple[int, int, int], classes: int) -> Normalised:
    """Return the untrained network of a recipe for images of `shape` (C, H, W) in [0, 1]; weights from its seed."""
    if recipe.name not in NETS:
        raise CompanionError(f'there is no network "{recipe.name}": expected one of {", ".join(NETS)}.')
    stream = generator(recipe.seed, "cloformer weights", recipe.name)
    if recipe.name in FAMILIES:
        wanted = parameter_count(_seeded(stream, CloFormer, recipe.base, classes, shape[0]))
        return Normalised(_nearest(recipe, wanted, shape, classes, stream))
    config = config_of(recipe.name, recipe.base, shape, classes)
    return Normalised(_seeded(stream, CloFormer, config, classes, shape[0]))


def _nearest(recipe: NetRecipe, wanted: int, shape: tuple, classes: int, stream: torch.Generator) -> nn.Module:
    """Return the network of another family whose width, a multiple of 4, brings it nearest to `wanted` parameters."""
    settings = dict(recipe.rivals.get(recipe.name, {}))
    if recipe.name == "mobilenet":
        settings["stem_stride"] = recipe.base.stem_stride
        make = partial(MobileNetLike, shape[0], classes, **settings)
    else:
        make = partial(vision_transformer, shape[0], classes, shape[1], **settings)
    low = width = 4
    while parameter_count(_seeded(generator(0, "width"), make, width=width)) < wanted:
        low, width = width, width + 4
    sizes = {one: parameter_count(_seeded(generator(0, "width"), make, width=one)) for one in (low, width)}
    return _seeded(stream, make, width=min(sizes, key=lambda one: abs(sizes[one] - wanted)))


def _seeded(stream: torch.Generator, make: Callable[..., nn.Module], *arguments, **settings) -> nn.Module:
    """Return `make(*arguments, **settings)` with weights from `stream`."""
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=stream)))
        return make(*arguments, **settings)


def train_net(recipe: NetRecipe, store: ModelStore, device: str = "cpu") -> Trained:
    """Return the network of a recipe, from the store if it is there, on `device`."""
    modules = ("companion.vision.nets", catalogue.loader_module(recipe.data))
    decisive = {"kind": "cloformer net", "device": torch.device(device).type} | asdict(recipe)
    stored = store.get_or_train(decisive, lambda: _train(recipe, device), modules, catalogue.digest(recipe.data))
    shape, classes = tuple(stored.info["shape"]), stored.info["classes"]
    return _restored(build(recipe, shape, classes), stored, shape, device)


def train_dense(recipe: NetRecipe, side: int, head: int, store: ModelStore, device: str = "cpu") -> Trained:
    """Return a detector and segmenter on the backbone of a recipe, trained on `train_size` pictures of `streets`.

    side: of the pictures in pixels; head: width of the dense head. The recipe's `data` does not matter. The network
    is trained from scratch.
    """
    decisive = {"kind": "cloformer dense", "device": torch.device(device).type, "side": side, "head": head}
    decisive |= asdict(replace(recipe, data="streets"))
    stored = store.get_or_train(
        decisive, lambda: _train_dense(recipe, side, head, device), ("companion.vision.nets",), "streets"
    )
    return _restored(build_dense(recipe, side, head), stored, (3, side, side), device)


def build_dense(recipe: NetRecipe, side: int, head: int) -> DenseNet:
    """Return the untrained dense network of a recipe for pictures of `side` pixels."""
    pyramid = Pyramid(build(recipe, (3, side, side), len(CLASSES)).network)
    return _seeded(generator(recipe.seed, "dense head"), DenseNet, pyramid, pyramid.widths, len(CLASSES), head)


def without_classes(data: ImageSet, first: int) -> ImageSet:
    """Return the images whose label is at least `first`, their labels counted from there."""
    if not first:
        return data
    chosen = data.subset(data.labels >= first)
    return replace(chosen, labels=chosen.labels - first, classes=chosen.classes[first:])


def stride_of(model: DenseNet, side: int) -> int:
    """Return how many pixels a position of a dense network's output stands for."""
    device = next(model.parameters()).device
    model.eval()  # batch normalisation shall not learn from this image
    with torch.no_grad():
        return side // model(torch.zeros(1, 3, side, side, device=device)).shape[-1]


@cache
def _macs(config: CloFormerConfig, shape: tuple[int, int, int], classes: int) -> int:
    return multiply_accumulates(_seeded(generator(0, "cost"), CloFormer, config, classes, shape[0]), shape)


def _restored(model: nn.Module, stored, shape: tuple[int, int, int], device: str) -> Trained:
    macs = multiply_accumulates(model, shape)
    model.load_state_dict(stored.state)
    model.to(device=device, memory_format=torch.channels_last).eval()
    return Trained(model, stored.info["loss"], parameter_count(model), macs)


def _train(recipe: NetRecipe, device: str) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    data = catalogue.load(recipe.data, "train", **recipe.data_options, size=recipe.train_size)
    data = without_classes(data, recipe.first_class)
    model = build(recipe, data.shape, len(data.classes))
    stream = generator(recipe.seed, "cloformer training")  # the same order of images for every network
    settings = replace(recipe.fit, learning_rate=recipe.rates.get(recipe.name, recipe.fit.learning_rate))
    losses = fit(model, data.images, (data.labels,), smoothed_cross_entropy, settings, stream, device)
    info = {"shape": list(data.shape), "classes": len(data.classes), "loss": losses[-1]}
    return model.state_dict(), info


def _train_dense(
    recipe: NetRecipe, side: int, head: int, device: str
) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    data = generate("train", recipe.train_size, side)
    model = build_dense(recipe, side, head)
    targets = encode(data.boxes, data.labels, data.masks, len(data.classes), stride_of(model, side))
    stream = generator(recipe.seed, "dense training")
    settings = replace(recipe.fit, learning_rate=recipe.rates.get(recipe.name, recipe.fit.learning_rate))
    losses = fit(model, data.images, targets.tensors(), dense_loss(model), settings, stream, device)
    return model.state_dict(), {"loss": losses[-1]}
