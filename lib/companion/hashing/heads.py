"""Hash heads: the small networks that turn a pooled feature into a code, many of them side by side.

A head is LayerNorm, linear, ReLU, linear, tanh, sign, as in the official code of weighted contrastive hashing (Yu et
al., 2022). Heads of one bank see the same batches and never each other, so a bank of S heads trains as S heads alone
would, in a fraction of the time.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError


class HeadBank(nn.Module):
    """S hash heads on features of D numbers.

    width: D; hidden: numbers of the layer between; lengths: bits of each head, multiples of 8; generators: one for each
    head, which draws its initial weights (uniform with fan-out scaling, after He et al., 2015; biases standard normal).
    Raises CompanionError for a code length that is not a positive multiple of 8.
    """

    def __init__(self, width: int, hidden: int, lengths: Sequence[int], generators: Sequence[torch.Generator]):
        super().__init__()
        for bits in lengths:
            check_length(bits)
        longest = max(lengths)
        drawn = [_initial(width, hidden, bits, rng) for bits, rng in zip(lengths, generators, strict=True)]
        self.register_buffer("lengths", torch.tensor(lengths))
        self.scale = nn.Parameter(torch.ones(len(lengths), 1, width))
        self.shift = nn.Parameter(torch.zeros(len(lengths), 1, width))
        self.weight1 = nn.Parameter(torch.stack([head[0] for head in drawn]))  # (S, D, hidden)
        self.bias1 = nn.Parameter(torch.stack([head[1] for head in drawn]).unsqueeze(1))  # (S, 1, hidden)
        padded = [F.pad(head[2], (0, longest - head[2].shape[1])) for head in drawn]
        self.weight2 = nn.Parameter(torch.stack(padded))  # (S, hidden, longest)
        padded = [F.pad(head[3], (0, longest - len(head[3]))) for head in drawn]
        self.bias2 = nn.Parameter(torch.stack(padded).unsqueeze(1))  # (S, 1, longest)
        mask = torch.arange(longest) < self.lengths.view(-1, 1, 1)
        self.register_buffer("mask", mask.float(), persistent=False)  # (S, 1, longest)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return activations tanh(v) (S, B, longest), zero behind a head's last bit, of features (S, B, D)."""
        normed = F.layer_norm(features, features.shape[-1:], eps=1e-6) * self.scale + self.shift
        hidden = torch.baddbmm(self.bias1, normed, self.weight1).relu()
        return torch.baddbmm(self.bias2, hidden, self.weight2).tanh() * self.mask

    @torch.no_grad()
    def codes(self, features: torch.Tensor, batch_size: int = 1000) -> list[torch.Tensor]:
        """Return the code of every feature (N, D) by every head: (N, bits) bool on the CPU, one tensor a head."""
        heads, parts = len(self.lengths), []
        for batch in features.to(self.scale.device).split(batch_size):
            parts.append((self(batch.expand(heads, *batch.shape)) >= 0).cpu())
        found = torch.cat(parts, dim=1)  # (S, N, longest)
        return [codes[:, :bits] for codes, bits in zip(found, self.lengths.tolist(), strict=True)]


def check_length(bits: int) -> None:
    """Raise CompanionError unless a code of so many bits fills whole bytes."""
    if bits < 8 or bits % 8:
        raise CompanionError(
            f"a code of {bits} bits does not fill whole bytes: expected a positive multiple of 8, such as 16, 32 or 64."
        )


def _initial(width: int, hidden: int, bits: int, rng: torch.Generator) -> list[torch.Tensor]:
    drawn = []
    for inputs, outputs in ((width, hidden), (hidden, bits)):
        bound = math.sqrt(6 / outputs)
        drawn.append((2 * torch.rand(inputs, outputs, generator=rng) - 1) * bound)
        drawn.append(torch.randn(outputs, generator=rng))
    return drawn
