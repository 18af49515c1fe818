"""Hashing without a network: iterative quantisation and random hyperplanes, on fixed features.

ITQ: Gong et al., TPAMI 2013 (the rotation of PCA directions that brings features closest to their signs). LSH:
Charikar, STOC 2002 (signs of random projections).
"""

from dataclasses import dataclass

import torch

from companion.errors import CompanionError
from companion.hashing.heads import check_length


@dataclass(frozen=True)
class LinearHash:
    """A code that is the sign of a linear map: mean (D,), projection (D, bits)."""

    mean: torch.Tensor
    projection: torch.Tensor

    def codes(self, features: torch.Tensor) -> torch.Tensor:
        """Return codes (N, bits) bool of features (N, D)."""
        return (features.double() - self.mean) @ self.projection >= 0


def itq(features: torch.Tensor, bits: int, generator: torch.Generator, iterations: int = 50) -> LinearHash:
    """Fit ITQ to features (N, D): PCA to `bits` directions, then a rotation found by alternating signs and Procrustes.

    Raises CompanionError for a length that is no multiple of 8, and for more bits than directions, min(N, D).
    """
    check_length(bits)
    if bits > min(features.shape):
        raise CompanionError(
            f"ITQ was asked for {bits} bits of features {tuple(features.shape)}: PCA has {min(features.shape)} "
            "directions. Take fewer bits, more images, or wider features."
        )
    values = features.double()
    mean = values.mean(0)
    centred = values - mean
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :bits]  # (D, bits), largest first
    largest = directions.abs().argmax(0)
    directions = directions * directions[largest, torch.arange(bits)].sign()  # an eigenvector's sign is arbitrary
    reduced = centred @ directions  # (N, bits)
    start = torch.randn(bits, bits, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(start).Q
    for _ in range(iterations):
        signs = torch.where(reduced @ rotation >= 0, 1.0, -1.0).double()
        left, _, right = torch.linalg.svd(reduced.T @ signs)
        rotation = left @ right
    return LinearHash(mean, directions @ rotation)


def lsh(features: torch.Tensor, bits: int, generator: torch.Generator) -> LinearHash:
    """Return random hyperplanes through the mean of features (N, D); bits is a multiple of 8, else CompanionError."""
    check_length(bits)
    planes = torch.randn(features.shape[1], bits, generator=generator, dtype=torch.float64)
    return LinearHash(features.double().mean(0), planes)
