"""The contrastive objectives against sums written out by hand, and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.multimodal import contrastive


def unit(rows, width, seed):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_symmetric_loss_by_hand():
    images, texts = unit(3, 5, 0), unit(3, 5, 1)
    logits = (7.0 * images @ texts.T).tolist()
    total = 0.0
    for i in range(3):
        row = sum(math.exp(value) for value in logits[i])
        column = sum(math.exp(logits[j][i]) for j in range(3))
        total -= math.log(math.exp(logits[i][i]) / row) + math.log(math.exp(logits[i][i]) / column)
    assert float(contrastive.symmetric_loss(images, texts, 7.0)) == pytest.approx(total / 6, rel=1e-5)
    same = contrastive.symmetric_loss(texts, images, 7.0)
    assert float(same) == pytest.approx(total / 6, rel=1e-5), "the two modalities count alike"


def test_pairs_that_cannot_be_told_apart_cost_log_n():
    alike = unit(1, 4, 2).repeat(6, 1)
    assert float(contrastive.symmetric_loss(alike, alike, 50.0)) == pytest.approx(math.log(6), rel=1e-5)
    assert float(contrastive.self_supervision(alike, alike, alike, alike, 9.0)) == pytest.approx(math.log(6), rel=1e-5)


def test_self_supervision_goes_one_way_in_each_modality():
    z, z_changed, t, t_changed = (unit(4, 6, seed) for seed in range(4))
    own = torch.arange(4)
    wanted = (F.cross_entropy(3 * z @ z_changed.T, own) + F.cross_entropy(3 * t @ t_changed.T, own)) / 2
    assert float(contrastive.self_supervision(z, z_changed, t, t_changed, 3.0)) == pytest.approx(float(wanted))


def test_the_sub_text_term_by_hand_and_what_each_form_moves():
    images, near, far = (unit(3, 5, seed) for seed in range(3))
    total = 0.0
    for i in range(3):
        own = math.exp(4 * float(images[i] @ near[i]))
        rest = math.exp(4 * float(images[i] @ far[i])) + sum(math.exp(4 * float(images[i] @ p)) for p in near)
        total -= math.log(own / rest)
    assert float(contrastive.sub_text_loss(images, near, far, 4.0, "both")) == pytest.approx(total / 3, rel=1e-5)
    for form, moved in (("both", (1, 1)), ("positive", (1, 0)), ("negative", (0, 1))):
        p, n = near.clone().requires_grad_(), far.clone().requires_grad_()
        loss = contrastive.sub_text_loss(images, p, n, 4.0, form)
        found = torch.autograd.grad(loss, [p, n], allow_unused=True)
        assert tuple(int(g is not None and bool(g.abs().sum() > 0)) for g in found) == moved
    assert float(contrastive.sub_text_loss(near, near, -near, 4.0, "margin")) == 0.0
    with pytest.raises(CompanionError, match="sub-text form 'all'"):
        contrastive.sub_text_loss(images, near, far, 4.0, "all")


def test_one_pair_and_unlike_shapes_are_refused():
    with pytest.raises(CompanionError, match=r"at least|N >= 2"):
        contrastive.symmetric_loss(unit(1, 4, 0), unit(1, 4, 1), 1.0)
    with pytest.raises(CompanionError, match="same shape"):
        contrastive.one_way_loss(unit(3, 4, 0), unit(4, 4, 1), 1.0)


def test_the_scale_is_kept_in_its_range():
    model = torch.nn.Module()
    model.logit_scale = torch.nn.Parameter(torch.tensor(9.0))
    contrastive.clamp_scale(model)
    assert float(model.logit_scale.exp().detach()) == pytest.approx(100, rel=1e-3)
    with torch.no_grad():
        model.logit_scale.fill_(-2.0)
    contrastive.clamp_scale(model)
    assert float(model.logit_scale.detach()) == 0.0
