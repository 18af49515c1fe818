"""The experiments of the chapter on CloFormer (Fan et al. 2023): which networks there are and what is measured.

Every function takes an `Arena`, the data and the recipe that all networks share, or networks that are already trained,
and returns plain numbers or tensors. The chapter adds prose, tables and figures.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.models.cloformer import VARIANTS, CloFormer, CloFormerConfig, attentions
from companion.models.cost import multiply_accumulates, parameter_count
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.training import logits
from companion.vision.dense import average_precision, decode, mean_intersection_over_union
from companion.vision.fitting import FitConfig
from companion.vision.nets import NetRecipe, Trained, build, train_dense, train_net, without_classes
from companion.vision.spectrum import fine_share, radial_power
from companion.vision.streets import CLASSES, Streets

PUBLISHED = {"cloformer_xxs": (4.2, 0.6), "cloformer_xs": (7.2, 1.1), "cloformer_s": (12.3, 2.0)}
"""Parameters in millions and GFLOPs at 224 x 224 pixels, as the paper's row on Papers with Code has them."""

MAIN = ("both", "local", "pooled", "no_gate", "depthwise", "plain_ffn")
GATES_TRIED = ("both", "no_silu", "no_tanh", "sigmoid", "softmax", "no_gate")
DENSE = ("both", "local", "pooled", "mobilenet")

NAMES = {
    "both": "both branches",
    "local": "local only",
    "pooled": "global only",
    "no_gate": "both, gate = 1",
    "depthwise": "plain depthwise",
    "mobilenet": "MobileNet-like",
    "vit": "ViT (timm)",
    "no_silu": "gate without SiLU",
    "no_tanh": "gate without tanh",
    "sigmoid": "sigmoid for tanh",
    "softmax": "softmax for tanh",
    "plain_ffn": "plain FFN",
}


BRANCHES = {"input": "input", "local": "local", "pooled": "global"}
"""The maps whose spectrum is taken, and their names in figures (an expression of a claim cannot say `global`)."""


class Size(NamedTuple):
    """One of the paper's networks: parameters and multiply-accumulates of ours, and the published millions and G."""

    name: str
    parameters: int
    macs: int
    published_parameters: float
    published_flops: float


def published_sizes(side: int = 224) -> list[Size]:
    """Return what the three networks of the paper cost on images of `side` pixels."""
    found = []
    for name, config in VARIANTS.items():
        with torch.random.fork_rng(devices=[]):  # the weights do not matter
            torch.default_generator.manual_seed(0)
            network = CloFormer(config)
        macs = multiply_accumulates(network, (3, side, side))
        found.append(Size(name, parameter_count(network), macs, *PUBLISHED[name]))
    return found


@dataclass(frozen=True)
class Arena:
    """A data set and the recipe that all networks on it share.

    data: a manifest's name; options: for its loader; first_class: classes before it are left out (of the first
    `train_size` and `held_size` images); base: sizes of the full CloFormer, which the others match in cost; fit: the
    training; rivals, rates: as in `NetRecipe`.
    """

    data: str
    train_size: int
    held_size: int
    base: CloFormerConfig
    fit: FitConfig
    options: Mapping[str, object] = field(default_factory=dict)
    first_class: int = 0
    rivals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    def recipe(self, name: str, seed: int) -> NetRecipe:
        """Return the recipe of the network `name` of `companion.vision.nets.NETS`."""
        return NetRecipe(
            name, self.base, self.data, self.train_size, self.fit, self.rivals, self.rates, self.options,
            self.first_class, seed,
        )  # fmt: skip

    def held_out(self) -> ImageSet:
        """Return the test images, which no network has seen."""
        data = catalogue.load(self.data, "test", **self.options, size=self.held_size)
        return without_classes(data, self.first_class)


def train_all(
    arena: Arena, names: Sequence[str], seed: int, store: ModelStore, device: str = "cpu"
) -> dict[str, Trained]:
    """Return networks by name, each from the store or trained now."""
    return {name: train_net(arena.recipe(name, seed), store, device) for name in names}


def untrained(arena: Arena, name: str, held: ImageSet, seed: int) -> Trained:
    """Return the network that `train_all` starts from; its loss is that of a guess."""
    model = build(arena.recipe(name, seed), held.shape, len(held.classes)).eval()
    return Trained(model, math.log(len(held.classes)), parameter_count(model), multiply_accumulates(model, held.shape))


def correct(net: Trained, held: ImageSet) -> torch.Tensor:
    """Return which held-out images a network classifies correctly, (N,) float32 of 0 and 1."""
    return (logits(net.model, held.images).argmax(dim=1) == held.labels).float()


def share(right: torch.Tensor) -> Proportion:
    """Return the accuracy as a share with its counts, of what `correct` gives."""
    return Proportion(int(right.sum()), len(right))


def throughput(net: Trained, images: torch.Tensor, repeats: int = 5) -> float:
    """Return images a second (wall time, no gradients) of the fastest of several passes over `images` as one batch."""
    device = next(net.model.parameters()).device
    batch = images.to(device).contiguous(memory_format=torch.channels_last)
    seconds = []
    with torch.no_grad():
        for _ in range(repeats + 1):  # the first one warms up
            begin = time.perf_counter()
            float(net.model(batch).sum())  # reading the number waits for the device
            seconds.append(time.perf_counter() - begin)
    return len(images) / min(seconds[1:])


class Spectrum(NamedTuple):
    """Radial power of what goes into an attention and of what its two branches give, and their fine shares.

    frequencies: (R,), cycles a map; power: {"input", "local", "pooled"} to shares (R,) that sum to 1; fine: the shares
    above half of the highest frequency; side: of the maps.
    """

    frequencies: torch.Tensor
    power: Mapping[str, torch.Tensor]
    fine: Mapping[str, float]
    side: int


def spectra(net: Trained, images: torch.Tensor) -> list[Spectrum]:
    """Return the spectrum at every two-branch attention of a CloFormer, from early to late, over images (N, C, H, W).

    Attention whose maps are smaller than 4 x 4 is left out: two frequencies are no spectrum.
    """
    found: list[Spectrum] = []

    def listen(module, inputs, output):
        maps = {"input": inputs[0], "local": module.local(inputs[0]), "pooled": module.pooled(inputs[0])}
        if maps["input"].shape[-1] < 4:
            return
        maps = {name: value.cpu() for name, value in maps.items()}
        power = {name: radial_power(value)[1] for name, value in maps.items()}
        fine = {name: fine_share(value) for name, value in maps.items()}
        found.append(Spectrum(radial_power(maps["input"])[0], power, fine, maps["input"].shape[-1]))

    handles = [module.register_forward_hook(listen) for _, module in attentions(net.model)]
    try:
        with torch.no_grad():
            net.model(images.to(next(net.model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise CompanionError("this network has no two-branch attention on maps of 4 x 4 or more: nothing to measure.")
    return found


class Looks(NamedTuple):
    """Inside the first attention of a CloFormer, for images: strength of the gate, and where one position looks.

    gate: (N, h, w), the mean of |A| over channels; attended: (N, t, t), the global weights of the position `query`
    (row, column) over pooled positions, a mean over heads; local, pooled: (N, h, w), the branches' output as its
    root mean square over channels.
    """

    gate: torch.Tensor
    attended: torch.Tensor
    local: torch.Tensor
    pooled: torch.Tensor
    query: tuple[int, int]


def looks(net: Trained, images: torch.Tensor) -> Looks:
    """Return what the first attention of a CloFormer does with images (N, C, H, W); the query is the middle."""
    kept = []
    _, module = next(iter(attentions(net.model)))
    handle = module.register_forward_hook(lambda part, inputs, output: kept.append(inputs[0]))
    with torch.no_grad():
        net.model(images.to(next(net.model.parameters()).device))
        handle.remove()
        (x,) = kept
        height, width = x.shape[2:]
        gate, value = module.local.gate_and_values(x)
        weights, _ = module.pooled.weights_and_values(x)  # (N, m, HW, T)
        query = (height // 2, width // 2)
        attended = weights[:, :, query[0] * width + query[1]].mean(dim=1)
        shape = (height // module.pooled.window, width // module.pooled.window)
        local, pooled = (one.square().mean(dim=1).sqrt() for one in (gate * value, module.pooled(x)))
    found = (gate.abs().mean(dim=1), attended.reshape(-1, *shape), local, pooled)
    return Looks(*[one.cpu() for one in found], query)


class DenseScore(NamedTuple):
    """Mean average precision at an overlap of 0.5 and mean intersection over union, in [0, 1], and each by class."""

    precision: float
    overlap: float
    precisions: tuple[float, ...]
    overlaps: tuple[float, ...]


def picture(values: torch.Tensor, side: int) -> torch.Tensor:
    """Return a map (h, w) as a grey picture (1, side, side): its range stretched to [0, 1], its positions repeated."""
    low, high = values.aminmax()
    stretched = (values - low) / (high - low).clamp(min=1e-9)
    return stretched.repeat_interleave(side // values.shape[0], 0).repeat_interleave(side // values.shape[1], 1)[None]


def dense_score(net: Trained, held: Streets) -> DenseScore:
    """Return how well a dense network finds and segments the signs of held-out pictures."""
    answers = logits(net.model, held.images)
    centres, boxes, masks = net.model.split(answers)
    stride = held.side // answers.shape[-1]
    found = decode(centres, boxes, stride)
    precisions = average_precision(found, held.boxes, held.labels)
    overlap, overlaps = mean_intersection_over_union(full_masks(masks, held.side), held.masks, len(CLASSES))
    return DenseScore(sum(precisions) / len(precisions), overlap, tuple(precisions), tuple(overlaps))


def full_masks(scores: torch.Tensor, side: int) -> torch.Tensor:
    """Return masks (N, S, S) of mask scores (N, K + 1, h, w), enlarged bilinearly before the choice."""
    wide = torch.nn.functional.interpolate(scores, size=(side, side), mode="bilinear", align_corners=False)
    return wide.argmax(dim=1)


def dense_pictures(net: Trained, held: Streets, count: int, threshold: float = 0.3) -> list[list[torch.Tensor]]:
    """Return rows of pictures (3, S, S): the image with the boxes found, the predicted mask, the true mask."""
    answers = logits(net.model, held.images[:count])
    centres, boxes, masks = net.model.split(answers)
    found = decode(centres, boxes, held.side // answers.shape[-1])
    predicted = full_masks(masks, held.side)
    rows = []
    for index in range(count):
        kept = found.boxes[index][found.scores[index] >= threshold]
        rows.append([_with_boxes(held.images[index], kept), _coloured(predicted[index]), _coloured(held.masks[index])])
    return rows


MASK_COLOURS = ((0.15, 0.15, 0.15), (0.84, 0.37, 0.0), (0.95, 0.9, 0.25), (0.0, 0.45, 0.7), (0.0, 0.62, 0.45))
"""Of background and the four classes of `streets`, told apart without colour vision too."""


def _coloured(mask: torch.Tensor) -> torch.Tensor:
    return torch.tensor(MASK_COLOURS)[mask].permute(2, 0, 1)  # (3, S, S)


def _with_boxes(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    drawn, side = image.clone(), image.shape[-1]
    white = torch.ones(3, 1)
    for box in boxes.round().long().clamp(0, side - 1):
        left, top, right, bottom = box.tolist()
        drawn[:, top, left : right + 1] = drawn[:, bottom, left : right + 1] = white
        drawn[:, top : bottom + 1, left] = drawn[:, top : bottom + 1, right] = white
    return drawn


def train_dense_all(
    arena: Arena, names: Sequence[str], size: int, side: int, head: int, seed: int, store: ModelStore, device: str
) -> dict[str, Trained]:
    """Return dense networks by the name of their backbone, trained on `size` pictures of `side` pixels."""
    recipes = [replace(arena.recipe(name, seed), train_size=size, data_options={}, first_class=0) for name in names]
    return {recipe.name: train_dense(recipe, side, head, store, device) for recipe in recipes}
