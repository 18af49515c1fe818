"""Key streams: a seed of 16 bytes becomes one bit for every weight of a network, by SHAKE-128.

The stream of a layer is SHAKE128("companion.rbnn.key" || seed || layer's name) (FIPS 202, from hashlib); bit 1 leaves a
weight, bit 0 flips it. So the device keeps 128 bits a task, whatever the size of the network.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from companion.binary.networks import KeyedNetwork
from companion.errors import CompanionError

SEED_BYTES = 16
_DOMAIN = b"companion.rbnn.key"

KeyBits = dict[str, np.ndarray]
"""Key bits (0 and 1, uint8) of each layer by name, in the shape of its weights."""


def check_length(value: bytes, length: int, what: str) -> None:
    """Raise CompanionError unless `value` is `length` bytes."""
    if not isinstance(value, bytes) or len(value) != length:
        found = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise CompanionError(f"{what}: found {found}; expected {length} bytes ({8 * length} bits).")


def expand(seed: bytes, layer: str, count: int) -> np.ndarray:
    """Return `count` key bits (uint8, 0 and 1) of one layer. Raises CompanionError for a seed of another length."""
    check_length(seed, SEED_BYTES, "seed of a key stream")
    digest = hashlib.shake_128(_DOMAIN + seed + layer.encode()).digest((count + 7) // 8)
    return np.unpackbits(np.frombuffer(digest, dtype=np.uint8), count=count)


def key_bits(network: KeyedNetwork, seed: bytes) -> KeyBits:
    """Return the key bits of every layer of a network."""
    return {
        name: expand(seed, name, layer.weight.numel()).reshape(layer.weight.shape)
        for name, layer in network.layers().items()
    }


def configure(network: KeyedNetwork, task: int, key: bytes | Mapping[str, np.ndarray] | None) -> KeyedNetwork:
    """Set the key of one task, in place, and return the network.

    key: a seed, key bits, or None for no key (all +1). The stored weights do not change.
    """
    bits = key_bits(network, key) if isinstance(key, bytes) else key
    for name, layer in network.layers().items():
        signs = None
        if bits is not None:
            signs = torch.from_numpy(2 * bits[name].astype(np.float32) - 1).to(layer.weight.device)
        layer.keys[task] = signs
    return network


def configure_all(network: KeyedNetwork, seeds: Sequence[bytes | None]) -> KeyedNetwork:
    """Set the keys of all tasks from their seeds; see `configure`."""
    if len(seeds) != network.tasks:
        raise CompanionError(f"{len(seeds)} seeds for a network with {network.tasks} tasks: expected one a task.")
    for task, seed in enumerate(seeds):
        configure(network, task, seed)
    return network


def flip_share(bits: Mapping[str, np.ndarray], share: float, generator: torch.Generator) -> KeyBits:
    """Return key bits of which a share in [0, 1], drawn anew in each layer, is flipped."""
    if not 0 <= share <= 1:
        raise CompanionError(f"a share of {share} flipped key bits: expected a number from 0 to 1.")
    found = {}
    for name, values in bits.items():
        chosen = torch.randperm(values.size, generator=generator)[: round(share * values.size)].numpy()
        flipped = values.flatten()
        flipped[chosen] ^= 1
        found[name] = flipped.reshape(values.shape)
    return found


def flip_seed_bit(seed: bytes, bit: int) -> bytes:
    """Return the seed with one of its 128 bits flipped."""
    check_length(seed, SEED_BYTES, "seed of a key stream")
    changed = bytearray(seed)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def random_bytes(count: int, generator: torch.Generator) -> bytes:
    """Return reproducible bytes for the simulation; a product takes them from `secrets.token_bytes`."""
    return bytes(torch.randint(256, (count,), generator=generator).tolist())
