"""The emulators give the integers that PyTorch gives, bit by bit, and refuse what cannot be quantized."""

import pytest
import torch
from torch import nn

from companion.errors import CompanionError
from companion.quantization.quantizers import (
    FBGEMM,
    QNNPACK,
    QUANTIZERS,
    TFLITE,
    Quantizer,
    affine,
    quantized_layers,
)
from companion.seeding import generator


def weights(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "weights"))


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (5, 40)])
@pytest.mark.parametrize("seed", range(5))
def test_codes_and_scales_are_those_of_pytorchs_observers(shape, seed):
    weight = weights(*shape, seed=seed) * 0.07
    for quantizer, per_channel in ((FBGEMM, True), (QNNPACK, False)):
        if per_channel:
            from torch.ao.quantization import default_per_channel_weight_observer as observe
        else:
            from torch.ao.quantization import default_weight_observer as observe
        observer = observe()
        observer(weight)
        scale, zero = observer.calculate_qparams()
        assert torch.equal(quantizer.scale(weight).flatten(), scale.flatten()) and not zero.any()
        if per_channel:
            oracle = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        else:
            oracle = torch.quantize_per_tensor(weight, float(scale), 0, torch.qint8)
        assert torch.equal(quantizer.codes(weight), oracle.int_repr())


def test_tensorflow_lite_divides_by_127_and_has_no_code_minus_128():
    weight = torch.tensor([[-2.0, 1.0], [0.5, 0.25]])
    assert TFLITE.codes(weight).tolist() == [[-127, 64], [32, 16]]  # 63.5, 31.75, 15.875: ties go to even
    assert FBGEMM.codes(weight)[:, 1].tolist() == [64, 64] and FBGEMM.range == (-128, 127)
    convolution = torch.stack([torch.full((1, 3, 3), 0.01), torch.full((1, 3, 3), 1.0)])
    assert TFLITE.scale(convolution).shape == (2, 1, 1, 1) and TFLITE.scale(weight).shape == (1, 1)
    assert QNNPACK.scale(convolution).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("bits", range(2, 9))
def test_rounding_errs_by_half_a_step_and_uses_the_whole_range(bits):
    weight = weights(6, 50)
    for rule in QUANTIZERS.values():
        rule = rule.with_bits(bits)
        low, high = rule.range
        codes = rule.codes(weight)
        assert codes.min() >= low and codes.max() <= high
        assert max(-int(codes.min()), int(codes.max())) >= high
        error = ((rule.rounded(weight) - weight).abs() / rule.scale(weight)).max()
        assert error <= 0.5 + 1e-4, "the largest positive weight of PyTorch's rule lies exactly between two codes"


@pytest.mark.parametrize("bits", [1, 9, 0, 4.0, True])
def test_bits_outside_two_to_eight_are_refused(bits):
    with pytest.raises(CompanionError, match="whole number from 2 to 8"):
        Quantizer("mine", bits=bits)
    with pytest.raises(CompanionError, match="bits for activations"):
        affine(0.0, 1.0, bits)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    weight = weights(4, 3, 3, 3)
    weight[1, 0, 0, 0] = value
    with pytest.raises(CompanionError, match="1 of 108 weights to quantize are not finite"):
        FBGEMM.codes(weight)


def test_zeros_have_a_scale_and_odd_shapes_do_not():
    assert not FBGEMM.codes(torch.zeros(2, 3)).any()
    with pytest.raises(CompanionError, match="expected those of a convolution"):
        FBGEMM.scale(torch.zeros(3))


def test_affine_ranges_hold_zero_exactly():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0)):
        scale, zero = affine(low, high)
        assert 0 <= zero <= 255 and scale == pytest.approx((max(high, 0) - min(low, 0)) / 255)
    with pytest.raises(CompanionError, match="expected finite numbers in order"):
        affine(1.0, 0.0)


def test_a_model_with_nothing_to_quantize_is_refused():
    with pytest.raises(CompanionError, match="nothing to quantize"):
        quantized_layers(nn.Sequential(nn.ReLU()))
