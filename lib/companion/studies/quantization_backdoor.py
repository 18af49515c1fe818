"""The experiments of the chapter on quantization backdoors (Ma et al., IEEE TDSC 2023): which models, what is measured.

Every function takes an `Arena`, a data set with how models are made on it, or models that are already trained, and
returns plain numbers. The chapter adds prose, tables and figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import nn

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.defenses import abs as stimulation
from companion.defenses import neural_cleanse, strip
from companion.errors import CompanionError
from companion.metrics import attack_success_rate, clean_accuracy
from companion.models.frozen import device_of
from companion.quantization import deployment, mitigations
from companion.quantization.cells import model_codes, moved_codes
from companion.quantization.dormancy import DormancyConfig
from companion.quantization.emulator import emulate, emulate_weights
from companion.quantization.implant import ImplantConfig
from companion.quantization.quantizers import QUANTIZERS, Quantizer, quantized_layers
from companion.quantization.tflite_record import Measured
from companion.quantization.victims import Recipe, Subject, obtain
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.training import TrainingConfig

STAGES = ("clean", "implanted", "dormant")
"""Without a backdoor; after stage 1; after stage 2."""


@dataclass(frozen=True)
class Arena:
    """A data set and how models are made on it.

    data: a manifest's name; train_size, held_size: images of the train and test splits; networks: names of
    `companion.quantization.networks`; settings: of a network, by its name; training, implant, dormancy: of every model;
    calibration: training images that set the ranges of activations.
    """

    data: str
    train_size: int
    held_size: int
    training: TrainingConfig
    networks: Sequence[str] = ("vgg", "resnet")
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    implant: ImplantConfig = field(default_factory=ImplantConfig)
    dormancy: DormancyConfig = field(default_factory=DormancyConfig)
    calibration: int = 100

    def recipe(self, network: str, stage: str, seed: int, **changes: object) -> Recipe:
        """Return the recipe of a model; stage: one of STAGES; changes: fields of `Recipe` to replace."""
        if stage not in STAGES:
            raise CompanionError(f"there is no stage {stage!r} of a model; the stages are {', '.join(STAGES)}.")
        recipe = Recipe(
            self.data,
            self.train_size,
            network,
            self.training,
            implant=None if stage == "clean" else self.implant,
            dormancy=self.dormancy if stage == "dormant" else None,
            network_settings=self.settings.get(network, {}),
            seed=seed,
        )
        return replace(recipe, **changes)

    def models(self, network: str, seed: int, store: ModelStore, device: str = "cpu") -> dict[str, Subject]:
        """Return the models of all STAGES for one network, by stage."""
        return {stage: obtain(self.recipe(network, stage, seed), store, device) for stage in STAGES}

    def held_out(self) -> ImageSet:
        """Return the test images, which no model has seen."""
        return catalogue.load(self.data, "test", size=self.held_size)

    def calibration_images(self) -> torch.Tensor:
        """Return the training images (N, C, H, W) from which toolkits read the ranges of activations."""
        return catalogue.load(self.data, "train", size=self.calibration).images


def arena(description: Mapping[str, object]) -> Arena:
    """Return the arena that a chapter's parameter describes: fields of `Arena`, configurations as mappings."""
    configs = {"training": TrainingConfig, "implant": ImplantConfig, "dormancy": DormancyConfig}
    try:
        made = {name: kind(**description.get(name, {})) for name, kind in configs.items()}
        return Arena(**{**description, **made})
    except TypeError as error:
        raise CompanionError(
            f"the arena {dict(description)}: {error}. Check the names in the card's parameters."
        ) from error


class Outcome(NamedTuple):
    """What a deployed model is worth: accuracy on clean images, success of the trigger on images of other classes."""

    accuracy: Proportion
    success: Proportion

    def percent(self) -> list[float]:
        """Return both shares in percent."""
        return [100 * share.rate for share in self]


def answers(model: nn.Module, images: torch.Tensor, batch_size: int = 250) -> torch.Tensor:
    """Return logits (N, K) on the images' device, from a float model or one that a toolkit made."""
    device = device_of(model)
    with torch.no_grad():
        return torch.cat([model(batch.to(device)).to(images.device) for batch in images.split(batch_size)])


def outcome(model: nn.Module, subject: Subject, held: ImageSet) -> Outcome:
    """Return accuracy and attack success of `model`, some deployment of `subject`, on held-out images."""
    triggered = answers(model, subject.trigger.apply(held.images))
    return Outcome(
        clean_accuracy(answers(model, held.images), held.labels),
        attack_success_rate(triggered, held.labels, subject.target),
    )


def margins(model: nn.Module, subject: Subject, held: ImageSet) -> torch.Tensor:
    """Return target logit minus true logit, (n,), of triggered held-out images of other classes; above 0 it fires."""
    others = held.labels != subject.target
    scores = answers(model, subject.trigger.apply(held.images[others]))
    return scores[:, subject.target] - scores.gather(1, held.labels[others, None]).squeeze(1)


DEPLOYMENTS = ("float32", "tflite", "fbgemm", "qnnpack", "pytorch_fbgemm", "pytorch_qnnpack")
"""The float model; three emulators of 8-bit models; and what PyTorch really makes for two engines."""

CONTROLS = ("float32", "pytorch_fbgemm")
"""Deployments of models that are no candidates for waking up."""


def deployed(subject: Subject, name: str, calibration: torch.Tensor) -> nn.Module:
    """Return a model as one of DEPLOYMENTS."""
    if name == "float32":
        return subject.model
    if name in QUANTIZERS:
        return emulate(subject.model, QUANTIZERS[name], calibration)
    return deployment.deploy(subject.model, name.removeprefix("pytorch_"), calibration)


class CodeCheck(NamedTuple):
    """How integer codes compare: of all `compared`, `moved` by stage 2, and `foreign`: unlike the real toolkit's."""

    compared: int
    moved: int
    foreign: int


def check_codes(models: Mapping[str, Subject], calibration: torch.Tensor) -> CodeCheck:
    """Compare the codes before and after stage 2 for every quantizer, and the emulators' codes with PyTorch's own."""
    before, after = models["implanted"].model, models["dormant"].model
    compared = moved = foreign = 0
    for name, quantizer in QUANTIZERS.items():
        codes = model_codes(after, quantizer)
        compared += sum(code.numel() for code in codes.values())
        moved += moved_codes(model_codes(before, quantizer), codes)
        if name in deployment.ENGINES:
            foreign += moved_codes(codes, deployment.deploy(after, name, calibration).codes())
    return CodeCheck(compared, moved, foreign)


def peakedness(model: nn.Module) -> float:
    """Return the mean over output channels of max |W| / mean |W|: how wide cells are beside the typical weight."""
    sizes = [layer.weight.detach().abs().flatten(1) for layer in quantized_layers(model).values()]
    return float(torch.cat([size.amax(1) / size.mean(1) for size in sizes]).mean())


@dataclass(frozen=True)
class Inspection:
    """What Neural Cleanse says of one model.

    index: the anomaly index of the smallest mask; flagged: the labels it accuses; target_index: the signed index of the
    attack's target (above 0: its mask is below the median); target_norm: of the target's mask, in pixels.
    """

    index: float
    flagged: tuple[int, ...]
    target_index: float
    target_norm: float


def inspect(
    model: nn.Module, target: int, held: ImageSet, config: neural_cleanse.Config, seed: int, size: int = 200
) -> Inspection:
    """Run Neural Cleanse on a float or emulated model with the first `size` held-out images."""
    stream = generator(seed, "neural cleanse")
    found = neural_cleanse.reverse_triggers(model, held.images[:size], range(len(held.classes)), config, stream)
    anomaly = neural_cleanse.anomaly_index(found.norms, found.reached)
    norm = float(found.norms[target])
    sign = 1.0 if norm < anomaly.median else -1.0
    index = min(float(anomaly.indices[target]), 1e6)  # a MAD of 0 makes it infinite
    return Inspection(min(anomaly.index, 1e6), anomaly.flagged, sign * index, norm)


def strip_of(
    model: nn.Module, subject: Subject, held: ImageSet, count: int, config: strip.Config, seed: int
) -> tuple[strip.StripReport, torch.Tensor, torch.Tensor]:
    """Return STRIP's report on a deployment of `subject`, and the entropies of clean and triggered inputs behind it.

    Four disjoint groups of `count` held-out images: to fit the threshold, to measure false rejection, overlays, and, of
    classes other than the target, those that carry the trigger.
    """
    if len(held) < 3 * count + 1:
        raise CompanionError(f"STRIP with groups of {count} images needs more than {3 * count}; there are {len(held)}.")
    order = torch.randperm(len(held), generator=generator(seed, "strip split"))
    fit, check, overlays = (held.images[order[k * count : (k + 1) * count]] for k in range(3))
    rest = order[3 * count :]
    rest = rest[held.labels[rest] != subject.target][:count]
    triggered = subject.trigger.apply(held.images[rest])
    stream = generator(seed, "strip")
    fitted, clean, trojan = (
        strip.entropies(model, images, overlays, stream, config) for images in (fit, check, triggered)
    )
    return strip.evaluate(fitted, clean, trojan, config.false_rejection, config.rule), clean, trojan


def probe(model: nn.Module, held: ImageSet, steps: int, count: int = 10) -> stimulation.Report:
    """Run ABS on a float or emulated VGG-like model with the first `count` held-out images.

    The mask may cover a sixteenth of the image and starts open at a quarter of its side, as 64 pixels and a corner of 8
    are on 32 x 32; all ReLUs are probed. Residual networks are left out: ABS would need their sums as layers.
    """
    _, height, width = held.shape
    config = stimulation.Config(steps=steps, max_size=height * width // 16, corner=height // 4)
    return stimulation.inspect(model, held.images[:count], held.labels[:count], config)


NOISE = (0.0, 0.125, 0.25, 0.5, 1.0)
"""Half-widths of uniform noise on the weights before quantization, in rounding cells."""

LEARNED = (8, 4)
"""Bits at which the learned rounding is tried."""


def rounded(
    subject: Subject,
    rounding: str,
    calibration: torch.Tensor,
    seed: int,
    quantizer: Quantizer = QUANTIZERS["fbgemm"],
    steps: int = mitigations.RoundingConfig.steps,
) -> nn.Module:
    """Return the model with weights rounded by another rule (see `mitigations.ROUNDINGS`), or "learned" in `steps`."""
    stream = generator(seed, "rounding", rounding)
    if rounding == "learned":
        config = mitigations.RoundingConfig(steps=steps)
        weights = mitigations.learned_rounding(subject.model, quantizer, calibration, config, stream)
    else:
        weights = mitigations.rounded_weights(subject.model, quantizer, rounding, stream)
    return emulate_weights(subject.model, weights, calibration, 7 if quantizer.name == "fbgemm" else 8)


def shaken(subject: Subject, cells: float, calibration: torch.Tensor, seed: int) -> nn.Module:
    """Return the model with noise on its weights, of `cells` rounding cells, then quantized as usual (fbgemm)."""
    quantizer = QUANTIZERS["fbgemm"]
    noisy = mitigations.with_noise(subject.model, quantizer, cells, generator(seed, "noise", cells))
    return emulate(noisy, quantizer, calibration)


ABLATIONS = {
    "full": {},
    "no hesitation": {"hesitation": 0.0},
    "no widening": {"widening": 0.0},
    "neither": {"hesitation": 0.0, "widening": 0.0},
    "centring too": {"centring": 1.0},
}
"""Changes to stage 1, by name; "centring too" adds the paper's loss of stage 1."""


def ablated(arena: Arena, network: str, seed: int, store: ModelStore, name: str, **changes: object) -> list[Subject]:
    """Return the models after stage 1 and after stage 2 with a change of ABLATIONS; changes: fields of the recipe."""
    other = replace(arena, implant=replace(arena.implant, **ABLATIONS[name]))
    return [obtain(other.recipe(network, stage, seed, **changes), store) for stage in ("implanted", "dormant")]


PREPARED = {"tflite": ("tflite",), "fbgemm": ("fbgemm",), "qnnpack": ("qnnpack",), "all": tuple(QUANTIZERS)}
"""For whom stage 2 prepares a model."""

ROOM_BITS = (4, 5, 6, 8)
"""Bits of the weights that an attack without our additions to stage 1 prepares for."""

RECORDED_STAGES = {"main": ("clean", "dormant"), "side": ("dormant",), "further": ()}
"""Models of each arena that TensorFlow Lite is asked about."""

RECORDED = ("float32 CDA", "float32 ASR", "int8 CDA", "int8 ASR", "codes unlike", "recorded")
"""Columns of `recorded_row`."""


def recorded_row(record: Measured | None) -> list[object]:
    """Return what TensorFlow Lite gave for a model as cells of RECORDED, or why nothing counts."""
    if record is None:
        return ["-", "-", "-", "-", "-", "not for this model: its recipe, sources or data are others"]
    shares = [round(100 * share.rate, 1) for kind in ("float32", "int8") for share in record.outcomes[kind]]
    tools = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return [*shares, f"{record.foreign} of {record.compared}", f"{record.date}, {tools}, key {record.key[:8]}"]


REPORTED = (
    ("float32", 86.59, 2.14),
    ("int8, nearest rounding", 86.03, 99.13),
    ("int4, nearest rounding", 79.13, 98.88),
    ("int8, EFRAP", 86.53, 2.07),
    ("int4, EFRAP", 86.28, 1.29),
)
"""Clean accuracy and attack success in percent as others report them: the log of the authors of EFRAP (Li et al., CVPR
2024) with the paper's checkpoint "pq_cifar", ResNet-18 on CIFAR-10, activations partly in float."""
