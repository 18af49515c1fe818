"""CloFormer (Fan et al. 2023): blocks that join a gated depthwise convolution with attention on pooled keys and values.

Written from the specification in the authors' code; what the paper's text says beyond it was not read. The networks
have timm's methods (`forward_features`, `forward_head`, `forward_intermediates`, `reset_classifier`) without needing
timm, whose import takes seconds; `companion.models.cloformer_timm` registers them there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError

GATES = ("full", "no_silu", "no_tanh", "sigmoid", "softmax", "none")
"""The gate as specified; without SiLU; without tanh; with sigmoid, or a softmax over the window, in place of tanh; and
a gate of 1, which leaves a plain depthwise convolution of V."""

FFNS = ("conv", "plain")


@dataclass(frozen=True)
class CloFormerConfig:
    """Sizes of a CloFormer; one entry a stage in every tuple.

    channels C; depths: blocks; heads m, of which local_heads are local (the rest is global), each of width C / m;
    kernels: of the local branch's depthwise convolution, odd; windows p: keys and values are pooled over p x p;
    ffn_kernel, ffn_ratio: of the ConvFFN, whose hidden width is round(ffn_ratio * C); drop_path: stochastic depth of
    the last block, rising linearly to it; gate: one of GATES; ffn: "conv", or "plain" without the depthwise
    convolution (2 x 2 means in its place where the stride is 2); stem_stride: 4, or 2 for small images.
    Raises `CompanionError` for sizes that do not fit together.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    local_heads: tuple[int, ...]
    kernels: tuple[int, ...] = (3, 5, 7, 9)
    windows: tuple[int, ...] = (8, 4, 2, 1)
    ffn_kernel: int = 5
    ffn_ratio: float = 4.0
    drop_path: float = 0.0
    gate: str = "full"
    ffn: str = "conv"
    stem_stride: int = 4

    def __post_init__(self):
        stages = len(self.channels)
        for name in ("depths", "heads", "local_heads", "kernels", "windows"):
            if len(getattr(self, name)) != stages or stages < 1:
                raise CompanionError(
                    f"CloFormerConfig.{name} is {getattr(self, name)}: expected {stages} numbers, one for each of the "
                    f"channels {self.channels}."
                )
        for stage, (width, heads, local) in enumerate(zip(self.channels, self.heads, self.local_heads, strict=True), 1):
            if heads < 1 or width % heads:
                raise CompanionError(
                    f"CloFormerConfig: {width} channels of stage {stage} do not split into {heads} heads of one width: "
                    "expected a multiple. Change channels or heads."
                )
            if not 0 <= local <= heads:
                raise CompanionError(
                    f"CloFormerConfig: {local} of {heads} heads of stage {stage} are local: expected 0 to {heads}."
                )
        expected = {
            "channels": (self.channels[0] % 2 == 0, "an even number first, as the stem begins with half of it"),
            "depths": (min(self.depths) >= 1, "at least one block in every stage"),
            "kernels": (all(k >= 1 and k % 2 for k in self.kernels), "odd numbers"),
            "windows": (min(self.windows) >= 1, "numbers of at least 1"),
            "ffn_kernel": (self.ffn_kernel >= 1 and self.ffn_kernel % 2, "an odd number"),
            "ffn_ratio": (self.ffn_ratio > 0, "a positive number"),
            "drop_path": (0 <= self.drop_path < 1, "a probability in [0, 1)"),
            "gate": (self.gate in GATES, f"one of {', '.join(GATES)}"),
            "ffn": (self.ffn in FFNS, f"one of {', '.join(FFNS)}"),
            "stem_stride": (self.stem_stride in (2, 4), "2 or 4"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise CompanionError(f"CloFormerConfig.{name} is {getattr(self, name)!r}: expected {wanted}.")

    def strides(self) -> tuple[int, ...]:
        """Return how many pixels of the input a position of each stage stands for, along one side."""
        return tuple(self.stem_stride * 2**stage for stage in range(len(self.channels)))

    def side_unit(self) -> int:
        """Return the number of pixels of which an image's sides must be a multiple."""
        return max(stride * window for stride, window in zip(self.strides(), self.windows, strict=True))

    def only(self, branch: str) -> "CloFormerConfig":
        """Return the same network with all heads in one branch, "local" or "global"."""
        if branch not in ("local", "global"):
            raise CompanionError(f'there is no branch "{branch}": expected local or global.')
        return replace(self, local_heads=self.heads if branch == "local" else (0,) * len(self.heads))


_SHARED = {"depths": (2, 2, 6, 2), "kernels": (3, 5, 7, 9), "windows": (8, 4, 2, 1)}

VARIANTS = {
    "cloformer_xxs": CloFormerConfig((32, 64, 128, 256), heads=(4, 4, 8, 16), local_heads=(3, 2, 4, 4), **_SHARED),
    "cloformer_xs": CloFormerConfig(
        (48, 96, 160, 352), heads=(3, 6, 10, 22), local_heads=(2, 3, 5, 7), drop_path=0.06, **_SHARED
    ),
    "cloformer_s": CloFormerConfig(
        (64, 128, 224, 448), heads=(4, 8, 14, 28), local_heads=(3, 4, 7, 7), drop_path=0.06, **_SHARED
    ),
}
"""The three networks of the paper, as the official configuration files have them."""


class AttnConv(nn.Module):
    """The local branch: a depthwise convolution with shared weights, gated by weights that depend on the content.

    With [Q, K, V] = DWConv(conv1x1(x)) the output is A * V, A = tanh(d^-1/2 conv1x1(SiLU(conv1x1(Q * K)))), all
    products element-wise. dim: channels of x; width: of the output; head_width d; kernel: of DWConv; gate: see GATES.
    """

    def __init__(self, dim: int, width: int, head_width: int, kernel: int, gate: str = "full"):
        super().__init__()
        self.kind, self.scale, self.kernel = gate, head_width**-0.5, kernel
        inner = width if gate == "none" else 3 * width
        self.project = nn.Conv2d(dim, inner, 1)
        self.aggregate = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner)
        if gate != "none":
            middle = nn.Identity() if gate == "no_silu" else nn.SiLU()
            self.mlp = nn.Sequential(nn.Conv2d(width, width, 1), middle, nn.Conv2d(width, width, 1))

    def gate_and_values(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return A (B, w, H, W), or None where the gate is 1, and V (B, w, H, W) of maps x (B, C, H, W)."""
        found = self.aggregate(self.project(x))  # (B, 3w, H, W)
        if self.kind == "none":
            return None, found
        query, key, value = found.chunk(3, dim=1)  # (B, w, H, W) each
        scores = self.scale * self.mlp(query * key)
        return self._squashed(scores), value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return A * V, (B, w, H, W)."""
        gate, value = self.gate_and_values(x)
        return value if gate is None else gate * value

    def _squashed(self, scores: torch.Tensor) -> torch.Tensor:
        if self.kind == "no_tanh":
            return scores
        if self.kind == "sigmoid":
            return scores.sigmoid()
        if self.kind == "softmax":  # of a position within its window, times the window's positions: 1 on average
            raised = (scores - scores.amax(dim=(2, 3), keepdim=True)).exp()
            pad = self.kernel // 2
            return raised / F.avg_pool2d(raised, self.kernel, 1, pad, count_include_pad=False).clamp(min=1e-12)
        return scores.tanh()


class PooledAttention(nn.Module):
    """The global branch: softmax attention of every position to keys and values pooled over windows.

    dim: channels of the input; width: of the output, `heads` times the head width; window p: H and W must be multiples.
    """

    def __init__(self, dim: int, width: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window, self.scale = heads, window, (width // heads) ** -0.5
        self.query = nn.Conv2d(dim, width, 1)
        self.key_value = nn.Conv2d(dim, 2 * width, 1)

    def weights_and_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return attention (B, m, HW, T), which sums to 1 over the T pooled positions, and values (B, m, T, d)."""
        query = self._split(self.query(x))  # (B, m, HW, d)
        pooled = F.avg_pool2d(x, self.window) if self.window > 1 else x  # (B, C, H/p, W/p)
        key, value = self.key_value(pooled).chunk(2, dim=1)
        scores = self.scale * query @ self._split(key).transpose(2, 3)  # (B, m, HW, T)
        return scores.softmax(dim=-1), self._split(value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, g, H, W) of maps (B, C, H, W)."""
        weights, value = self.weights_and_values(x)
        return (weights @ value).transpose(2, 3).reshape(len(x), -1, *x.shape[2:])  # (B, g, H, W)

    def _split(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.reshape(len(maps), self.heads, -1, maps[0, 0].numel()).transpose(2, 3)  # (B, m, positions, d)


class CloAttention(nn.Module):
    """Both branches side by side: local channels, then global ones, fused by a 1x1 convolution."""

    def __init__(self, dim: int, heads: int, local_heads: int, kernel: int, window: int, gate: str = "full"):
        super().__init__()
        head_width = dim // heads
        local, rest = local_heads * head_width, heads - local_heads
        self.local = AttnConv(dim, local, head_width, kernel, gate) if local else None
        self.pooled = PooledAttention(dim, rest * head_width, rest, window) if rest else None
        self.fuse = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, C, H, W) of maps (B, C, H, W)."""
        branches = [branch(x) for branch in (self.local, self.pooled) if branch is not None]
        return self.fuse(torch.cat(branches, dim=1) if len(branches) > 1 else branches[0])


class ConvFFN(nn.Module):
    """conv1x1 (C -> hidden), GELU, depthwise convolution of the given stride, conv1x1 (hidden -> out); no shortcut."""

    def __init__(self, dim: int, out: int, hidden: int, kernel: int = 5, stride: int = 1, kind: str = "conv"):
        super().__init__()
        self.widen = nn.Conv2d(dim, hidden, 1)
        if kind == "conv":
            self.spatial = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        else:
            self.spatial = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.narrow = nn.Conv2d(hidden, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, out, H / stride, W / stride) of maps (B, C, H, W)."""
        return self.narrow(self.spatial(F.gelu(self.widen(x))))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): while training, an image's branch is left out with probability `rate`."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (B, ...) with some images set to 0 and the others divided by 1 - rate."""
        if not self.training or not self.rate:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)  # lint: seeded by the training loop
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """x <- x + Attn(GN(x)), then x <- Down(x) + ConvFFN(GN(x)); Down halves the sides where `out` is given."""

    def __init__(self, config: CloFormerConfig, stage: int, drop_path: float, out: int | None = None):
        super().__init__()
        dim, stride = config.channels[stage], 1 if out is None else 2
        self.norm1 = nn.GroupNorm(1, dim)
        self.attention = CloAttention(
            dim, config.heads[stage], config.local_heads[stage], config.kernels[stage], config.windows[stage],
            config.gate,
        )  # fmt: skip
        self.norm2 = nn.GroupNorm(1, dim)
        hidden = max(1, round(config.ffn_ratio * dim))
        self.ffn = ConvFFN(dim, out or dim, hidden, config.ffn_kernel, stride, config.ffn)
        self.drop_path = DropPath(drop_path)
        self.down = nn.Identity()
        if out is not None:
            self.down = nn.Sequential(nn.Conv2d(dim, dim, 5, 2, 2), nn.BatchNorm2d(dim), nn.Conv2d(dim, out, 1))

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps (B, C, H, W) after attention, before the feed-forward part."""
        return x + self.drop_path(self.attention(self.norm1(x)))

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps after the feed-forward part, of half the sides where the block ends a stage."""
        return self.down(x) + self.drop_path(self.ffn(self.norm2(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `feed(mix(x))`."""
        return self.feed(self.mix(x))


class CloFormer(nn.Module):
    """The network: stem, stages, GroupNorm, mean over positions, linear head.

    config: sizes; num_classes: of the logits, 0 for features alone; in_chans: of the images (B, in_chans, H, W), whose
    sides must be multiples of `config.side_unit()`, else `CompanionError`; drop_rate: dropout before the head;
    drop_path_rate: None for the configuration's.
    """

    def __init__(
        self,
        config: CloFormerConfig,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
    ):
        super().__init__()
        self.config, self.num_classes, self.drop_rate = config, num_classes, drop_rate
        self.num_features = self.head_hidden_size = config.channels[-1]
        self.feature_info = [
            {"num_chs": width, "reduction": stride, "module": f"stages.{stage}"}
            for stage, (width, stride) in enumerate(zip(config.channels, config.strides(), strict=True))
        ]
        self.stem = _stem(in_chans, config.channels[0], config.stem_stride)
        last = config.drop_path if drop_path_rate is None else drop_path_rate
        total = sum(config.depths)
        rates = iter([last * index / max(1, total - 1) for index in range(total)])
        self.stages = nn.ModuleList(_stage(config, stage, rates) for stage in range(len(config.channels)))
        self.stage_count = len(self.stages)  # also after `prune_intermediate_layers`
        self.norm = nn.GroupNorm(1, self.num_features)
        self.head_drop = nn.Dropout(drop_rate)  # lint: seeded by companion.vision.fitting; 0 in every profile
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.apply(_initialise)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the normalised maps (B, C, H / s, W / s) of images (B, in_chans, H, W), s the last stage's stride."""
        x = self.stem(self._checked(images))
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits (B, K) of the maps from `forward_features`, or with pre_logits the pooled features (B, C)."""
        pooled = self.head_drop(maps.mean(dim=(2, 3)))  # (B, C)
        return pooled if pre_logits else self.head(pooled)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, C) of images."""
        return self.forward_head(self.forward_features(images), pre_logits=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images, or features (B, C) where num_classes is 0."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return (final maps, [maps of stages]), or the list alone, by timm's convention.

        A stage's maps (B, C_i, H_i, W_i) are taken after its last attention: the feed-forward part behind it already
        belongs to the next stage's width and size. The last stage's are its output, normalised with norm=True.
        indices: of stages, negative ones from the end; an int n takes the last n, None all. Raises `CompanionError`
        for a stage that there is not, and another layout than NCHW.
        """
        wanted = self._wanted(indices)
        if output_fmt != "NCHW":
            raise CompanionError(f"forward_intermediates was asked for {output_fmt!r}: expected NCHW, the only layout.")
        x, found = self.stem(self._checked(x)), []
        stages = self.stages[: max(wanted) + 1] if stop_early else self.stages
        for number, stage in enumerate(stages):
            x = stage[:-1](x) if len(stage) > 1 else x
            mixed = stage[-1].mix(x)
            x = stage[-1].feed(mixed)
            if number in wanted:
                last = number == self.stage_count - 1
                found.append((self.norm(x) if norm else x) if last else mixed)
        if intermediates_only:
            return found
        return self.norm(x) if len(stages) == self.stage_count else x, found

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what comes after the last stage asked for (timm's convention for `features_only`)."""
        wanted = self._wanted(indices)
        self.stages = self.stages[: max(wanted) + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one; the pooling is always the mean."""
        if global_pool not in (None, "avg"):
            raise CompanionError(f"reset_classifier was asked for pooling {global_pool!r}: expected avg or None.")
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        _initialise(self.head)

    def no_weight_decay(self) -> set[str]:
        """Return no name: biases and other 1-dimensional parameters are left out by their shape."""
        return set()

    def _wanted(self, indices: int | list[int] | None) -> list[int]:
        """Return the numbers of the stages that timm's `indices` mean."""
        stages = list(range(self.stage_count))
        if indices is None or isinstance(indices, int):
            return stages[-indices:] if indices else stages
        for index in indices:
            if not -self.stage_count <= index < self.stage_count:
                raise CompanionError(
                    f"there is no stage {index}: expected {-self.stage_count} to {self.stage_count - 1}."
                )
        return [index % self.stage_count for index in indices]

    def _checked(self, images: torch.Tensor) -> torch.Tensor:
        unit = self.config.side_unit()
        expected = self.stem[0].in_channels
        if images.ndim != 4 or images.shape[1] != expected:
            raise CompanionError(
                f"CloFormer got images of shape {tuple(images.shape)}: expected (B, {expected}, H, W). Build it with "
                "in_chans equal to the channels of the images."
            )
        if images.shape[2] % unit or images.shape[3] % unit:
            raise CompanionError(
                f"CloFormer got images of {images.shape[2]} x {images.shape[3]} pixels: expected multiples of {unit}, "
                f"so that windows {self.config.windows} tile the maps of strides {self.config.strides()}. Resize the "
                "images or choose other windows."
            )
        return images


def attentions(model: nn.Module) -> Iterator[tuple[str, CloAttention]]:
    """Yield (name, module) of every two-branch attention in a network, from early to late."""
    return ((name, part) for name, part in model.named_modules() if isinstance(part, CloAttention))


def _stem(channels: int, width: int, stride: int) -> nn.Sequential:
    def conv(inputs: int, outputs: int, step: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, step, 1), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *conv(channels, width // 2, 2), *conv(width // 2, width, stride // 2), *conv(width, width, 1),
        *conv(width, width, 1), nn.Conv2d(width, width, 1), nn.GroupNorm(1, width),
    )  # fmt: skip


def _stage(config: CloFormerConfig, stage: int, rates: Iterator[float]) -> nn.Sequential:
    last = stage == len(config.channels) - 1
    blocks = []
    for index in range(config.depths[stage]):
        ends = index == config.depths[stage] - 1 and not last
        blocks.append(Block(config, stage, next(rates), config.channels[stage + 1] if ends else None))
    return nn.Sequential(*blocks)


def _initialise(part: nn.Module) -> None:
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)  # lint: seeded by whoever builds the network
        nn.init.zeros_(part.bias)
