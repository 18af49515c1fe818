"""Transforms that cut an image into 3x3 random blocks and move pixels about: SIA and BSR.

Both compute, for every pixel of a copy, the pixel that it is taken from; one gather then makes all copies at once.
"""

import math
from dataclasses import dataclass

import torch

from companion.attacks.transfer.draws import Draws
from companion.attacks.transfer.state import Scene

BLOCKS = 3  # in a row and in a column


@dataclass(frozen=True)
class BlockChanges:
    """SIA: each block is shifted (down or across), flipped (either way), turned by 180 degrees, scaled, or noised.

    One of the seven, at random. Shifts go round within the block, scales lie in [0, 1), noise is uniform within eps.
    Source: Wang et al. 2023.
    """

    copies: int = 20

    def __call__(self, points: torch.Tensor, draws: Draws, scene: Scene) -> torch.Tensor:
        """Return (P, m, C, H, W)."""
        height, width = points.shape[2:]
        row_start, row_size, row_block = _cut(draws, self.copies, height)  # (P, m, H)
        column_start, column_size, column_block = _cut(draws, self.copies, width)  # (P, m, W)
        block = row_block[..., None] * BLOCKS + column_block[..., None, :]  # (P, m, H, W)
        change = draws.integers(7, self.copies, BLOCKS**2).gather(2, block.flatten(2)).view_as(block)
        amount = draws.uniform(0, 1, self.copies, BLOCKS**2).gather(2, block.flatten(2)).view_as(block)
        y = _moved(row_start, row_size, change, amount, 0).long()  # (P, m, H, W)
        x = _moved(column_start.unsqueeze(2), column_size.unsqueeze(2), change, amount, 1).long()
        taken = _gathered(points, y * width + x)  # (P, m, C, H, W)
        scale = torch.where(change == 5, amount, 1.0).unsqueeze(2)
        noise = draws.uniform(-scene.budget.eps, scene.budget.eps, self.copies, *points.shape[1:])
        return (taken * scale + noise * (change == 6).unsqueeze(2)).clamp(0, 1)


@dataclass(frozen=True)
class BlockShuffle:
    """BSR: strips are shuffled, in each strip blocks are shuffled, and each block is turned (Wang et al. 2024).

    angle: largest turn, in degrees. What a turn brings in from outside its block is 0. Turned blocks take the nearest
    pixel, and the heights of blocks are the same in all strips.
    """

    copies: int = 20
    angle: float = 24.0

    def __call__(self, points: torch.Tensor, draws: Draws, scene: Scene) -> torch.Tensor:
        """Return (P, m, C, H, W)."""
        height, width = points.shape[2:]
        x, strip, x_middle, x_size = _shuffled(draws, self.copies, width, 1)  # each (P, m, 1, W)
        y, block, y_middle, y_size = _shuffled(draws, self.copies, height, BLOCKS)  # each (P, m, 3, H)
        strips = strip.expand(-1, -1, height, -1)  # (P, m, H, W), the source strip of each pixel
        y, block, y_middle, y_size = (
            part.transpose(2, 3).gather(3, strips) for part in (y, block, y_middle, y_size)
        )  # each (P, m, H, W)
        turn = draws.uniform(-self.angle, self.angle, self.copies, BLOCKS**2) * (math.pi / 180)
        turn = turn.gather(2, (block * BLOCKS + strip).flatten(2)).view_as(y)
        down, across = y - y_middle, x - x_middle
        source_y = y_middle + down * turn.cos() - across * turn.sin()
        source_x = x_middle + down * turn.sin() + across * turn.cos()
        inside = ((source_y - y_middle).abs() <= y_size / 2) & ((source_x - x_middle).abs() <= x_size / 2)
        source_y = source_y.round().clamp(0, height - 1).long()
        source_x = source_x.round().clamp(0, width - 1).long()
        return _gathered(points, source_y * width + source_x) * inside.unsqueeze(2)


def _edges(draws: Draws, copies: int, side: int) -> torch.Tensor:
    """Where blocks begin and the last one ends: (P, m, 4)."""
    cuts = (draws.integers(side - 1, copies, BLOCKS - 1) + 1).sort(-1).values
    ends = torch.zeros_like(cuts[..., :1])
    return torch.cat([ends, cuts, ends + side], dim=-1)


def _cut(draws: Draws, copies: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Start, size and number of the block that each of `side` places lies in: (P, m, side) each."""
    edges = _edges(draws, copies, side)
    places = torch.arange(side, device=edges.device)
    number = (places >= edges[..., 1:-1, None]).sum(-2)  # (P, m, side)
    start = edges.gather(2, number)
    return start, edges.gather(2, number + 1) - start, number


def _moved(start, size, change, amount, axis: int) -> torch.Tensor:
    """The coordinate along `axis` (0: down) from which each pixel (P, m, H, W) is taken."""
    places = torch.arange(change.shape[2 + axis], device=change.device)
    if axis == 0:
        start, size, places = start.unsqueeze(-1), size.unsqueeze(-1), places[:, None]
    local = places - start
    mirrored = (change == 2 + axis) | (change == 4)
    local = torch.where(change == axis, (local + (amount * size).long()) % size, local)
    return start + torch.where(mirrored, size - 1 - local, local)


def _shuffled(draws: Draws, copies: int, side: int, orders: int):
    """Source coordinate, source block, and that block's middle and size, at each place of `orders` shufflings.

    Each is (P, m, orders, side).
    """
    edges = _edges(draws, copies, side).unsqueeze(2)  # (P, m, 1, 4)
    order = draws.orders(BLOCKS, copies, orders)  # (P, m, o, 3): the source block of each slot
    sizes = (edges[..., 1:] - edges[..., :-1]).expand(*order.shape)  # (P, m, o, 3)
    slot_end = sizes.gather(3, order).cumsum(-1)  # (P, m, o, 3)
    places = torch.arange(side, device=edges.device)
    slot = (places >= slot_end[..., :-1, None]).sum(-2)  # (P, m, o, side)
    source = order.gather(3, slot)
    start, size = edges.expand(*order.shape[:-1], -1).gather(3, source), sizes.gather(3, source)
    coordinate = places - (slot_end.gather(3, slot) - size) + start
    return coordinate.to(draws.dtype), source, (start + (size - 1) / 2).to(draws.dtype), size


def _gathered(points: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Pixels of points (P, C, H, W) at flat places `source` (P, m, H, W): (P, m, C, H, W)."""
    count, channels = points.shape[:2]
    copies = source.shape[1]
    index = source.flatten(1).unsqueeze(1).expand(-1, channels, -1)  # (P, C, m H W)
    taken = points.flatten(2).gather(2, index)
    return taken.view(count, channels, copies, *source.shape[2:]).transpose(1, 2)
