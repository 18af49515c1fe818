"""The laboratory and the experiments of the chapter, on networks that need no training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from companion.attacks.transfer.generative import PerturbationGenerator
from companion.attacks.transfer.method import Method, attack
from companion.attacks.transfer.registry import Scale, entries
from companion.attacks.transfer.state import Budget
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.models.zoo import build_surrogate
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies import transfer_lab, transfer_published, transferability

SCALE = Scale(
    copies=2, samples=2, scales=2, partners=1, members=2, snapshots=2, inner=2, masks=2, rate=1.25, rates=(1.2,),
    kernel=3,
)  # fmt: skip
BUDGET = Budget(0.1, 2)
NAMES = ("cnn", "resnet", "mixer", "vit", "robust")


@pytest.fixture(scope="module")
def lab():
    pixels = torch.rand(6, 1, 16, 16, generator=generator(0, "i"))
    pixels = (pixels * 255).round() / 255
    data = ImageSet(pixels, torch.arange(6) % 3, ("a", "b", "c"), "noise", "test")
    networks = {
        name: build_surrogate("cnn" if name == "robust" else name, 1, 3, 16, generator(0, name)).eval()
        for name in NAMES
    }
    return transfer_lab.Lab(networks, data, tuple(range(6)), data, dict.fromkeys(NAMES, Proportion(1, 2)), 0)


@pytest.fixture(scope="module")
def tools(lab):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        made = PerturbationGenerator(1, 4).eval()
    return transferability.Toolbox(("resnet", "cnn"), (lab.networks["resnet"], lab.networks["mixer"]), made)


def test_a_lab_holds_what_all_networks_get_right(tmp_path):
    built = transfer_lab.build_lab(
        "digits", ["cnn", "resnet"], 0, ModelStore(tmp_path), count=30, eps=0.1, effort=0.4, epochs={"cnn": 4},
        train_count=500, widths={"resnet": 8},
    )  # fmt: skip
    assert [model.head.in_features for model in built.networks.values()] == [64, 32]
    assert len(built.images) == 30 == len(built.indices) and len(built.train) == 500
    for model in built.networks.values():
        assert (model(built.images.images).argmax(1) == built.images.labels).all()
    clean = transfer_lab.run(built, Method(), ["cnn"], Budget(1e-6, 1))
    assert not clean.fooled.any() and (clean.ranks == 0).all()  # rounding brings a tiny change back
    with pytest.raises(CompanionError, match='unknown network "gan"'):
        transfer_lab.build_lab("digits", ["gan"], 0, ModelStore(tmp_path), count=3, eps=0.1)


def test_outcomes_agree_with_a_count_by_hand(lab):
    found = transfer_lab.run(lab, Method(), ["cnn"], Budget(0.3, 3), keep=(1,))
    assert found.steps == (1, 3) and found.cost == (1, 3)
    assert found.fooled.shape == (2, 5, 6) and found.norms.shape == (2, 6)
    assert np.array_equal(found.fooled, found.ranks > 0)
    assert found.of("cnn", "vit").tolist() == ((found.fooled[1, 0] * 1 + found.fooled[1, 3]) / 2).tolist()
    assert found.norm(at=1) < found.norm() <= 0.3 * 16
    prefix = transfer_lab.run(lab, Method(), ["cnn"], Budget(0.3, 3), count=2)
    assert np.array_equal(prefix.fooled[-1], found.fooled[-1][:, :2])


def test_targeted_success_means_the_target(lab):
    goal = (lab.images.labels + 1) % 3
    found = transfer_lab.run(lab, Method(), ["cnn"], Budget(0.3, 3), targets=goal)
    for place, model in enumerate(lab.networks.values()):
        assert (found.fooled[0, place] & (found.ranks[0, place] == 0)).sum() == 0, model


def test_the_campaign_runs_every_untargeted_method(lab, tools):
    chosen = entries(SCALE)
    found = transferability.campaign(lab, chosen, "resnet", tools, BUDGET, {"mi": 5})
    assert set(found) == {name for name, entry in chosen.items() if entry.needs != "targets"}
    assert found["mi"].steps == (1, 2, 3, 4, 5)
    alone = transfer_lab.run(lab, Method(), ["resnet"], BUDGET)
    assert np.array_equal(found["mi"].of("vit", at=2), alone.of("vit"))
    rows = transferability.summaries(lab, chosen, found, "resnet", tools, BUDGET.steps)
    assert rows["mi"].cost == 2 and rows["vmi"].cost == 6 and rows["gap"].cost == 0
    assert transferability.unseen(lab, chosen["ens"], "resnet", tools) == ["mixer", "vit"]
    assert np.array_equal(rows["mi"].black, found["mi"].of("cnn", "mixer", "vit", at=2))
    gaps = transferability.family_gaps(lab, {"mi": found["mi"]}, "resnet", "vit", 2)
    assert np.allclose(gaps["mi"], found["mi"].of("cnn", at=2) - found["mi"].of("vit", at=2))


def test_a_budget_buys_the_longest_affordable_attack(lab):
    found = transfer_lab.run(lab, Method(), ["cnn"], Budget(0.3, 4), keep=(1, 2, 3))
    assert np.array_equal(transferability.at_cost(found, 3, "vit"), found.of("vit", at=3))
    assert np.array_equal(transferability.at_cost(found, 99, "vit"), found.of("vit"))
    with pytest.raises(CompanionError, match="one step of the attack costs 1"):
        transferability.at_cost(found, 0, "vit")


def test_tools_are_trained_on_the_source(lab):
    made = transferability.equip(lab, "cnn", ["cnn", "vit"], BUDGET, 2, 1)
    assert len(made.snapshots) == 2 and made.ensemble == ("cnn", "vit")
    assert made.generator(lab.images.images).shape == lab.images.images.shape


def test_sizes_of_ensembles_and_layers(lab):
    sizes = transferability.ensemble_sizes(lab, "vit", BUDGET, 4)
    assert {size: found.shape for size, found in sizes.items()} == {1: (3, 4), 2: (3, 4), 3: (1, 4)}
    single = transfer_lab.run(lab, Method(), ["cnn"], BUDGET, count=4)
    assert np.array_equal(sizes[1][0], single.of("vit"))
    found = transferability.layers(lab, "resnet", BUDGET, 2)
    assert [len(outcomes) for outcomes in found.values()] == [3, 3]


def test_matrices_and_targets(lab):
    found = transferability.matrices(lab, {"mi": Method()}, ["cnn", "vit"], BUDGET)
    assert set(found["mi"]) == {"cnn", "vit"}
    aimed = transferability.targeted(lab, "cnn", replace(BUDGET, steps=3), (1,), SCALE, 4)
    assert set(aimed) == set(transferability.TARGETED)
    assert all(outcome.fooled.shape == (2, 5, 4) for outcome in aimed.values())


def test_families_by_hand(lab):
    outcomes = {name: transfer_lab.run(lab, Method(), [name], BUDGET) for name in ("cnn", "resnet", "vit")}
    found = transferability.family_matrix(lab, outcomes, "vit")
    assert found["within"] == pytest.approx((outcomes["cnn"].of("resnet") + outcomes["resnet"].of("cnn")).mean() / 2)
    assert found["across"] == pytest.approx((outcomes["cnn"].of("vit") + outcomes["resnet"].of("vit")).mean() / 2)
    assert found["back"] == pytest.approx(outcomes["vit"].of("cnn", "resnet").mean())


def test_examples_are_the_attacked_images(lab):
    clean, moved = transferability.examples(lab, {"mi": Method()}, "cnn", BUDGET, 2)
    assert torch.equal(clean, lab.images.images[:2])
    again = attack(Method(), lab.networks["cnn"], lab.images.images, lab.images.labels, BUDGET, lab.seed)
    assert torch.allclose(moved, again[:2], atol=1e-6)


def test_reversals_count_pairs_that_turn_round(lab):
    high, low = np.array([1.0, 1, 1, 1, 1, 0]), np.array([0.0, 0, 0, 0, 0, 0])
    first = {"a": high, "b": low, "c": low}
    assert transferability.reversals(first, first, lab) == (0, 0, 3)
    assert transferability.reversals(first, {"a": low, "b": high, "c": low}, lab) == (1, 1, 3)
    noisy = np.array([1.0, 0, 0, 0, 0, 0])
    assert transferability.reversals(first, {"a": low, "b": noisy, "c": low}, lab) == (1, 0, 3)


def test_rank_correlation_by_hand():
    from scipy.stats import spearmanr

    values = np.array([1.0, 5, 2, 2, 9, 4]), np.array([2.0, 3, 1, 7, 8, 4])
    found, bound = transferability.rank_correlation(*values, generator(0))
    assert found == pytest.approx(spearmanr(*values).statistic)
    assert bound.low <= found <= bound.high
    assert transferability.rank_correlation(values[0], values[0] * 3, generator(0))[0] == pytest.approx(1)
    with pytest.raises(CompanionError, match="over 2 methods"):
        transferability.rank_correlation([1, 2], [2, 1], generator(0))


def test_published_tables():
    means = transfer_published.transfer_attack_means()
    on_the_sheet = {"fgsm": 28.5, "ifgsm": 19.6, "mi": 34.3, "ni": 37.6, "pi": 38.7, "vmi": 54.6, "vni": 57.4,
                    "emi": 58.3, "rap": 58.4, "gra": 71.7, "pgn": 75.7, "di": 50.9, "ti": 31.1, "si": 48.5, "dem": 76.4,
                    "admix": 61.1, "ssm": 75.6, "sia": 81.0, "bsr": 84.5, "tap": 53.9, "ila": 38.1, "fia": 39.4,
                    "naa": 40.4, "sgm": 47.2, "linbp": 48.5, "lgv": 64.6}  # fmt: skip
    assert {name: round(value, 1) for name, value in means.items()} == pytest.approx(on_the_sheet, abs=0.1)
    assert set(means) <= set(entries())
    zhao = transfer_published.zhao_means()
    assert zhao["logit"][2] > zhao["potrip"][2] > zhao["ce"][2]


def test_the_taxonomy_lists_every_method_with_its_formula():
    rows = transferability.taxonomy(Scale(), 10)
    assert [row["method"] for row in rows] == [entry.title for entry in entries().values()]
    assert {row["method"]: row["gradients"] for row in rows}["VMI-FGSM"] == 210
    lines = transferability.formulas().splitlines()
    assert len(lines) == len(rows) + 2
    assert all(line.count("|") == 3 and line.count("$") == 2 for line in lines[2:])  # a bar would end the cell


class Deaf(nn.Module):
    def forward(self, images):
        return torch.zeros(len(images), 3)


def test_a_network_without_a_gradient_is_named(lab):
    with pytest.raises(CompanionError, match="Deaf gives no gradient"):
        transfer_lab.run(lab, Method(), [Deaf()], BUDGET)
