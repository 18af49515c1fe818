"""Files of a reconfigurable binary network: one with a bit for each weight, and a small one for each task.

Weights file: "RBNW", the length of a JSON header, the header (architecture and shapes), the packed bits of all layers
one after the other, the float32 channel scales if there are any, and a SHA-256 of all that. Task file: "RBNT", the
wrapped seed of the task's key, its float32 tensors, and a SHA-256. Numbers are little-endian.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import torch

from companion.binary.keys import SEED_BYTES, check_length
from companion.binary.layers import stored_bits
from companion.binary.networks import KeyedNetwork
from companion.errors import CompanionError

_WEIGHTS, _TASK, _DIGEST = b"RBNW", b"RBNT", 32


def save_weights(network: KeyedNetwork, path: Path) -> int:
    """Write the shared binary weights of a network; return the file's size in bytes."""
    layers = network.layers()
    header = {"layers": {name: list(layer.weight.shape) for name, layer in layers.items()}}
    text = json.dumps(header, separators=(",", ":")).encode()
    bits = torch.cat([stored_bits(layer.weight).cpu() for layer in layers.values()]).numpy()
    content = _WEIGHTS + struct.pack("<I", len(text)) + text + np.packbits(bits).tobytes()
    content += b"".join(_floats(scale) for scale in network.scales().values())
    return _write(path, content)


def load_weights(network: KeyedNetwork, path: Path) -> None:
    """Put the weights of a file into a network: W becomes -1 and +1.

    Raises CompanionError for a damaged file and for one of another network.
    """
    content = _read(path, _WEIGHTS)
    (length,) = struct.unpack("<I", content[4:8])
    shapes = json.loads(content[8 : 8 + length])["layers"]
    layers, scales = network.layers(), network.scales()
    expected = {name: list(layer.weight.shape) for name, layer in layers.items()}
    if shapes != expected:
        raise CompanionError(f"{path} holds the layers {shapes}; the network has {expected}. Build the network alike.")
    packed = np.frombuffer(content[8 + length :], dtype=np.uint8)
    count = network.binary_weights()
    bits = np.unpackbits(packed, count=count)
    values = torch.from_numpy(2 * bits.astype(np.float32) - 1)
    floats = np.frombuffer(packed[(count + 7) // 8 :].tobytes(), dtype="<f4")
    for layer, part in zip(layers.values(), values.split([one.weight.numel() for one in layers.values()]), strict=True):
        layer.weight.data = part.view_as(layer.weight).to(layer.weight.device)
    offset = 0
    for name, scale in scales.items():
        part = torch.from_numpy(floats[offset : offset + scale.numel()].copy())
        layers[name].scale = part.view_as(scale).to(scale.device)
        offset += scale.numel()


def save_task(network: KeyedNetwork, task: int, wrapped_seed: bytes, path: Path) -> int:
    """Write what one task has for itself, its wrapped seed included; return the file's size in bytes."""
    check_length(wrapped_seed, SEED_BYTES, "wrapped seed of a task file")
    return _write(path, _TASK + wrapped_seed + b"".join(_floats(v) for v in network.task_tensors(task).values()))


def load_task(network: KeyedNetwork, task: int, path: Path) -> bytes:
    """Put the tensors of a task file into a network and return the wrapped seed; see `load_weights` for errors."""
    content = _read(path, _TASK)
    tensors = network.task_tensors(task)
    floats = np.frombuffer(content[4 + SEED_BYTES :], dtype="<f4")
    count = sum(values.numel() for values in tensors.values())
    if len(floats) != count:
        raise CompanionError(f"{path} holds {len(floats)} numbers; a task of this network has {count}.")
    offset = 0
    for values in tensors.values():
        part = torch.from_numpy(floats[offset : offset + values.numel()].copy())
        values.copy_(part.view_as(values))
        offset += values.numel()
    return content[4 : 4 + SEED_BYTES]


def _floats(values: torch.Tensor) -> bytes:
    return values.detach().cpu().numpy().astype("<f4").tobytes()


def _write(path: Path, content: bytes) -> int:
    path.write_bytes(content + hashlib.sha256(content).digest())
    return path.stat().st_size


def _read(path: Path, magic: bytes) -> bytes:
    content = path.read_bytes()
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if body[:4] != magic:
        raise CompanionError(f"{path} begins with {body[:4]!r}; expected {magic!r}. Is it another kind of file?")
    if hashlib.sha256(body).digest() != digest:
        raise CompanionError(f"{path} is damaged: its SHA-256 is not the one at its end. Copy it again.")
    return body
