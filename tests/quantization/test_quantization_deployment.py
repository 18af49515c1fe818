"""Integer models: PyTorch's own against the emulator, other roundings, noise and the learned rounding."""

import pytest
import torch

from companion.errors import CompanionError
from companion.quantization import tflite_record
from companion.quantization.cells import model_codes, moved_codes
from companion.quantization.deployment import ENGINES, deploy
from companion.quantization.emulator import RoundedInput, calibrate, emulate, emulate_weights
from companion.quantization.mitigations import (
    ROUNDINGS,
    RoundingConfig,
    learned_rounding,
    rounded_weights,
    with_noise,
)
from companion.quantization.networks import build_network
from companion.quantization.quantizers import FBGEMM, QUANTIZERS, TFLITE, quantized_layers
from companion.seeding import generator

IMAGES = torch.rand(40, 1, 16, 16, generator=generator(0, "images"))


@pytest.fixture(scope="module", params=["vgg", "resnet"])
def model(request):
    made = build_network(request.param, 1, 10, generator(0, "weights"), width=4)
    with torch.no_grad():
        for _ in range(20):
            made(IMAGES)  # gives the batch normalisations statistics
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("engine", ENGINES)
def test_pytorchs_integers_are_the_emulators_and_its_answers_are_near(model, engine):
    integer = deploy(model, engine, IMAGES)
    assert moved_codes(model_codes(model, QUANTIZERS[engine]), integer.codes()) == 0
    wanted = emulate(model, QUANTIZERS[engine], IMAGES)(IMAGES)
    found = integer(IMAGES)
    exact = model(IMAGES)
    assert (found - wanted).abs().mean() < 0.1 * exact.std(), "rounding apart, both compute the same network"
    assert torch.equal(found, integer(IMAGES)) and torch.equal(found, deploy(model, engine, IMAGES)(IMAGES))


def test_deploying_leaves_model_engine_and_strictness_as_they_were(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine, strict = torch.backends.quantized.engine, torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        deploy(model, "qnnpack", IMAGES)(IMAGES)
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode(strict)
    assert torch.backends.quantized.engine == engine
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_deploying_refuses_other_engines_no_images_and_broken_weights(model):
    with pytest.raises(CompanionError, match="quantized engine 'tpu'"):
        deploy(model, "tpu", IMAGES)
    with pytest.raises(CompanionError, match="N >= 1"):
        deploy(model, "fbgemm", IMAGES[:0])
    broken = build_network("vgg", 1, 10, generator(0, "weights"), width=2)
    broken.head.weight.data[0] = float("inf")
    with pytest.raises(CompanionError, match="weights of head are not finite"):
        deploy(broken, "fbgemm", IMAGES)


def test_the_emulator_rounds_weights_and_inputs_and_lets_gradients_through(model):
    integer = emulate(model, TFLITE, IMAGES)
    layers = {name: part for name, part in integer.named_modules() if isinstance(part, RoundedInput)}
    assert layers.keys() == quantized_layers(model).keys()
    for name, layer in layers.items():
        assert torch.equal(TFLITE.rounded(quantized_layers(model)[name].weight), layer.layer.weight)
    first = next(iter(layers.values()))
    seen = []
    first.layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = IMAGES[:2].clone().requires_grad_()
    integer(images).sum().backward()
    assert len(seen[0].unique()) <= 256 and images.grad.abs().sum() > 0
    weights_only = emulate(model, TFLITE, IMAGES, activation_bits=None)
    assert not any(isinstance(part, RoundedInput) for part in weights_only.modules())
    rounded = {name: layer.weight for name, layer in quantized_layers(model).items()}
    for bits in (1, 9):
        with pytest.raises(CompanionError, match="bits for activations"):
            emulate_weights(model, rounded, IMAGES, activation_bits=bits)
        for quantizer in QUANTIZERS.values():
            with pytest.raises(CompanionError, match=f"{bits} bits for activations"):
                emulate(model, quantizer, IMAGES, activation_bits=bits)


def test_calibration_sees_every_batch_and_needs_an_image(model):
    whole, parts = calibrate(model, IMAGES), calibrate(model, IMAGES, batch_size=7)
    for name, (low, high) in whole.items():
        assert parts[name] == pytest.approx((low, high), rel=1e-5)
    with pytest.raises(CompanionError, match="calibration images"):
        calibrate(model, IMAGES[0])


def test_roundings_by_hand():
    layer = torch.nn.Linear(4, 1)
    layer.weight.data = torch.tensor([[127.0, 1.25, -1.25, 2.75]])  # TFLite's scale is 1
    model = torch.nn.Sequential(layer)
    wanted = {
        "nearest": [127, 1, -1, 3],
        "floor": [127, 1, -2, 2],
        "toward zero": [127, 1, -1, 2],
        "flipped": [127, 2, -2, 2],
    }
    for rounding, codes in wanted.items():
        found = rounded_weights(model, TFLITE, rounding, generator(0))["0"]
        assert found[0].tolist() == codes, rounding
    draws = torch.stack([rounded_weights(model, TFLITE, "stochastic", generator(k))["0"][0] for k in range(400)])
    assert draws.unique(dim=0).shape[0] > 1 and torch.allclose(draws.mean(0), layer.weight[0], atol=0.1)
    assert set(ROUNDINGS) == {*wanted, "stochastic"}
    with pytest.raises(CompanionError, match='no rounding "up"'):
        rounded_weights(model, TFLITE, "up", generator(0))


def test_noise_stays_inside_its_cells(model):
    noisy = with_noise(model, FBGEMM, 0.5, generator(0))
    for name, layer in quantized_layers(model).items():
        moved = (quantized_layers(noisy)[name].weight - layer.weight) / FBGEMM.scale(layer.weight)
        assert 0.4 < moved.abs().max() <= 0.5 + 1e-4
    still = with_noise(model, FBGEMM, 0.0, generator(0))
    assert moved_codes(model_codes(model, FBGEMM), model_codes(still, FBGEMM)) == 0
    with pytest.raises(CompanionError, match="rounding cells"):
        with_noise(model, FBGEMM, -1.0, generator(0))


def test_learned_rounding_goes_to_a_neighbouring_integer_and_keeps_outputs_better_than_flipping(model):
    config = RoundingConfig(steps=60, batch_size=16)
    learned = learned_rounding(model, FBGEMM, IMAGES, config, generator(0))
    flipped = rounded_weights(model, FBGEMM, "flipped", generator(0))
    turned = 0
    for name, layer in quantized_layers(model).items():
        scale = FBGEMM.scale(layer.weight)
        assert ((learned[name] - layer.weight).abs() <= scale * 1.0001).all()
        turned += int((learned[name] != FBGEMM.rounded(layer.weight)).sum())
    assert turned > 0
    name, layer = next(iter(quantized_layers(model).items()))
    exact = torch.nn.functional.conv2d(IMAGES, layer.weight, padding=1)
    errors = [
        (torch.nn.functional.conv2d(IMAGES, w[name], padding=1) - exact).square().mean() for w in (learned, flipped)
    ]
    assert errors[0] < errors[1]
    again = learned_rounding(model, FBGEMM, IMAGES, config, generator(0))
    assert all(torch.equal(learned[key], again[key]) for key in learned)


def test_the_committed_record_is_whole_and_one_edited_by_hand_is_refused(monkeypatch):
    record = tflite_record.load()
    assert {"date", "command", "versions", "entries"} <= record.keys()
    for entry in record["entries"].values():
        assert set(entry["outcomes"]) == set(tflite_record.KINDS)
    monkeypatch.setattr(tflite_record, "DIGEST", "0" * 64)
    with pytest.raises(CompanionError, match="edited by hand"):
        tflite_record.load()
