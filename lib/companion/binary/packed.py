"""Inference with packed bits: 64 weights in a machine word, products by XOR, sums by counting bits.

For a, b in {-1, +1}^K stored as bits, a . b = K - 2 popcount(a XOR b). Zero padding is not a sign: it is computed as
-1, and the weights that saw it are added back. The first layer's 8-bit pixels are eight planes of bits x_j:
x . w = sum_j 2^j (2 popcount(x_j AND w) - popcount(x_j)). All sums are integers, so they equal the float emulation's.
"""

from copy import deepcopy

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from companion.binary.keys import KeyBits
from companion.binary.layers import KeyedConv, convolve, stored_bits
from companion.binary.networks import KeyedNetwork

_WORD = np.uint64


def pack(bits: np.ndarray) -> np.ndarray:
    """Return bits (..., K), 0 and 1 uint8, packed into uint64 words (..., ceil(K / 64)); unused bits are 0."""
    octets = np.packbits(bits, axis=-1)
    missing = -octets.shape[-1] % 8
    if missing:
        octets = np.concatenate([octets, np.zeros((*octets.shape[:-1], missing), np.uint8)], axis=-1)
    return np.ascontiguousarray(octets).view(_WORD)


def unpack(words: np.ndarray, count: int) -> np.ndarray:
    """Return the first `count` bits of packed words (..., W): the inverse of `pack`."""
    return np.unpackbits(words.view(np.uint8), axis=-1, count=count)


def xnor_dot(a: np.ndarray, b: np.ndarray, length: int) -> np.ndarray:
    """Return the dot products (N, O) int32 of rows of signs, a (N, W) and b (O, W) packed, of `length` signs each."""
    differing = np.zeros((len(a), len(b)), np.int32)
    for word in range(a.shape[1]):
        differing += np.bitwise_count(a[:, word, None] ^ b[None, :, word])
    return length - 2 * differing


def _and_dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return sum x * w (N, O) int32 of rows of 0/1 x = a (N, W) and of signs w = b (O, W), both packed."""
    both = np.zeros((len(a), len(b)), np.int32)
    ones = np.zeros(len(a), np.int32)
    for word in range(a.shape[1]):
        both += np.bitwise_count(a[:, word, None] & b[None, :, word])
        ones += np.bitwise_count(a[:, word])
    return 2 * both - ones[:, None]


class PackedConv(nn.Module):
    """A `KeyedConv` of one task in packed bits; `forward` returns the same numbers as the float layer, bit for bit.

    key: the task's key bits of this layer in the weights' shape, or None. pixels: whether the inputs are 8-bit pixels
    in 256ths instead of signs.
    """

    def __init__(self, layer: KeyedConv, key: np.ndarray | None, pixels: bool):
        super().__init__()
        shape = layer.weight.shape  # (O, C, k, k)
        stored = pack(stored_bits(layer.weight).cpu().numpy().astype(np.uint8).reshape(shape[0], -1))
        self.length = shape[1] * shape[2] * shape[3]
        self.words = stored
        if key is not None:  # stored XNOR key; the unused bits of the last word stay 0
            self.words = ~(stored ^ pack(key.reshape(shape[0], -1))) & pack(np.ones(self.length, np.uint8))
        self.kernel, self.stride, self.padding, self.pixels = shape[2], layer.stride, layer.padding, pixels
        self.outputs, self.inputs = shape[:2]
        scale = layer.channel_scale()
        self.scale = None if scale is None else scale.cpu()
        self._corrections: dict[tuple[int, int], np.ndarray] = {}

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return (N, O, H', W') float32 for x (N, C, H, W) on the CPU."""
        found = self._pixels(x) if self.pixels else self._signs(x)
        return found if self.scale is None else found * self.scale

    def _patches(self, bits: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Cut bits (N, C, H, W) into packed patches (N H' W', words)."""
        edge = [(0, 0), (0, 0), (self.padding, self.padding), (self.padding, self.padding)]
        windows = sliding_window_view(np.pad(bits, edge), (self.kernel, self.kernel), axis=(2, 3))
        windows = windows[:, :, :: self.stride, :: self.stride].transpose(0, 2, 3, 1, 4, 5)  # (N, H', W', C, k, k)
        return pack(windows.reshape(-1, self.length)), windows.shape[1:3]

    def _signs(self, x: torch.Tensor) -> torch.Tensor:
        patches, size = self._patches((x.numpy() > 0).view(np.uint8))
        dots = xnor_dot(patches, self.words, self.length).reshape(len(x), *size, self.outputs)
        if self.padding:
            dots = dots + self._correction(x.shape[2:], size)
        return torch.from_numpy(dots.transpose(0, 3, 1, 2).astype(np.float32))

    def _correction(self, shape: torch.Size, size: tuple[int, int]) -> np.ndarray:
        """Sums of the weights that saw padding, (H', W', O)."""
        if tuple(shape) not in self._corrections:
            inside = np.ones((1, self.inputs, *shape), np.uint8)
            patches, _ = self._patches(inside)
            outside = 1 - unpack(patches, self.length).astype(np.int32)  # (H' W', K)
            signs = 2 * unpack(self.words, self.length).astype(np.int32) - 1  # (O, K)
            self._corrections[tuple(shape)] = (outside @ signs.T).reshape(*size, self.outputs)
        return self._corrections[tuple(shape)]

    def _pixels(self, x: torch.Tensor) -> torch.Tensor:
        values = (x.numpy() * 256).astype(np.uint8)  # exact: whole 256ths from 0 to 255
        total = 0
        for plane in range(8):
            patches, size = self._patches((values >> plane) & 1)
            total = total + (_and_dot(patches, self.words) << plane)
        dots = total.reshape(len(x), *size, self.outputs).transpose(0, 3, 1, 2)
        return torch.from_numpy(dots.astype(np.float32)) / 256


def packed_network(network: KeyedNetwork, key: KeyBits | None) -> KeyedNetwork:
    """Return a copy in evaluation mode that computes with packed bits, configured with one task's key bits.

    The copy answers as the network does for the task that has this key; batch norm, pooling and shifts stay float32.
    """
    copy = deepcopy(network).cpu().eval()
    for number, (name, layer) in enumerate(copy.layers().items()):
        _replace(copy, name, PackedConv(layer, None if key is None else key[name], pixels=number == 0))
    return copy


class FloatConv(nn.Module):
    """A `KeyedConv` of one task with its float32 weights made ready, as an ordinary network would have them."""

    def __init__(self, layer: KeyedConv, task: int):
        super().__init__()
        self.weight = nn.Parameter(layer.effective(task).detach(), requires_grad=False)
        self.stride, self.padding, self.scale = layer.stride, layer.padding, layer.channel_scale()

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return what the keyed layer returns for its task, whatever `task` is."""
        found = convolve(x, self.weight, self.stride, self.padding)
        return found if self.scale is None else found * self.scale


def float_network(network: KeyedNetwork, task: int) -> KeyedNetwork:
    """Return a copy in evaluation mode whose layers have one task's float32 weights ready; for timing."""
    copy = deepcopy(network).eval()
    for name, layer in copy.layers().items():
        _replace(copy, name, FloatConv(layer, task))
    return copy


def _replace(network: nn.Module, name: str, made: nn.Module) -> None:
    place, _, last = name.rpartition(".")
    network.get_submodule(place)._modules[last] = made
