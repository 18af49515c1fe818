"""Named shares of a split (attacker and defender halves, validation parts) by a rule that any program can repeat."""

import hashlib

import torch

from companion.data.manifest import Split


def share_indices(labels: torch.Tensor, split: Split) -> torch.Tensor:
    """Return the positions that belong to the share `split`, ascending.

    Within each class the images, in their order, are cut into blocks of `split.block` (1 unless neighbouring images
    show the same object); the blocks are put in the order of sha256("<seed>/<class>/<block number>") and those from
    share[0] to share[1] of the way are taken. Shares of one seed that touch, such as [0, 0.5] and [0.5, 1], are
    disjoint and leave nothing out, and every class keeps its proportion.

    labels: (N,) int64. Returns (M,) int64.

    >>> share_indices(torch.zeros(4, dtype=torch.int64), Split(of="train", share=(0.0, 0.5))).tolist()
    [0, 1]
    """
    taken = [torch.empty(0, dtype=torch.int64)]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        blocks = -(-len(members) // split.block)
        order = sorted(range(blocks), key=lambda k: hashlib.sha256(f"{split.seed}/{label}/{k}".encode()).digest())
        low, high = (int(bound * blocks + 0.5) for bound in split.share)
        chosen = torch.zeros(blocks, dtype=torch.bool)
        chosen[order[low:high]] = True
        taken.append(members[chosen.repeat_interleave(split.block)[: len(members)]])
    return torch.cat(taken).sort().values
