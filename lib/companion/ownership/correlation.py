"""Sample correlation: how a model's outputs on a set of samples relate to one another (Guan et al. 2022, 2024).

Two models may have different numbers of outputs, even different tasks; their correlation matrices over the same
samples have one shape and can be compared. Outputs are logits or embeddings, not probabilities: near one-hot vectors
would leave only "same class" and "other class".
"""

import torch
import torch.nn.functional as F

from companion.errors import CompanionError

KINDS = ("cosine", "rbf")


def check_outputs(outputs: torch.Tensor, name: str = "outputs") -> None:
    """Raise CompanionError unless `outputs` is (N, K) of floats, N >= 2, finite, and not all rows are equal."""
    if outputs.ndim != 2 or not outputs.is_floating_point():
        raise CompanionError(
            f"{name} have shape {tuple(outputs.shape)} and dtype {outputs.dtype}: expected (N, K) floats, one row of "
            "logits or an embedding for each query sample."
        )
    if len(outputs) < 2:
        raise CompanionError(f"{name} are of {len(outputs)} query samples: a correlation needs at least 2. Query more.")
    if not torch.isfinite(outputs).all():
        raise CompanionError(f"{name} hold numbers that are not finite: look at the model that gave them.")
    if not (outputs != outputs[0]).any():
        raise CompanionError(
            f"{name} have zero variance: all {len(outputs)} samples get the same vector, so their relations say "
            "nothing. The model may be broken (pruned too far?), or the samples are copies of one."
        )


def correlation(outputs: torch.Tensor, kind: str = "cosine") -> torch.Tensor:
    """Return the correlation matrix C (N, N) float64 of a model's outputs (N, K) on N samples.

    kind: "cosine": C_ij = 1 - cos(o_i, o_j), the default of the official code; "rbf": exp(-|u_i - u_j|^2) with u the
    outputs scaled to length 1. An output of zeros, as a pruned network may give, has no direction: its cosine with
    every other sample counts as 0.
    Raises CompanionError for another kind and for outputs that have no correlation (`check_outputs`).

    >>> correlation(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    check_outputs(outputs)
    if kind not in KINDS:
        raise CompanionError(f"unknown correlation {kind!r}: expected one of {', '.join(KINDS)}.")
    unit = F.normalize(outputs.double(), dim=1)  # (N, K)
    cosines = (unit @ unit.T).clamp(-1, 1)  # (N, N)
    cosines.fill_diagonal_(1)
    return 1 - cosines if kind == "cosine" else torch.exp(2 * cosines - 2)  # |u_i - u_j|^2 = 2 - 2 cos


def correlation_distance(source: torch.Tensor, suspect: torch.Tensor) -> float:
    """Return d = mean over i, j of |C(suspect)_ij - C(source)_ij|; small means that the suspect was stolen.

    source, suspect: correlation matrices (N, N) over the same samples. Raises CompanionError if the shapes differ.
    """
    if source.shape != suspect.shape or source.ndim != 2:
        raise CompanionError(
            f"correlation matrices of shapes {tuple(source.shape)} and {tuple(suspect.shape)}: expected twice (N, N) "
            "over the same query samples. Query both models with the same images."
        )
    return float((source - suspect).abs().mean())
