"""Suspicion of pairs: scores against oracles, and that detection leaves the victim as it was."""

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal import clip_network, suspicion
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.contrastive import symmetric_loss
from companion.multimodal.pairs import draw_pairs, tokenizer
from companion.seeding import generator

SIZE = clip_network.ClipSize(width=16, hidden=16, vision_layers=1, text_layers=1, heads=2, joint=8)


@pytest.fixture(scope="module")
def model():
    return clip_network.build_clip(SIZE, tokenizer(), generator(0, "weights"))


@pytest.fixture(scope="module")
def pool():
    return draw_pairs(40, "attacker", 0)


def test_auroc_counts_pairs_of_rows_and_ties_half():
    stream = generator(0)
    scores, positive = torch.randint(0, 6, (60,), generator=stream).float(), torch.rand(60, generator=stream) < 0.3
    yes, no = scores[positive][:, None], scores[~positive][None]
    counted = ((yes > no).double() + 0.5 * (yes == no).double()).mean()
    assert suspicion.auroc(scores, positive) == pytest.approx(float(counted), abs=1e-12)
    assert suspicion.auroc(-scores, positive) == pytest.approx(1 - float(counted), abs=1e-12)
    with pytest.raises(CompanionError, match="0 positive and 60 negative"):
        suspicion.auroc(scores, torch.zeros(60, dtype=torch.bool))


def test_precision_and_recall_count_the_first_rows():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7])
    positive = torch.tensor([True, True, False, True])
    assert suspicion.most_suspicious(scores, 3).tolist() == [1, 3, 2]
    precision, recall = suspicion.precision_at(scores, positive, 3), suspicion.recall_at(scores, positive, 3)
    assert (precision.successes, precision.n) == (2, 3) and (recall.successes, recall.n) == (2, 3)
    with pytest.raises(CompanionError, match="the 5 most suspicious of 4"):
        suspicion.most_suspicious(scores, 5)


def test_weak_rows_are_the_lowest():
    similarity = torch.tensor([0.3, -0.2, 0.8, 0.1, 0.0])
    assert suspicion.weak_rows(similarity, 0.4).tolist() == [1, 4]
    assert len(suspicion.weak_rows(similarity, 0.01)) == 2
    with pytest.raises(CompanionError, match=r"share of weak pairs is 0"):
        suspicion.Overfitting(share=0.0)


def test_similarities_are_cosines_of_rows(model, pool):
    found = suspicion.similarities(model, pool)
    by_hand = torch.cosine_similarity(
        clip_network.image_embeddings(model, pool.images), clip_network.text_embeddings(model, pool.ids)
    )
    torch.testing.assert_close(found, by_hand)


def test_pair_losses_mean_the_clip_loss():
    z, t = (torch.nn.functional.normalize(torch.randn(9, 5, generator=generator(i)), dim=1) for i in (0, 1))
    losses = suspicion.pair_losses(z, t, 14.0)
    assert losses.shape == (9,) and float(losses.mean()) == pytest.approx(float(symmetric_loss(z, t, 14.0)), rel=1e-6)


def test_overfitting_raises_the_weak_pairs_and_leaves_the_model(model, pool):
    before = [one.clone() for one in model.parameters()]
    settings = suspicion.Overfitting(0.4, ClipTraining(epochs=30, batch_size=16, learning_rate=5e-3, warmup=0))
    weak = pool.subset(suspicion.weak_rows(suspicion.similarities(model, pool), settings.share))
    strong, again = (suspicion.overfitted(model, weak, settings, generator(0)) for _ in range(2))
    gain = suspicion.similarities(strong, weak) - suspicion.similarities(model, weak)
    assert gain.mean() > 0.05
    assert torch.equal(suspicion.similarities(strong, pool), suspicion.similarities(again, pool))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_isolation_holds_losses_at_gamma_and_gives_every_pair_one(model, pool):
    training = ClipTraining(epochs=25, batch_size=20, learning_rate=5e-3, warmup=0)
    losses = {
        gamma: suspicion.isolation_losses(
            model, pool, suspicion.Isolation(gamma, training), generator(0), batch_size=20
        )
        for gamma in (0.0, 2.5)
    }
    assert losses[0.0].shape == (40,) and torch.isfinite(losses[0.0]).all()
    assert losses[0.0].mean() < losses[2.5].mean() and losses[2.5].mean() > 2.0
