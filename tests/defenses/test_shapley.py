"""Shapley values: the axioms, the enumeration as an oracle for the walks, and the two accelerations."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from companion.defenses import shapley
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.models.prunable import chain_of
from companion.seeding import generator


def table_game(count, seed=0):
    """Return a game with a random value for every coalition, and those values."""
    values = torch.rand(2**count, generator=generator(seed, "game"), dtype=torch.float64)
    places = 2 ** torch.arange(count)
    return lambda coalitions: values[(coalitions.long() * places).sum(1)], values


def network_game(width=1, images=6, soft=True):
    """Return a backdoor game on an untrained network with 7 * width neurons."""
    model = build_model("small_cnn", 1, 4, generator(3, "weights"), width=width).eval()
    triggered = torch.rand(images, 1, 16, 16, generator=generator(3, "images"))
    return shapley.BackdoorGame(chain_of(model), triggered, target=2, soft=soft)


def test_enumeration_agrees_with_the_mean_over_all_orders():
    value, _ = table_game(4)
    credit = torch.zeros(4, dtype=torch.float64)
    orders = list(permutations(range(4)))
    for order in orders:
        members = torch.ones(1, 4, dtype=torch.bool)
        for player in order:
            before = value(members)
            members = members.clone()
            members[0, player] = False
            credit[player] += float(before - value(members))
    assert torch.allclose(shapley.exact_shapley(value, 4), credit / len(orders), atol=1e-12)


def test_efficiency_the_values_add_up_to_what_all_have_over_none():
    value, values = table_game(7)
    assert float(shapley.exact_shapley(value, 7).sum()) == pytest.approx(float(values[-1] - values[0]))
    for sampling in (shapley.PLAIN, replace(shapley.PLAIN, epsilon=0.2, leaders=2), replace(shapley.PLAIN, block=3)):
        found = shapley.estimate(value, 7, replace(sampling, walks=13), generator(0, "walks"))
        assert float(found.values.sum()) == pytest.approx(float(values[-1] - values[0]))


def test_symmetry_equal_players_get_equal_values():
    weights = torch.tensor([3.0, 3.0, 1.0, 5.0])

    def value(coalitions):
        return ((coalitions * weights).sum(1) >= 6).double()  # a vote with a quota

    found = shapley.exact_shapley(value, 4)
    assert float(found[0]) == pytest.approx(float(found[1]))
    assert float(found.sum()) == pytest.approx(1)
    assert found[3] > found[0] > found[2] > 0


def test_null_players_and_dead_neurons_get_exactly_zero():
    value, _ = table_game(4)
    found = shapley.exact_shapley(lambda coalitions: value(coalitions[:, [0, 1, 3, 4]]), 5)
    assert abs(float(found[2])) < 1e-15
    game = network_game()
    stage = game.masked.chain.stages[1]
    torch.nn.init.zeros_(stage[2].weight[:1])  # batch normalisation of one channel of two: constant zero after ReLU
    torch.nn.init.zeros_(stage[2].bias[:1])
    sampled = shapley.estimate(game, game.players, replace(shapley.PLAIN, walks=20), generator(0, "walks"))
    assert sampled.values[1] == 0 and sampled.errors[1] == 0, "neuron 1 is the first of the second stage"


def test_linearity_of_a_sum_of_games():
    first, _ = table_game(5, 1)
    second, _ = table_game(5, 2)
    both = shapley.exact_shapley(lambda coalitions: first(coalitions) + 2 * second(coalitions), 5)
    assert torch.allclose(both, shapley.exact_shapley(first, 5) + 2 * shapley.exact_shapley(second, 5))


@pytest.mark.parametrize("soft", [True, False])
def test_walks_meet_the_oracle_on_a_network_of_seven_neurons(soft):
    game = network_game(soft=soft)
    exact = shapley.exact_shapley(game, game.players)
    found = shapley.estimate(game, game.players, replace(shapley.PLAIN, walks=3000), generator(0, "walks"))
    assert ((found.values - exact).abs() <= 4 * found.errors + 1e-12).all()
    assert (found.errors < 0.02).all()


def test_a_restricted_game_keeps_the_others_in():
    game = network_game()
    players = torch.tensor([0, 3, 6])
    part = shapley.within(game, players, 7)
    assert torch.equal(part(torch.ones(1, 3, dtype=torch.bool)), game(torch.ones(1, 7, dtype=torch.bool)))
    without = torch.ones(1, 7, dtype=torch.bool)
    without[0, players] = False
    assert torch.equal(part(torch.zeros(1, 3, dtype=torch.bool)), game(without))


def test_what_is_evaluated_ahead_and_side_by_side_does_not_move_the_estimate():
    value, _ = table_game(9)
    cut = shapley.Sampling(walks=12, threshold=0.4, epsilon=1.0, together=12, ahead=1)
    slow = shapley.estimate(value, 9, cut, generator(0, "walks"))
    quick = shapley.estimate(value, 9, replace(cut, ahead=4), generator(0, "walks"))
    assert torch.equal(slow.values, quick.values) and torch.equal(slow.lengths, quick.lengths)
    assert slow.evaluations == 1 + int(slow.lengths.sum()), "with nothing ahead, nothing is evaluated in vain"
    assert quick.evaluations >= slow.evaluations


def test_the_threshold_credits_nothing_after_the_fall():
    """V falls to 0 with the first of two key neurons: the walk ends there, and whoever comes later gets nothing."""

    def value(coalitions):
        return (coalitions[:, 0] & coalitions[:, 1]).double()

    found = shapley.estimate(value, 8, shapley.Sampling(walks=400, threshold=0.5, epsilon=1.0), generator(0, "walks"))
    assert torch.equal(found.values[2:], torch.zeros(6, dtype=torch.float64))
    assert float(found.values.sum()) == pytest.approx(1)
    assert found.values[:2].tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    assert found.lengths.double().mean() == pytest.approx(3.0, abs=0.3), "the earlier of two among eight: 9 / 3"


def test_a_walk_that_stays_above_the_threshold_is_the_plain_walk():
    value, _ = table_game(6)
    low = shapley.estimate(
        lambda c: value(c) + 10, 6, shapley.Sampling(9, 0.1, 1.0, together=20), generator(0, "walks")
    )
    plain = shapley.estimate(value, 6, replace(shapley.PLAIN, walks=9), generator(0, "walks"))
    assert torch.allclose(low.values, plain.values) and (low.lengths == 6).all()


def test_greedy_orders_put_the_leaders_first_and_shorten_the_walks():
    def value(coalitions):  # a backdoor of three neurons, any one of which carries it
        return coalitions[:, :3].any(1).double()

    sampling = shapley.Sampling(walks=200, threshold=0.5, epsilon=1.0, leaders=3, together=10, ahead=1)
    uniform = shapley.estimate(value, 60, sampling, generator(0, "walks"))
    greedy = shapley.estimate(value, 60, replace(sampling, epsilon=0.2), generator(0, "walks"))
    assert greedy.evaluations < uniform.evaluations / 2
    assert set(greedy.ranking()[:3].tolist()) == {0, 1, 2}
    assert 0 < int(greedy.greedy.sum()) < 200 and not uniform.greedy.any()
    assert torch.equal(uniform.values, uniform.uniform)
    assert greedy.uniform[:3].sum() == pytest.approx(1) and (greedy.uniform[3:] == 0).all()


def test_the_soft_value_is_a_mean_probability_and_the_hard_one_a_share():
    soft, hard = network_game(), network_game(soft=False)
    everyone = torch.ones(1, 7, dtype=torch.bool)
    logits = soft.masked.chain(torch.rand(6, 1, 16, 16, generator=generator(3, "images")))
    assert float(soft(everyone)) == pytest.approx(float(logits.softmax(1)[:, 2].mean().detach()), abs=1e-6)
    assert float(hard(everyone)) == pytest.approx(float((logits.argmax(1) == 2).double().mean()))
    assert soft.evaluations == 1


def test_a_table_is_the_same_game():
    game = network_game()
    table = shapley.tabulated(game, 7)
    coalitions = torch.rand(30, 7, generator=generator(0, "coalitions")) < 0.5
    assert torch.allclose(table(coalitions), game(coalitions), atol=1e-6)


def test_games_that_cannot_be_played_say_so():
    with pytest.raises(CompanionError, match="nothing to prune"):
        shapley.estimate(lambda c: c.sum(1), 0, shapley.PLAIN, generator(0, "walks"))
    with pytest.raises(CompanionError, match="expected 1 to 16 players"):
        shapley.exact_shapley(lambda c: c.sum(1), 17)
    with pytest.raises(CompanionError, match="value that is not finite"):
        shapley.estimate(lambda c: torch.full((len(c),), torch.nan), 3, shapley.PLAIN, generator(0, "walks"))
    for name, wrong in {"walks": 0, "threshold": 1.0, "epsilon": 1.5, "leaders": 0, "ahead": 0, "block": 0}.items():
        with pytest.raises(CompanionError, match=f"Sampling.{name}"):
            shapley.Sampling(**{name: wrong})
