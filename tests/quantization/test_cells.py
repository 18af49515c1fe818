"""Cells hold their weights, keep scale and codes whatever is projected into them, and intersect without loss."""

import pytest
import torch

from companion.errors import CompanionError
from companion.quantization.cells import Cell, cell, joint_cell, model_codes, moved_codes, positions
from companion.quantization.networks import build_network
from companion.quantization.quantizers import FBGEMM, QNNPACK, QUANTIZERS, TFLITE
from companion.seeding import generator

SHAPES = [(16, 8, 3, 3), (10, 64)]


def draw(shape, seed):
    stream = generator(seed, "cells")
    return torch.randn(shape, generator=stream) * 0.1, 10 * torch.randn(shape, generator=stream)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_any_move_projected_into_the_joint_cell_keeps_every_code_of_every_rule(shape, seed, bits):
    weight, move = draw(shape, seed)
    rules = [rule.with_bits(bits) for rule in QUANTIZERS.values()]
    moved = joint_cell(weight, rules).project(weight + move)
    for rule in rules:
        assert torch.equal(rule.scale(moved), rule.scale(weight)), "the scale is kept bit by bit"
        assert torch.equal(rule.codes(moved), rule.codes(weight))
    assert (moved != weight).double().mean() > 0.7, "and there is room to move"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_is_in_its_own_cell_and_projection_is_idempotent(shape):
    weight, move = draw(shape, 0)
    room = joint_cell(weight, list(QUANTIZERS.values()))
    assert torch.equal(room.project(weight), weight)
    once = room.project(weight + move)
    assert torch.equal(room.project(once), once)
    assert (room.low <= room.high).all()


def test_a_move_of_less_than_a_cell_is_possible_and_not_more():
    weight, move = draw((16, 8, 3, 3), 1)
    found = cell(weight, FBGEMM).project(weight + move)
    cells = ((found - weight) / FBGEMM.scale(weight)).abs()
    assert 0.9 < cells.max() < 1


def test_boxes_that_hold_the_weight_can_be_clipped_to_in_any_order():
    for seed in range(20):
        weight, move = draw((16, 8, 3, 3), seed)
        boxes = [cell(weight, rule) for rule in (FBGEMM, QNNPACK, TFLITE)]
        forth, back = weight + move, weight + move
        for one, other in zip(boxes, reversed(boxes), strict=True):
            forth, back = one.project(forth), other.project(back)
        for box in boxes:
            assert torch.equal(box.project(forth), forth) and torch.equal(box.project(back), back)
        assert torch.equal(joint_cell(weight, [FBGEMM, QNNPACK, TFLITE]).project(weight + move), forth)


def test_a_weight_in_the_margin_stays_possible():
    weight = torch.tensor([[127.5, 10.4999, -3.5001, 0.0]])  # the scale of FBGEMM is 1
    room = cell(weight, FBGEMM, margin=0.01)
    assert torch.equal(room.project(weight), weight)
    assert room.high[0, 1] == weight[0, 1] and room.low[0, 1] == pytest.approx(9.51)
    assert torch.equal(FBGEMM.codes(room.project(weight - 50)), FBGEMM.codes(weight))


def test_intersection_by_hand():
    one = Cell(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2.0]))
    both = one.intersect(Cell(torch.tensor([1.0, -1.0]), torch.tensor([3.0, 1.0])))
    assert both.low.tolist() == [1, 0] and both.high.tolist() == [2, 1]
    assert both.project(torch.tensor([5.0, -5.0])).tolist() == [2, 0]


def test_codes_of_models_are_compared_one_by_one():
    model = build_network("vgg", 1, 10, generator(0, "a"), width=2)
    codes = model_codes(model, TFLITE)
    assert moved_codes(codes, codes) == 0
    other = {name: code.clone() for name, code in codes.items()}
    other["head"][0, :3] += 1
    assert moved_codes(codes, other) == 3
    with pytest.raises(CompanionError, match="two different architectures"):
        moved_codes(codes, model_codes(build_network("resnet", 1, 10, generator(0, "a"), width=2), TFLITE))
    where = positions(model, FBGEMM)
    assert where.abs().max() <= 0.5 and len(where) == sum(code.numel() for code in codes.values())


def test_bad_margins_and_no_quantizer_are_refused():
    weight, _ = draw((4, 5), 0)
    with pytest.raises(CompanionError, match="expected a share of it in"):
        cell(weight, FBGEMM, margin=0.5)
    with pytest.raises(CompanionError, match="no quantizer was given"):
        joint_cell(weight, [])
    weight[0, 0] = float("nan")
    with pytest.raises(CompanionError, match="not finite"):
        cell(weight, FBGEMM)
