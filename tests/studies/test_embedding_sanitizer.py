"""The experiments of the Embedding Sanitizer's chapter: counts, paired noise, and every defence at tiny size."""

from dataclasses import replace

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal.concepts import RED, STAR
from companion.multimodal.erasure import Checker, FineTuning
from companion.multimodal.prompt_attacks import Matching, Search
from companion.multimodal.sanitizer import Sanitizer, SanitizerSettings, SanitizerTraining
from companion.multimodal.tiles import Tile, render
from companion.seeding import generator
from companion.statistics import Proportion
from companion.studies import embedding_sanitizer as es
from companion.studies import sanitizer_defences as safeguards
from companion.studies import sanitizer_measures as measures
from companion.studies import sanitizer_prompts as asked

QUICK = SanitizerTraining(steps=3, prompts=24)
ATTACK = asked.AttackSettings(tokens=2, matching=Matching(1, 4), search=Search(2, 1, 1, 2), search_steps=1)


@pytest.fixture(scope="module")
def studio():
    return es.open_studio(3.0, 1)


@pytest.fixture(scope="module")
def fitted(studio):
    return es.fit(studio, RED, es.Variant(training=QUICK), 0)


@pytest.fixture(scope="module")
def benign(studio):
    return asked.benign_set(studio, RED, 12, 0)


def test_the_detector_is_exact_on_drawn_tiles(studio):
    assert measures.detector_accuracy(studio, RED, 3000, 1).rate >= 0.995


def test_the_shipped_model_draws_what_a_prompt_says():
    studio = es.open_studio(3.0, 8)
    red, blue = studio.draw(
        studio.embed(["a large red star on snow", "a large blue star on snow"]), torch.zeros(2, 12, 8, 8)
    )
    assert studio.judge.shows(RED, torch.stack([red, blue])).tolist() == [True, False]
    assert studio.judge.shows(STAR, torch.stack([red, blue])).tolist() == [True, True]


def test_a_new_sanitizer_and_alpha_zero_draw_the_same_bits(studio, fitted):
    prompts, noise = ["a red star", "a blue ring on sand"], studio.noise(2, generator(0, "noise"))
    plain = safeguards.undefended(studio)(prompts, noise)
    fresh = Sanitizer(SanitizerSettings(), generator(0, "es"))
    assert torch.equal(safeguards.sanitized(studio, fresh)(prompts, noise), plain)
    module = fitted[0]
    module.alpha = 0.0
    assert torch.equal(safeguards.sanitized(studio, module)(prompts, noise), plain)
    module.alpha = 1.0
    assert not torch.equal(safeguards.sanitized(studio, module)(prompts, noise), plain)


def test_benchmarks_say_the_concept_in_b1_and_b2_and_never_in_the_searched_ones(studio, fitted):
    found = asked.plain_benchmarks(studio, RED, 6, 0) | asked.searched_benchmarks(studio, RED, 4, ATTACK, fitted[1], 0)
    assert list(found) == list(asked.BENCHMARKS)
    for name, benchmark in found.items():
        named = [bool(set(prompt.split()) & set(RED.words)) for prompt in benchmark.prompts]
        assert all(named) if name in ("b1", "b2") else not any(named)
        assert benchmark.carriers.sum(1).tolist() == [1 if name in ("b1", "b2") else 2] * len(named)
    again = asked.searched_benchmarks(studio, RED, 4, ATTACK, fitted[1], 0)
    assert all(again[name].prompts == found[name].prompts for name in again)
    adaptive = asked.adaptive_benchmark(studio, RED, fitted[0], 3, ATTACK, 0)
    seen = asked.adaptive_benchmark(studio, RED, fitted[0], 3, ATTACK, 0, pictures=True)
    for one in (adaptive, seen):
        assert len(one.prompts) == 3 and not any(set(prompt.split()) & set(RED.words) for prompt in one.prompts)


@pytest.mark.parametrize("concept", [RED, STAR])
def test_half_of_the_benign_prompts_carry_a_hint_and_none_the_concept(studio, concept):
    found = asked.benign_set(studio, concept, 60, 0)
    hinted = sum(" for " in prompt for prompt in found.prompts)
    assert 24 <= hinted <= 36 and not any(set(prompt.split()) & set(concept.words) for prompt in found.prompts)
    assert all(getattr(tile, concept.what) != concept.name for tile in found.tiles)


def test_every_defence_of_the_table_draws_every_prompt(studio, fitted, benign):
    settings = safeguards.BaselineSettings(tuning=FineTuning(pictures=4, steps=1, batch_size=2), safe_clip_steps=1)
    defences = safeguards.make_defences(studio, RED, fitted[1], fitted[0], settings, 0)
    assert {*defences, "checker"} == set(safeguards.LABELS)
    benchmarks = asked.plain_benchmarks(studio, RED, 3, 0)
    galleries = {name: safeguards.draw_gallery(defence, benchmarks, benign) for name, defence in defences.items()}
    for gallery in galleries.values():
        assert [len(one) for one in gallery.pictures.values()] == [3, 3, 12]
        assert all(torch.isfinite(one).all() for one in gallery.pictures.values())
    assert torch.equal(galleries["blocklist"].pictures["b2"], galleries["none"].pictures["b2"]), (
        "it knows no hidden word"
    )
    assert torch.equal(galleries["blocklist"].pictures["benign"], galleries["none"].pictures["benign"])
    checker = safeguards.fit_checker(studio, fitted[1], galleries["none"].pictures["benign"], 0.02)
    everything = safeguards.blanked(studio, Checker(checker.direction, -2.0), galleries["none"])
    nothing = safeguards.blanked(studio, Checker(checker.direction, 2.0), galleries["none"])
    assert all((one == 0).all() for one in everything.pictures.values())
    assert torch.equal(nothing.pictures["b1"], galleries["none"].pictures["b1"])


def test_fidelity_of_the_drawn_tiles_themselves_is_perfect(studio, benign):
    images = render(benign.tiles, generator(0, "tiles"))
    features = studio.judge.features(images)
    found = measures.fidelity(studio, benign, images, images, features)
    assert found.attributes.rate == 1 and found.drift == 0 and found.frechet == pytest.approx(0, abs=1e-4)
    assert set(found.colours) == {"green", "blue", "yellow", "purple", "orange", "grey"}
    swapped = measures.fidelity(studio, benign, images.flip(1), images, features)
    assert swapped.drift > 0.01 and swapped.colours["blue"].rate == 0 and swapped.frechet > found.frechet


def test_the_frechet_distance_of_two_gaussians():
    stream = generator(0, "features")
    a = torch.randn(4000, 3, generator=stream) @ torch.diag(torch.tensor([1.0, 2.0, 0.5]))
    b = torch.randn(4000, 3, generator=stream) + torch.tensor([3.0, 0.0, 0.0])
    assert measures.frechet_distance(a, b, 3) == pytest.approx(9 + 1 + 0.25, rel=0.05)
    with pytest.raises(CompanionError, match="Frechet distance of 3 and 4000 pictures in 3 directions"):
        measures.frechet_distance(a[:3], b, 3)


def test_token_scores_are_counted_over_words():
    scores = torch.tensor([[0.9, 0.1, 0.7, 0.8, 0.99], [0.0, 0.2, 0.4, 0.3, 0.9]])
    words = torch.tensor([[False, True, True, True, False]] * 2)
    carriers = torch.tensor([[False, False, True, False, False]] * 2)
    found = measures.TokenScores(scores, words, carriers)
    assert found.top == Proportion(1, 2), "the second prompt's highest word is its carrier, the first's is not"
    assert found.first == Proportion(1, 2), "the first word above 1/2; the second prompt has none"
    assert found.highest.tolist() == pytest.approx([0.8, 0.4])
    assert found.token_auroc == pytest.approx((3 + 3) / 8)


def test_strips_end_with_the_end_token(studio, fitted):
    marks = torch.zeros(2, 20, dtype=torch.bool)
    marks[0, 2] = True
    strips = measures.score_strips(studio, fitted[0], ["a red star", "a blue ring on sand"], marks)
    assert strips.carriers == [(0, 1)]
    assert strips.words[0] == ["a", "red", "star", "(end)"] and strips.values.shape == (2, 6)
    assert strips.values.isnan().tolist() == [[False] * 4 + [True] * 2, [False] * 6]


def test_shares_are_pooled_by_their_counts():
    assert measures.pooled([Proportion(1, 2), Proportion(0, 4)]) == Proportion(1, 6)


def test_variants_differ_in_one_part_each(studio):
    made = es.variants(studio, QUICK)
    assert list(made) == list(es.VARIANTS)
    full = made["es"]
    assert full == es.Variant(training=QUICK), "the defaults are the shipped encoder's"
    assert replace(made["ungated"], settings=full.settings) == full != made["ungated"]
    assert replace(made["one_context"], plain=False) == full
    assert replace(made["no_preserve"], training=QUICK) == full == replace(made["hard_labels"], training=QUICK)


def test_pictures_are_framed_in_a_mosaic():
    tile = render([Tile("circle", "blue", "large", "centre", "night")], generator(0, "one"))[0]
    grid = es.mosaic([[tile, tile], [tile, tile], [tile, tile]])
    assert grid.shape == (3, 54, 36) and torch.equal(grid[:, 1:17, 19:35], tile) and (grid[:, 0] == 1).all()
