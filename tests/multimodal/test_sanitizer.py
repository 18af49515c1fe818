"""The sanitizer, its concepts, the baselines and the attacks: invariants on the shipped text encoder."""

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal import concepts, erasure, guidance, prompt_attacks
from companion.multimodal.concepts import RED, STAR
from companion.multimodal.diffusion import (
    CHANNELS,
    GRID,
    UNetSettings,
    build_unet,
    hidden_states,
)
from companion.multimodal.diffusion_base import load_diffusion
from companion.multimodal.generators import TileGenerator
from companion.multimodal.languages import WORDS
from companion.multimodal.prompts import CONTEXT, END, encode, word_ids
from companion.multimodal.sanitizer import (
    Sanitizer,
    SanitizerSettings,
    SanitizerTraining,
    embed_triples,
    train_sanitizer,
)
from companion.seeding import generator


@pytest.fixture(scope="module")
def text():
    return load_diffusion()["text"].requires_grad_(False)


@pytest.fixture(scope="module")
def unet():
    return build_unet(UNetSettings((16, 16)), 64, generator(0, "unet")).eval().requires_grad_(False)


SMALL = SanitizerSettings()


@pytest.fixture(scope="module")
def known():
    return concepts.triples(RED, 120, generator(0, "triples"))


def embedded(text, prompts):
    with torch.no_grad():
        return hidden_states(text, encode(prompts))


@pytest.mark.parametrize("concept", [RED, STAR])
def test_target_and_anchor_differ_in_one_aligned_word(concept):
    found = concepts.triples(concept, 100, generator(0, "triples"))
    assert ((found.target != found.anchor).sum(1) == 1).all()
    banned = torch.tensor([word_ids()[word] for word in concept.words])
    assert not torch.isin(found.benign, banned).any() and not torch.isin(found.anchor, banned).any()
    assert torch.isin(found.target, banned).sum(1).tolist() == [1] * 100


def test_the_defender_never_sees_the_words_of_b2(known):
    hidden = torch.tensor([word_ids()[word] for word in (*RED.hidden, *RED.hidden_likenesses)])
    assert not any(torch.isin(ids, hidden).any() for ids in (known.target, known.anchor, known.benign))
    for prompt in concepts.indirect_prompts(RED, 30, generator(0, "b2")):
        assert not set(prompt.split()) & set(RED.banned) and concepts.says(RED, prompt)


def test_one_context_has_one_form():
    found = concepts.triples(RED, 20, generator(0, "plain"), plain=True)
    assert {(ids != END).sum().item() for ids in found.benign} == {4}


def test_a_prompt_without_the_concept_is_named():
    assert concepts.occurrence(RED, "a star painted ruby") == range(4, 5)
    with pytest.raises(CompanionError, match="'a blue star' does not name the concept 'red'"):
        concepts.occurrence(RED, "a blue star")


@pytest.mark.parametrize("concept", [RED, STAR])
def test_benign_prompts_are_even_and_say_what_their_tile_shows(concept):
    pairs = concepts.benign_prompts(concept, 60, generator(0, "benign"))
    values = [getattr(tile, concept.what) for tile, _ in pairs]
    assert concept.name not in values and len({values.count(one) for one in values}) == 1
    for tile, prompt in pairs:
        assert prompt.colour[1] in concepts.NAMES[tile.colour] and prompt.noun in concepts.SHAPE_NOUNS[tile.shape]


def test_a_new_sanitizer_is_the_identity_and_alpha_zero_always_is(text, known):
    hidden = embedded(text, ["a red star", "a blue ring on sand"])
    module = Sanitizer(SMALL, generator(0, "es"))
    assert torch.equal(module(hidden), hidden)
    trained = train_sanitizer(text, known, SMALL, SanitizerTraining(steps=20), generator(0, "es"))
    assert not torch.equal(trained(hidden), hidden)
    full = trained(hidden) - hidden
    trained.alpha = 0.5
    assert torch.allclose(trained(hidden) - hidden, full / 2, atol=1e-6)
    trained.alpha = 0.0
    assert torch.equal(trained(hidden), hidden)


def test_training_erases_and_preserves_on_prompts_that_it_has_not_seen(text, known):
    module = train_sanitizer(text, known, SMALL, SanitizerTraining(steps=100), generator(0, "es"))
    fresh = embed_triples(text, concepts.triples(RED, 60, generator(1, "fresh")))
    before = (fresh.target - fresh.anchor).square().mean()
    assert (module(fresh.target) - fresh.anchor).square().mean() < 0.4 * before
    assert (module(fresh.benign) - fresh.benign).square().mean() < 0.05 * before
    assert module.scores(fresh.target)[fresh.labels == 1].mean() > 0.7 > 0.3 > module.scores(fresh.benign).mean()
    again = train_sanitizer(text, known, SMALL, SanitizerTraining(steps=100), generator(0, "es"))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_labels_are_zero_before_the_word_and_soft_after_it(text, known):
    data = embed_triples(text, known)
    later = erasure.later_positions(known.target, known.anchor)
    assert (data.labels[~later] == 0).all() and (data.labels[known.target != known.anchor] == 1).all()
    assert (data.labels[later] > 0).all() and (data.labels <= 1).all()
    hard = embed_triples(text, known, soft_labels=False)
    assert hard.labels.sum() == len(known.target)


def test_words_only_leaves_begin_end_and_padding(text, known):
    settings = SanitizerSettings(words_only=True)
    module = train_sanitizer(text, known, settings, SanitizerTraining(steps=10), generator(0, "es"))
    ids = encode(["a red star"])
    hidden = embedded(text, ["a red star"])
    changed = (module(hidden, WORDS.word_positions(ids)) != hidden).any(2)[0]
    assert changed.tolist() == [False, True, True, True] + [False] * (CONTEXT - 4)


def test_embeddings_of_another_encoder_are_refused():
    with pytest.raises(CompanionError, match=r"embeddings of shape \(1, 20, 32\): expected \(N, L, 64\)"):
        Sanitizer(SMALL, generator(0, "es"))(torch.zeros(1, 20, 32))


def test_the_block_list_deletes_what_it_knows_and_nothing_else():
    assert erasure.without_banned(RED, ["a red star", "a ruby star", "a blue star"]) == [
        "a star",
        "a ruby star",
        "a blue star",
    ]


def test_the_projection_removes_the_concept_and_is_idempotent(text, known):
    data = embed_triples(text, known)
    later = erasure.later_positions(known.target, known.anchor)
    projection = erasure.fit_projection(data.target, data.anchor, later)
    once = projection(data.target)
    assert torch.allclose(projection(once), once, atol=1e-4)
    assert ((once - data.anchor) @ projection.basis.T).abs().mean() < (
        (data.target - data.anchor) @ projection.basis.T
    )[later].abs().mean()


def test_closed_form_editing_reads_the_target_as_the_anchor_and_keeps_the_rest(text, unet, known):
    data = embed_triples(text, known)
    edited = erasure.unified_concept_editing(
        unet, data.target, data.anchor, torch.cat([data.anchor, data.benign]), 1.0, 1e-3
    )
    old, new = erasure.cross_attention(unet), erasure.cross_attention(edited)
    assert old and old.keys() == new.keys()
    for name, layer in old.items():
        gap = (layer(data.target) - layer(data.anchor)).square().mean()
        assert (new[name](data.target) - layer(data.anchor)).square().mean() < 0.5 * gap
        assert (new[name](data.benign) - layer(data.benign)).square().mean() < 0.2 * gap
    untouched = set(unet.state_dict()) - {f"{name}.weight" for name in old}
    assert all(torch.equal(unet.state_dict()[name], edited.state_dict()[name]) for name in untouched)


def test_editing_without_a_target_changes_nothing(text, unet, known):
    data = embed_triples(text, known)
    same = erasure.unified_concept_editing(unet, data.anchor, data.anchor, data.benign)
    for name, layer in erasure.cross_attention(unet).items():
        assert torch.allclose(erasure.cross_attention(same)[name].weight, layer.weight, atol=1e-5)


def test_fine_tuning_changes_attention_to_text_alone_and_approaches_its_goal(text, unet, known):
    data = embed_triples(text, known)
    clean = 2 * torch.rand(16, CHANNELS, GRID, GRID, generator=generator(0, "clean")) - 1
    training = erasure.FineTuning(pictures=16, steps=12, batch_size=8)
    pair = data.target[:16], data.anchor[:16]
    edited = erasure.concept_ablation(TileGenerator(unet), *pair, clean, training, generator(0, "ca"))
    changed = {name for name, one in edited.state_dict().items() if not torch.equal(one, unet.state_dict()[name])}
    assert changed and changed <= {f"{name}.weight" for name in erasure.cross_attention(unet)}
    noisy, clock = torch.randn(16, CHANNELS, GRID, GRID, generator=generator(0, "n")), torch.full((16,), 500.0)
    with torch.no_grad():
        wanted = unet(noisy, clock, pair[1], return_dict=False)[0]
        gap = [(one(noisy, clock, pair[0], return_dict=False)[0] - wanted).square().mean() for one in (unet, edited)]
    assert gap[1] < gap[0]


class Constant(torch.nn.Module):
    def forward(self, latent, clock, text, return_dict):
        return (text.mean((1, 2))[:, None, None, None].expand_as(latent),)


def test_safe_guidance_steers_only_near_the_concept():
    latent, clock = torch.zeros(1, CHANNELS, GRID, GRID), torch.full((1,), 1000.0)
    text, empty, unsafe = (torch.full((1, 4, 8), value) for value in (0.5, 0.1, 0.4))

    def steered(threshold):
        return guidance.safe_guidance(text, empty, unsafe, 3.0, 2.0, threshold).predict(Constant(), latent, clock)

    plain = torch.full_like(latent, 0.1 + 3 * 0.4)
    assert torch.allclose(steered(0.05), plain), "the prompt lies 0.1 from the concept: outside the mask"
    assert torch.allclose(steered(0.2), plain - 3 * 2 * 0.3)


def test_safe_clip_moves_the_target_to_the_anchor(text, known):
    tuned = erasure.safe_clip(text, known, 40, 2e-3, 16, generator(0, "safe clip"))
    with torch.no_grad():
        gap = [
            (hidden_states(one, known.target) - hidden_states(text, known.anchor)).square().mean()
            for one in (text, tuned)
        ]
    assert gap[1] < 0.7 * gap[0] and not any(one.requires_grad for one in tuned.parameters())


def test_the_checker_blanks_the_share_that_it_was_set_for():
    checker = erasure.Checker(torch.tensor([1.0, 0.0]), 0.5)

    class Tower(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :2]

    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None, None]
    assert checker.flagged(Tower(), images).tolist() == [True, False]


@pytest.fixture(scope="module")
def carriers():
    return concepts.carriers(RED, 12, 2, generator(0, "carriers"))


@pytest.mark.parametrize("concept", [RED, STAR])
def test_carriers_are_aligned_with_their_free_places(concept):
    found = concepts.carriers(concept, 20, 3, generator(0, "carriers"))
    filled = prompt_attacks.filled(found, torch.full((20, 3), word_ids()["fog"]))
    assert (filled.gather(1, found.free) == word_ids()["fog"]).all() and ((filled != found.ids).sum(1) == 3).all()
    name = word_ids()[concept.name]
    assert (found.named == name).sum(1).tolist() == [1] * 20 and not (found.bare == name).any()


def test_the_embedding_match_improves_uses_allowed_words_and_restores_the_encoder(text, carriers):
    goal = prompt_attacks.end_states(hidden_states(text, carriers.named), carriers.named)
    settings = prompt_attacks.Matching(sweeps=2, shortlist=8)
    allowed = RED.allowed()

    def cosine(ids):
        return torch.cosine_similarity(prompt_attacks.end_states(hidden_states(text, ids), ids), goal, dim=1)

    with torch.no_grad():
        start = prompt_attacks.match_embedding(
            text, carriers, goal, allowed, prompt_attacks.Matching(sweeps=0), generator(0, "m")
        )
        found = prompt_attacks.match_embedding(text, carriers, goal, allowed, settings, generator(0, "m"))
        assert (cosine(found) >= cosine(start)).all() and cosine(found).mean() > cosine(start).mean() + 0.01
    rest = torch.ones_like(found, dtype=torch.bool).scatter(1, carriers.free, False)
    assert torch.equal(found[rest], carriers.ids[rest]) and torch.isin(found[~rest], allowed).all()
    assert not text.get_input_embeddings()._forward_hooks


def test_a_full_shortlist_of_one_place_is_the_exact_optimum(text, carriers):
    one = concepts.carriers(RED, 4, 1, generator(0, "one"))
    goal = prompt_attacks.end_states(hidden_states(text, one.named), one.named)
    allowed = RED.allowed()
    found = prompt_attacks.match_embedding(
        text, one, goal, allowed, prompt_attacks.Matching(1, len(allowed)), generator(0, "m")
    )
    for row in range(4):
        tried = one.ids[row].repeat(len(allowed), 1)
        tried[:, one.free[row, 0]] = allowed
        with torch.no_grad():
            states = prompt_attacks.end_states(hidden_states(text, tried), tried)
        best = allowed[torch.cosine_similarity(states, goal[row : row + 1], dim=1).argmax()]
        assert found[row, one.free[row, 0]] == best


def test_the_black_box_search_finds_a_planted_word(carriers):
    planted = word_ids()["fog"]

    def score(ids, rows):
        return (ids == planted).sum(1).float()

    found = prompt_attacks.black_box(
        carriers, RED.allowed(), score, prompt_attacks.Search(60, 4, 12, 20), generator(0, "bb")
    )
    assert (found == planted).any(1).float().mean() > 0.9
    assert not torch.isin(found, torch.tensor([word_ids()[word] for word in RED.words])).any()


def test_an_attack_without_words_says_so(text, carriers):
    nothing = torch.empty(0, dtype=torch.int64)
    with pytest.raises(CompanionError, match="no allowed word"):
        prompt_attacks.match_embedding(
            text, carriers, torch.zeros(12, 64), nothing, prompt_attacks.Matching(), generator(0, "m")
        )
    with pytest.raises(CompanionError, match="no allowed word"):
        prompt_attacks.black_box(
            carriers, nothing, lambda ids, rows: rows.float(), prompt_attacks.Search(), generator(0, "m")
        )
