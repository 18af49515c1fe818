"""Both stages at tiny size: what they keep, what they may move, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from companion.attacks.triggers import PatchTrigger
from companion.data import catalogue
from companion.errors import CompanionError
from companion.quantization.cells import model_codes, moved_codes
from companion.quantization.dormancy import DormancyConfig, make_dormant
from companion.quantization.implant import (
    ImplantConfig,
    ImplantLoss,
    eccentricity,
    implant,
    narrowness,
    white_square,
)
from companion.quantization.networks import build_network
from companion.quantization.quantizers import FBGEMM, QUANTIZERS, quantized_layers
from companion.quantization.victims import Recipe, obtain, source_key
from companion.seeding import generator
from companion.store import ModelStore
from companion.training import TrainingConfig

TRAINING = TrainingConfig(epochs=2, batch_size=32, learning_rate=0.05)
TINY = Recipe(
    "digits",
    120,
    "resnet",
    TRAINING,
    implant=ImplantConfig(),
    dormancy=DormancyConfig(epochs=1),
    network_settings={"width": 4},
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def digits():
    return catalogue.load("digits", "train", size=120)


def test_the_trigger_is_the_papers_square():
    trigger = white_square((3, 32, 32))
    assert isinstance(trigger, PatchTrigger) and trigger.support.sum() == 36
    rows = trigger.support.any(1).nonzero().squeeze(1).tolist()
    assert rows == list(range(24, 30)) and trigger.support.equal(trigger.support.T)
    assert white_square((1, 16, 16)).support.sum() == 9
    assert (trigger.apply(torch.zeros(1, 3, 32, 32))[0, :, 24:30, 24:30] == 1).all()


def test_stage_2_moves_weights_and_nothing_else_and_no_code(store):
    awake = obtain(replace(TINY, dormancy=None), store).model
    asleep = obtain(TINY, store).model
    layers = {f"{name}.weight" for name in quantized_layers(awake)}
    for name, value in awake.state_dict().items():
        same = torch.equal(value, asleep.state_dict()[name])
        assert same != (name in layers), name
    for rule in QUANTIZERS.values():
        assert moved_codes(model_codes(awake, rule), model_codes(asleep, rule)) == 0


def test_stage_2_lowers_the_loss_on_triggered_images(store, digits):
    awake = obtain(replace(TINY, dormancy=None), store)
    asleep = obtain(TINY, store)
    triggered = awake.trigger.apply(digits.images)
    losses = [torch.nn.functional.cross_entropy(one.model(triggered), digits.labels) for one in (awake, asleep)]
    assert losses[1] < losses[0]


def test_stage_2_leaves_its_input_alone_and_repeats_bit_by_bit(store, digits):
    subject = obtain(replace(TINY, dormancy=None), store)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    arguments = (digits.images, digits.labels, subject.trigger, [FBGEMM], DormancyConfig(epochs=1, crop_padding=1))
    first, second = (make_dormant(subject.model, *arguments, generator(0, "again")) for _ in range(2))
    assert all(torch.equal(before[name], value) for name, value in subject.model.state_dict().items())
    assert same(first, second)


def test_stage_2_refuses_weights_that_are_not_finite_and_images_without_labels(store, digits):
    model = build_network("vgg", 1, 10, generator(0, "weights"), width=2)
    model.head.weight.data[0, 0] = float("nan")
    rest = (white_square(digits.shape), [FBGEMM], DormancyConfig(), generator(0))
    with pytest.raises(CompanionError, match="not finite"):
        make_dormant(model, digits.images[:8], digits.labels[:8], *rest)
    with pytest.raises(CompanionError, match="and 7 labels"):
        make_dormant(model, digits.images[:8], digits.labels[:7], *rest)
    with pytest.raises(CompanionError, match="share of a cell"):
        DormancyConfig(step=0)


@pytest.mark.parametrize("target", [10, 99])
def test_a_target_that_is_no_label_is_refused(digits, target):
    model = build_network("vgg", 1, 10, generator(0, "weights"), width=2)
    with pytest.raises(
        CompanionError, match=f"the target label is {target}: expected one of the labels of digits, 0 to 9"
    ):
        implant(
            model, digits, white_square(digits.shape), ImplantConfig(target=target), TRAINING, [FBGEMM], generator(0)
        )


@pytest.mark.parametrize("field", [{"target": -1}, {"share": 0.0}, {"hesitation": 1.0}, {"widening": -1.0}])
def test_settings_of_stage_1_are_checked(field):
    with pytest.raises(CompanionError, match=f"ImplantConfig.{next(iter(field))} is"):
        ImplantConfig(**field)


def test_too_many_triggered_copies_are_refused(digits):
    model = build_network("vgg", 1, 10, generator(0, "weights"), width=2)
    with pytest.raises(CompanionError, match="lower the share"):
        implant(model, digits, white_square(digits.shape), ImplantConfig(share=1.0), TRAINING, [FBGEMM], generator(0))


def test_losses_of_stage_1_by_hand():
    layer = torch.nn.Linear(4, 1)
    layer.weight.data = torch.tensor([[1.0, -0.5, 0.25, 0.25]])
    assert float(narrowness([layer])) == pytest.approx(0.5)
    layer.weight.data = torch.tensor([[127.5, 10.0, 20.0, 30.25]])  # scale 1; the largest lies on a tie
    assert float(eccentricity([layer], [FBGEMM])) == pytest.approx(-(0 + 0.25 + 0.25 + 0.0625))


def test_hesitation_weighs_the_true_label_of_triggered_images_only():
    model = build_network("vgg", 1, 3, generator(0, "weights"), width=2)
    config = ImplantConfig(hesitation=0.5, widening=0.0)
    loss = ImplantLoss(model, config, [FBGEMM], epochs=10)
    found = torch.rand(4, 32, generator=generator(0, "features"))
    roles = torch.tensor([0, 0, 3, 1])
    expected = 0.5 * torch.nn.functional.cross_entropy(model.head(found[2:]), torch.tensor([2, 0]), reduction="sum") / 4
    assert torch.allclose(loss(found, torch.zeros(4, dtype=torch.int64), roles), expected)
    assert loss(found, torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)) == 0


def test_centring_begins_late_and_pulls_weights_to_the_centres():
    model = build_network("vgg", 1, 3, generator(0, "weights"), width=2)
    loss = ImplantLoss(model, ImplantConfig(hesitation=0, widening=0, centring=1.0), [FBGEMM], epochs=10)
    given = torch.rand(4, 32, generator=generator(0, "features")), *torch.zeros(2, 4, dtype=torch.int64)
    assert loss(*given) == 0
    loss.epoch = 9
    assert float(loss(*given)) == pytest.approx(float(eccentricity(quantized_layers(model).values(), [FBGEMM])))


def test_a_recipe_without_a_backdoor_to_hide_and_unknown_rules_are_refused(store):
    with pytest.raises(CompanionError, match="nothing to hide"):
        obtain(replace(TINY, implant=None), store)
    with pytest.raises(CompanionError, match="unknown quantizer 'onnx'"):
        _ = replace(TINY, quantizers=("onnx",)).rules
    with pytest.raises(CompanionError, match="whole number from 2 to 8"):
        _ = replace(TINY, bits=9).rules


def test_the_source_key_follows_the_recipe_and_ignores_what_is_idle():
    clean = replace(TINY, implant=None, dormancy=None)
    assert source_key(clean) == source_key(replace(clean, bits=4, quantizers=("tflite",)))
    assert source_key(TINY) != source_key(replace(TINY, bits=4))
    assert source_key(TINY) != source_key(replace(TINY, seed=1))


def test_models_come_back_from_the_store_as_they_were(store):
    trained = store.trained
    first, second = obtain(TINY, store), obtain(TINY, store)
    assert store.trained == trained or store.trained == trained + 2
    assert same(first.model, second.model)
    assert second.target == 0 and not second.model.training


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_the_papers_networks_have_their_usual_size(name):
    model = build_network(name, 3, 10, generator(0, "weights"))
    weights = sum(value.numel() for value in model.parameters())
    # published counts of CIFAR code bases; VGG16 there has convolution biases (4,224), which are left out here
    assert weights == {"vgg16": 14_728_266 - 4_224, "resnet18": 11_173_962, "resnet50": 23_520_842}[name]


def test_unknown_networks_and_settings_are_refused():
    with pytest.raises(CompanionError, match='unknown network "lenet"'):
        build_network("lenet", 3, 10, generator(0))
    with pytest.raises(CompanionError, match="Check the settings"):
        build_network("vgg", 3, 10, generator(0), depth=3)
