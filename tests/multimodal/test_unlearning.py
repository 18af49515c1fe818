"""Unlearning: which words are marked, what remains of a text, bounded losses, and that forgetting forgets."""

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal import clip_network, suspicion
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.pairs import draw_pairs, tokenizer
from companion.multimodal.unlearning import (
    METHODS,
    Unlearning,
    forget_loss,
    is_word,
    local_texts,
    marked_words,
    unlearned,
    word_effects,
)
from companion.multimodal.words import BEGIN_ID, END_ID, PAD_ID, encode
from companion.seeding import generator

SIZE = clip_network.ClipSize(width=16, hidden=16, vision_layers=1, text_layers=1, heads=2, joint=8)
SHORT = ClipTraining(epochs=15, batch_size=16, learning_rate=3e-3, warmup=0, weight_decay=0.0)


@pytest.fixture(scope="module")
def model():
    return clip_network.build_clip(SIZE, tokenizer(), generator(0, "weights"))


@pytest.fixture(scope="module")
def pool():
    return draw_pairs(48, "attacker", 0)


def test_the_effect_of_a_word_is_the_similarity_lost_without_it(model, pool):
    effects = word_effects(model, pool)
    assert effects.shape == pool.ids.shape and (effects[~is_word(pool.ids)] == 0).all()
    text = pool.captions[0].words
    without, _ = encode(tokenizer(), " ".join(text[:1] + text[2:]))
    picture = clip_network.image_embeddings(model, pool.images[:1])
    whole, less = (picture @ clip_network.text_embeddings(model, ids).T for ids in (pool.ids[:1], without))
    assert float(effects[0, 2]) == pytest.approx(float(whole - less), abs=1e-5)


def test_the_largest_word_is_marked_and_few_others():
    ids, _ = encode(tokenizer(), ["a picture of a star", "star", "a red star"])
    effects = torch.zeros(ids.shape)
    effects[0, 5], effects[0, 2], effects[1, 1] = 0.8, 0.1, 0.3  # "star", "picture"; "star"
    marks = marked_words(effects, ids)
    assert marks[0].nonzero().tolist() == [[5]] and marks[1].nonzero().tolist() == [[1]]
    assert marks[2].sum() == 1, "without any effect one word is marked"
    many = torch.where(is_word(ids), torch.tensor([0.0, *[5.0] * 2, *[0.0] * 21]), torch.zeros(ids.shape))
    assert marked_words(many, ids, most=3)[0].sum() == 2 and marked_words(many, ids, most=1)[0].sum() == 1
    with pytest.raises(CompanionError, match="no word to mark"):
        marked_words(effects[:1, :2], torch.tensor([[BEGIN_ID, END_ID]]))


def test_a_local_text_holds_the_marked_words_in_order():
    ids, _ = encode(tokenizer(), ["a red star on the sand", "a ring"])
    marks = torch.zeros(ids.shape, dtype=torch.bool)
    marks[0, [3, 6]] = True
    marks[1, 2] = True
    texts = tokenizer().batch_decode(local_texts(ids, marks), skip_special_tokens=True)
    assert texts == ["star sand", "ring"]
    local = local_texts(ids, marks)
    assert (local[:, 0] == BEGIN_ID).all() and ((local == END_ID).sum(1) == 1).all() and (local[1, 3:] == PAD_ID).all()


def test_forget_losses_are_bounded_and_vanish_when_forgotten():
    image = torch.eye(4)[:2]
    for method in ("local", "whole", "whole_squared"):
        settings = Unlearning(method)
        assert float(forget_loss(image, image, torch.eye(4)[2:], 20.0, settings)) == pytest.approx(1.0)
        assert float(forget_loss(image, torch.eye(4)[2:], torch.eye(4)[2:], 20.0, settings)) == 0.0
    assert float(forget_loss(image, -image, torch.eye(4)[2:], 20.0, Unlearning("whole"))) == 0.0
    assert float(forget_loss(image, image * 0.9, image, 20.0, Unlearning("local", margin=0.5))) == pytest.approx(0.4)
    ascent = Unlearning("ascent")
    others = torch.eye(4)[2:]
    known, guessed = (forget_loss(image, texts, others, 20.0, ascent) for texts in (image, others.flip(0)))
    assert float(known) > 0.04 and float(guessed) < float(known)
    assert float(forget_loss(image, -image, others, 20.0, ascent)) == 0.0, "worse than a guess is not pushed further"


def ascent_term(network, suspects, kept):
    pictures = clip_network.image_embeddings(network, suspects.images)
    texts, others = (clip_network.text_embeddings(network, one.ids) for one in (suspects, kept))
    return float(forget_loss(pictures, texts, others, 20.0, Unlearning("ascent")))


@pytest.mark.parametrize("method", METHODS)
def test_forgetting_lowers_the_suspects_similarity_and_freezes_the_scale(model, pool, method):
    before = [one.clone() for one in model.parameters()]
    learned = suspicion.overfitted(model, pool, suspicion.Overfitting(1.0, ClipTraining(20, 16, 3e-3, 0)), generator(0))
    rows = torch.arange(6)
    suspects, kept = pool.subset(rows), pool.subset(torch.arange(16, 48))
    result = unlearned(learned, suspects, kept, Unlearning(method, forget=6, training=SHORT), generator(1))
    fell = (suspicion.similarities(learned, suspects) - suspicion.similarities(result, suspects)).mean()
    other = (suspicion.similarities(learned, kept) - suspicion.similarities(result, kept)).mean()
    if method == "none":
        assert fell < 0.2
    elif method == "ascent":  # which stops at a guess, however similar the pair still is
        assert ascent_term(result, suspects, kept) < 0.5 * ascent_term(learned, suspects, kept)
    elif method != "local":  # the local form lowers the similarity to the marked words
        assert fell > 0.2 and fell > other + 0.1
    assert torch.equal(learned.logit_scale, result.logit_scale)
    assert all(one.requires_grad for one in result.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_local_form_lowers_the_marked_words_similarity(model, pool):
    suspects, kept = pool.subset(torch.arange(6)), pool.subset(torch.arange(16, 48))
    marks = marked_words(word_effects(model, suspects), suspects.ids)
    words = local_texts(suspects.ids, marks)
    result = unlearned(model, suspects, kept, Unlearning(forget=6, training=SHORT), generator(1))

    def mean(network):
        pictures = clip_network.image_embeddings(network, suspects.images)
        return float((pictures * clip_network.text_embeddings(network, words)).sum(1).clamp_min(0).mean())

    assert mean(result) < 0.5 * mean(model) or mean(result) < 0.02


def test_projections_alone_can_be_trained(model, pool):
    suspects, kept = pool.subset(torch.arange(6)), pool.subset(torch.arange(16, 48))
    settings = Unlearning(forget=6, training=SHORT, part="projections")
    result = unlearned(model, suspects, kept, settings, generator(1))
    changed = {
        name
        for (name, old), new in zip(model.named_parameters(), result.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {"visual_projection.weight", "text_projection.weight"}


def test_wrong_settings_are_named(model, pool):
    with pytest.raises(CompanionError, match=r"unlearning 'hope'.*local, whole"):
        Unlearning("hope")
    with pytest.raises(CompanionError, match="forget >= 1"):
        Unlearning(forget=0)
    with pytest.raises(CompanionError, match="no suspicious pair"):
        unlearned(model, pool.subset(torch.arange(0)), pool, Unlearning(training=SHORT), generator(0))
