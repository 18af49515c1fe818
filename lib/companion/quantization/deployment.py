"""The real thing: PyTorch's static post-training quantization, run by its integer kernels.

Eager mode, default settings of an engine ("fbgemm" for servers, "qnnpack" for phones), one calibration batch, modules
not fused, as in the official code of Ma et al. (2023). The module that quantizes is imported only when it is used.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

from companion.errors import CompanionError
from companion.quantization.networks import Sum
from companion.quantization.quantizers import quantized_layers

ENGINES = ("fbgemm", "qnnpack")


class IntegerModel(nn.Module):
    """A model that an engine computes in integers; takes float images on the CPU and gives float logits.

    It has no gradient. `codes()` gives the integers that the toolkit really made of the weights.
    """

    def __init__(self, converted: nn.Module, engine: str):
        super().__init__()
        self.converted, self.engine = converted, engine

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) float32 of images (B, C, H, W) float32 in [0, 1]."""
        with _engine(self.engine), torch.no_grad():
            return self.converted(images)

    def codes(self) -> dict[str, torch.Tensor]:
        """Return the int8 codes of every quantized layer by the layer's name in the float model."""
        layers = {name: part for name, part in self.converted.named_modules() if hasattr(part, "_packed_params")}
        return {name.removeprefix("module."): part.weight().int_repr() for name, part in layers.items() if _own(name)}


def deploy(model: nn.Module, engine: str, calibration: torch.Tensor) -> IntegerModel:
    """Return a model after PyTorch's static post-training quantization for `engine`; the model itself is not changed.

    calibration: (N, C, H, W) float32 images that set the ranges of activations, in one batch. Raises `CompanionError`
    for an engine that this PyTorch does not have, no calibration image, and a model with nothing to quantize or with
    weights that are not finite.
    """
    have = torch.backends.quantized.supported_engines
    if engine not in ENGINES or engine not in have:
        raise CompanionError(
            f"quantized engine {engine!r}: expected one of {', '.join(ENGINES)} that this PyTorch has, which are "
            f"{', '.join(have)}."
        )
    if calibration.ndim != 4 or not len(calibration):
        raise CompanionError(
            f"calibration images have shape {tuple(calibration.shape)}: expected (N, C, H, W) with N >= 1."
        )
    for name, layer in quantized_layers(model).items():
        if not torch.isfinite(layer.weight).all():
            raise CompanionError(f"the weights of {name} are not finite: no scale fits them. Look at its training.")
    from torch.ao.quantization import QuantWrapper, convert, get_default_qconfig, prepare

    copy = deepcopy(model).to("cpu").requires_grad_(False)
    wrapped = QuantWrapper(_with_quantized_sums(copy)).eval()
    with _engine(engine), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the module's coming move to another package
        wrapped.qconfig = get_default_qconfig(engine)
        prepared = prepare(wrapped)
        prepared(calibration.cpu())
        return IntegerModel(convert(prepared), engine)


class _QuantizedSum(nn.Module):
    """A `Sum` that the toolkit knows how to observe and to convert."""

    def __init__(self):
        from torch.ao.nn.quantized import FloatFunctional

        super().__init__()
        self.functional = FloatFunctional()

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.functional.add(left, right)


def _with_quantized_sums(model: nn.Module) -> nn.Module:
    for name in [name for name, part in model.named_modules() if isinstance(part, Sum)]:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, _QuantizedSum())
    return model


def _own(name: str) -> bool:
    return not name.endswith("_packed_params")  # a dense layer keeps its weights in a child of that name


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Select an engine meanwhile, and let its kernels resize, which PyTorch refuses where it must be deterministic.

    What is resized is overwritten before it is read; the tests hold results of two runs bit by bit against each other.
    """
    before, strict = torch.backends.quantized.engine, torch.get_deterministic_debug_mode()
    torch.backends.quantized.engine = name
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
        torch.set_deterministic_debug_mode(strict)
