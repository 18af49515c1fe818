"""Random generators that are derived from a run's seed and a name, so that no stream depends on another's use."""

import hashlib

import torch


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed in [0, 2**63) for the stream called `names` of a run.

    The same arguments give the same seed on every machine and Python version.

    >>> derive_seed(0, "poison") == derive_seed(0, "poison")
    True
    >>> derive_seed(0, "poison") == derive_seed(0, "training")
    False
    """
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a fresh `torch.Generator` seeded with `derive_seed(seed, *names)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
