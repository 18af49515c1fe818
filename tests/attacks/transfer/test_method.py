"""Oracles of the loop: FGSM, I-FGSM and MI by hand on a linear model, parts that reduce to nothing, and errors."""

import pytest
import torch
from torch import nn

from companion.attacks.transfer.blocks import BlockShuffle
from companion.attacks.transfer.ensembles import OneOfMany, VarianceReduced
from companion.attacks.transfer.features import (
    FeatureImportance,
    IntermediateLevel,
    Output,
    find_layer,
    layer_output,
)
from companion.attacks.transfer.gradients import (
    Enhanced,
    LookAhead,
    PenalisedNorm,
    Relevance,
    ReversePerturbation,
    VarianceTuned,
)
from companion.attacks.transfer.losses import PoincareTriplet
from companion.attacks.transfer.method import Method, attack, gaussian_kernel
from companion.attacks.transfer.model_level import Ghost, LinearBackward, SkipGradient
from companion.attacks.transfer.rules import DecayIndicator, Momentum, PatchWise
from companion.attacks.transfer.state import Budget, Scene, State, normalised, project
from companion.attacks.transfer.transforms import Admix, ResizePad, Scales, Spectrum
from companion.errors import CompanionError

from .examples import BUDGET, Linear, images, network

WEIGHT = [1.0, -2.0, 0.5]
PIXELS = torch.tensor([[0.5, 0.5, 0.98], [0.02, 0.3, 0.4]]).view(2, 1, 1, 3)
LABELS = torch.tensor([1, 0])
UP = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]]).view(2, 1, 1, 3)  # the sign of J's gradient


def run(method, model=None, budget=BUDGET, **more):
    pixels, labels = images()
    return attack(method, model or network(), pixels, labels, budget, 3, **more)


def test_fgsm_by_hand():
    found = attack(Method(rule=Momentum(0.0), single_step=True), Linear(WEIGHT), PIXELS, LABELS, Budget(0.1, 7), 0)
    assert torch.allclose(found, (PIXELS + 0.1 * UP).clamp(0, 1))


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_iterative_attacks_by_hand(decay):
    model, budget = Linear(WEIGHT), Budget(0.1, 3, step=0.06)
    found = attack(Method(rule=Momentum(decay)), model, PIXELS, LABELS, budget, 0)
    by_hand = PIXELS
    for _ in range(3):  # the gradient's sign never turns on a linear model, so momentum changes nothing
        by_hand = torch.minimum(torch.maximum(by_hand + 0.06 * UP, PIXELS - 0.1), PIXELS + 0.1).clamp(0, 1)
    assert torch.allclose(found, by_hand)


def test_momentum_is_normalised_image_by_image():
    state = State(Scene(PIXELS, LABELS, None, BUDGET, None), PIXELS)
    gradient = torch.tensor([[1.0, -3.0, 2.0], [100.0, -300.0, 200.0]]).view(2, 1, 1, 3)
    rule = Momentum(0.5)
    rule(state, gradient)
    assert torch.allclose(state.memory["momentum"][0], state.memory["momentum"][1])
    assert torch.allclose(state.memory["momentum"].abs().flatten(1).mean(1), torch.ones(2))
    rule(state, -gradient)
    assert torch.allclose(state.memory["momentum"], -0.5 * normalised(gradient))
    assert torch.equal(rule(state, gradient * 0), -BUDGET.size * gradient.sign())


def test_a_zero_gradient_moves_nothing():
    class Flat(nn.Module):
        def forward(self, pixels):
            return pixels.flatten(1)[:, :2] * 0

    pixels, labels = images()
    found = attack(Method(), Flat(), pixels, labels % 2, BUDGET, 0)
    assert torch.equal(found, pixels)


REDUCED = {
    "DI with p = 0": Method(transform=ResizePad((1.3,), 0.0)),
    "SI with m = 1": Method(transform=Scales(1)),
    "Admix of nothing": Method(transform=Admix(0.0, 1, 1)),
    "NI without look-ahead": Method(LookAhead(0.0)),
    "VMI with neighbours at the point": Method(VarianceTuned(2, 0.0)),
    "EMI with one sample": Method(Enhanced(1, 0.0)),
    "GRA with neighbours at the point": Method(Relevance(2, 0.0)),
    "GRA's rule without shrinking": Method(rule=DecayIndicator(1.0, 1.0)),
    "PGN without neighbours or second gradient": Method(PenalisedNorm(1, 0.0, 0.0)),
    "RAP without room": Method(ReversePerturbation(2, 0.0)),
    "SVRE with one member and one inner step": Method(VarianceReduced(1, 1)),
    "LGV with one snapshot": Method(OneOfMany(1)),
    "SGM with gamma = 1": Method(change=SkipGradient(1.0)),
    "Ghost without spread": Method(change=Ghost(0.0)),
    "averaged losses of one network": Method(objective=Output(average="losses")),
    "averaged probabilities of one network": Method(objective=Output(average="probabilities")),
}


@pytest.mark.parametrize("name", REDUCED)
def test_parts_reduce_to_momentum(name):
    from .examples import ALL, resources

    extra = resources(ALL["admix"])[1] if "Admix" in name else {}
    assert torch.allclose(run(REDUCED[name], **extra), run(Method()), atol=1e-9)


def test_spectrum_and_blocks_reduce_to_the_image():
    pixels, _ = images()
    quiet = Scene(pixels, torch.zeros(5), None, Budget(1e-9), draws(pixels))
    assert torch.allclose(Spectrum(2, 0.0)(pixels, quiet.draws, quiet)[:, 0], pixels, atol=1e-7)
    shuffled = BlockShuffle(2, 0.0)(pixels, quiet.draws, quiet)
    assert torch.equal(
        shuffled.flatten(2).sort(-1).values, pixels.flatten(1).sort(-1).values[:, None].expand(-1, 2, -1)
    )


def draws(pixels, seed=0):
    from companion.attacks.transfer.draws import Draws

    return Draws(seed, range(len(pixels)), dtype=pixels.dtype)


def test_kernel():
    for side in (3, 5, 15):
        kernel = gaussian_kernel(side, torch.zeros(1, dtype=torch.float64))
        assert kernel.sum().item() == pytest.approx(1)
        assert torch.equal(kernel, kernel.T) and torch.equal(kernel, kernel.flip(0))
        assert kernel.argmax() == side * side // 2
    with pytest.raises(CompanionError, match="side 4"):
        run(Method(smoothing=4))


def test_projection():
    found = project(torch.tensor([-1.0, 0.55, 2.0]), torch.tensor([0.05, 0.5, 0.95]), 0.1)
    assert torch.allclose(found, torch.tensor([0.0, 0.55, 1.0]))


def test_patchwise_spreads_what_was_cut():
    state = State(Scene(PIXELS, LABELS, None, Budget(0.1, 10), None), torch.zeros(1, 1, 3, 3))
    gradient = torch.zeros(1, 1, 3, 3)
    gradient[0, 0, 1, 1] = 1
    rule = PatchWise(amplification=15.0)
    step = rule(state, gradient)
    assert step[0, 0, 1, 1] == pytest.approx(15 * 0.01)  # the zero centre gives nothing back to itself
    around = torch.ones(3, 3, dtype=torch.bool)
    around[1, 1] = False
    assert torch.allclose(step[0, 0][around], torch.tensor(0.1))


def test_every_layer_of_skip_gradient_scales_by_gamma():
    model, gamma = network(), 0.3
    pixels, _ = images()

    def gradient(change):
        points = pixels.clone().requires_grad_()
        with change.applied([model], None):
            model(points).square().sum().backward()
        return points.grad

    full, scaled = gradient(SkipGradient(1.0)), gradient(SkipGradient(gamma))
    hooks = [b.register_full_backward_hook(lambda m, i, o: tuple(gamma * g for g in i)) for b in model.branches()]
    by_hand = gradient(SkipGradient(1.0))
    for hook in hooks:
        hook.remove()
    assert torch.allclose(scaled, by_hand) and not torch.allclose(scaled, full)


def test_linear_backward_leaves_the_forward_pass_and_the_length():
    model = network()
    pixels, _ = images()
    plain = model(pixels)
    with LinearBackward(0).applied([model], None):
        assert torch.equal(model(pixels), plain)
    relu = nn.Sequential(nn.ReLU())
    points = torch.tensor([[-1.0, 2.0, 3.0]], requires_grad=True)
    with LinearBackward("0").applied([relu], None):
        (relu(points) * torch.tensor([[3.0, 4.0, 0.0]])).sum().backward()
    assert torch.allclose(points.grad, torch.tensor([[3.0, 4.0, 0.0]]) * 4 / 5)


def test_ila_goes_further_along_the_attack():
    model = network()
    pixels, labels = images()
    base = Method(rule=Momentum(0.0))
    first = attack(base, model, pixels, labels, BUDGET, 3)
    second = attack(Method(objective=IntermediateLevel(base, 1)), model, pixels, labels, BUDGET, 3)
    clean, before, after = (layer_output(model, 1, x).flatten(1) for x in (pixels, first, second))
    assert (((after - clean) * (before - clean)).sum(1) > (before - clean).square().sum(1)).all()


def test_fia_lowers_what_it_weighs():
    model = network()
    pixels, labels = images()
    scene = Scene(pixels, labels, None, BUDGET, draws(pixels))
    bound = FeatureImportance(masks=4).bind([model], scene)
    found = run(Method(objective=FeatureImportance(masks=4)), model)
    assert (bound.value([model], found) > bound.value([model], pixels)).all()


def test_targeted_attacks_go_to_the_target():
    model = network()
    pixels, labels = images()
    targets = (labels + 1) % 4
    found = attack(Method(), model, pixels, labels, Budget(0.2, 20), 0, targets=targets)
    before, after = (model(x).log_softmax(1).gather(1, targets[:, None]) for x in (pixels, found))
    assert (after > before).all()


def test_poincare_loss_prefers_the_target():
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64)
    values = PoincareTriplet()(logits, torch.tensor([2, 2]), torch.tensor([0, 0]))
    assert values[0] > values[1]
    with pytest.raises(CompanionError, match="without targets"):
        run(Method(objective=Output(PoincareTriplet())))


def test_admix_never_takes_the_own_class():
    from companion.attacks.transfer.transforms import _others
    from companion.data.imageset import ImageSet

    pixels, labels = images()
    pool_labels = torch.tensor([0, 1, 1, 2, 3, 3])
    pool = ImageSet(pool_labels.float().view(-1, 1, 1, 1).expand(-1, 1, 16, 16), pool_labels, tuple("abcd"), "", "")
    scene = Scene(pixels, labels, None, BUDGET, draws(pixels), pool)
    drawn = _others(scene, pixels, scene.draws, 200)[:, :, 0, 0, 0].long()  # (B, 200)
    for label, found in zip(labels, drawn, strict=True):
        assert set(found.tolist()) == {0, 1, 2, 3} - {int(label)}
    alone = ImageSet(pool.images[1:3], pool_labels[1:3], tuple("abcd"), "", "")
    with pytest.raises(CompanionError, match="another class"):
        run(Method(transform=Admix()), partners=alone)


def bad(**changes):
    pixels, labels = images()
    values = {"method": Method(), "models": network(), "images": pixels, "labels": labels, "budget": BUDGET, "seed": 0}
    return attack(**(values | changes))


class Rounded(nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)[:, :4].detach()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": images()[0] * 2}, r"lie in .*expected \[0, 1\]"),
        ({"images": images()[0] * float("nan")}, "lie in"),
        ({"images": images()[0][0]}, "shape"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels have shape"),
        ({"targets": torch.zeros(5)}, "targets have"),
        ({"indices": [1]}, "1 indices for 5 images"),
        ({"models": []}, "no network"),
        ({"models": [network(), network(1)]}, r"asks 1 network\(s\) and got 2"),
        ({"models": Rounded()}, "gives no gradient"),
        ({"method": Method(objective=FeatureImportance("trunk.9"))}, 'unknown layer "trunk.9"'),
        ({"method": Method(objective=FeatureImportance(7))}, "unknown layer 7"),
        ({"method": Method(transform=Admix())}, "expected partners"),
        ({"method": Method(change=SkipGradient()), "models": network(family="cnn")}, "no residual branches"),
    ],
)
def test_bad_input_is_named(changes, words):
    with pytest.raises(CompanionError, match=words):
        bad(**changes)


@pytest.mark.parametrize("values", [{"eps": -0.1}, {"eps": 2}, {"eps": float("nan")}, {"eps": 0.1, "steps": 0}])
def test_budgets_are_checked(values):
    with pytest.raises(CompanionError, match="Budget"):
        Budget(**values)


def test_networks_are_left_as_they_were():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(Method(change=SkipGradient()), model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert find_layer(model, 0) is model.trunk[1]
