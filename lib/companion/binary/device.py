"""Devices: a simulated SRAM PUF, a fuzzy extractor for its noisy bits, and keys that need user and device together.

Hashing is hashlib's and hmac's. The fuzzy extractor is the code-offset construction of Dodis, Ostrovsky, Reyzin and
Smith (2008) with a concatenated code, Golay outside and repetition inside, as Boesch et al. (2008) proposed for PUFs.
"""

import hmac
import math
from dataclasses import dataclass

import numpy as np
import torch

from companion.binary import golay
from companion.binary.keys import SEED_BYTES, check_length, random_bytes
from companion.errors import CompanionError

USER_BYTES = 16
ROOT_BYTES = 32
BLOCKS, REPEATS = 11, 7  # 11 * 12 = 132 secret bits
CELLS = BLOCKS * golay.LENGTH * REPEATS
_MAGIC, _TAG = b"RBNH", 32


@dataclass(frozen=True)
class Puf:
    """A simulated SRAM PUF: what each cell holds after power-up, and how often a cell comes up wrong.

    reference: (CELLS,) bool, uniform and independent, the device's fingerprint; noise: chance of each cell to be
    flipped in a read, independently. Real cells are biased and their errors are not independent.
    """

    reference: np.ndarray
    noise: float = 0.1

    @classmethod
    def made(cls, generator: torch.Generator, noise: float = 0.1) -> "Puf":
        """Return a new device. Raises CompanionError unless 0 <= noise < 0.5."""
        if not 0 <= noise < 0.5:
            raise CompanionError(f"a PUF with read noise {noise}: expected 0 to below 0.5 (SRAM: 0.05 to 0.15).")
        return cls(torch.randint(2, (CELLS,), generator=generator).bool().numpy(), noise)

    def read(self, generator: torch.Generator) -> np.ndarray:
        """Return one noisy read, (CELLS,) bool."""
        return self.reference ^ (torch.rand(CELLS, generator=generator) < self.noise).numpy()


@dataclass(frozen=True)
class Helper:
    """Public helper data: code word XOR fingerprint, and a tag that shows tampering."""

    offset: bytes
    tag: bytes

    def to_bytes(self) -> bytes:
        """Return the helper string as it lies on the device."""
        return _MAGIC + self.offset + self.tag

    @classmethod
    def from_bytes(cls, content: bytes) -> "Helper":
        """Read a helper string; raises CompanionError for another length or beginning."""
        size = (CELLS + 7) // 8
        if len(content) != len(_MAGIC) + size + _TAG or content[:4] != _MAGIC:
            raise CompanionError(
                f"helper string of {len(content)} bytes that begins with {content[:4]!r}: expected "
                f"{len(_MAGIC) + size + _TAG} bytes beginning with {_MAGIC!r}. It was cut or is "
                "something else; enroll the device again."
            )
        return cls(content[4 : 4 + size], content[4 + size :])


def hkdf(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes by HKDF-SHA-256: extract with `salt`, expand with `info` (RFC 5869), length <= 8160."""
    if not 1 <= length <= 255 * 32:
        raise CompanionError(f"HKDF was asked for {length} bytes; expected 1 to {255 * 32}.")
    pseudorandom = hmac.digest(salt or bytes(32), material, "sha256")
    block, found = b"", b""
    for counter in range(1, math.ceil(length / 32) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([counter]), "sha256")
        found += block
    return found[:length]


def enroll(puf: Puf, generator: torch.Generator) -> tuple[bytes, Helper]:
    """Return the root key (32 bytes) of a device and its public helper data; done once, by the provider."""
    secret = torch.randint(1 << golay.DIMENSION, (BLOCKS,), generator=generator).numpy()
    offset = np.packbits(_code_bits(secret) ^ puf.reference).tobytes()
    return _derive(secret, b"root"), Helper(offset, _tag(secret, offset))


def reproduce(read: np.ndarray, helper: Helper, *, verify: bool = True) -> bytes:
    """Return the root key from a noisy read (CELLS,) bool and the helper data.

    Raises CompanionError if the tag does not fit: another device, a read with too many errors, or tampered helper data
    cannot be told apart. verify=False returns whatever key comes out, which is what a thief's device computes.
    """
    if read.shape != (CELLS,):
        raise CompanionError(f"a PUF read of shape {read.shape}: expected ({CELLS},) bits.")
    noisy = np.unpackbits(np.frombuffer(helper.offset, np.uint8), count=CELLS).astype(bool) ^ read
    votes = noisy.reshape(BLOCKS, golay.LENGTH, REPEATS).sum(2) > REPEATS // 2
    secret = golay.decode(votes @ (1 << np.arange(golay.LENGTH)[::-1]))
    if verify and not hmac.compare_digest(_tag(secret, helper.offset), helper.tag):
        raise CompanionError(
            "the root key cannot be reproduced: the helper string was tampered with, belongs to another device, or the "
            "read had more errors than the code corrects. Read again; if that fails, enroll the device again."
        )
    return _derive(secret, b"root")


def _code_bits(secret: np.ndarray) -> np.ndarray:
    words = golay.encode(secret)
    bits = words[:, None] >> np.arange(golay.LENGTH)[::-1] & 1  # (BLOCKS, 23), first bit first
    return np.repeat(bits.reshape(-1), REPEATS).astype(bool)


def _derive(secret: np.ndarray, purpose: bytes) -> bytes:
    return hkdf(secret.astype("<u2").tobytes(), b"companion.rbnn.puf", purpose, ROOT_BYTES)


def _tag(secret: np.ndarray, offset: bytes) -> bytes:
    return hmac.digest(_derive(secret, b"tag"), offset, "sha256")


def failure_rate(noise: float) -> float:
    """Return the exact chance that a read is not corrected, if each cell errs independently with chance `noise`."""
    wrong = _more_than(REPEATS // 2, REPEATS, noise)  # a majority of the repeats
    return 1 - (1 - _more_than(golay.CORRECTS, golay.LENGTH, wrong)) ** BLOCKS


def _more_than(most: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(most + 1, n + 1))


def count_failures(puf: Puf, helper: Helper, root: bytes, reads: int, generator: torch.Generator) -> int:
    """Return how many of `reads` noisy reads do not give the root key."""
    return sum(reproduce(puf.read(generator), helper, verify=False) != root for _ in range(reads))


def wrap(seed: bytes, user: bytes, root: bytes, task: int) -> bytes:
    """Return seed XOR KDF(user, root, task), 16 bytes: what the provider leaves on the device for a paid task.

    Raises CompanionError for a seed, user key or root key of another length. The same function unwraps.
    """
    check_length(seed, SEED_BYTES, "seed of a key stream")
    check_length(user, USER_BYTES, "user key")
    check_length(root, ROOT_BYTES, "root key of a device")
    mask = hkdf(root, user, b"companion.rbnn.task %d" % task, SEED_BYTES)
    return bytes(a ^ b for a, b in zip(seed, mask, strict=True))


unwrap = wrap


def new_seed(generator: torch.Generator) -> bytes:
    """Return a reproducible seed of a key stream for the simulation."""
    return random_bytes(SEED_BYTES, generator)
