"""The vision transformer whose patch tokens are hashed: a small one of our own, or timm's.

`TokenViT` computes what `timm.models.vision_transformer.VisionTransformer` computes with the same settings, and its
weights have the same names, so either can read the other's; it exists because importing timm takes longer than a
short run. Source: Dosovitskiy et al., ICLR 2021.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError

KINDS = ("own", "timm")


@dataclass(frozen=True)
class BackboneConfig:
    """Shape of the transformer: side of the images and patches in pixels, channels of the images, width D of a token,
    number of blocks and heads, width of a block's hidden layer as a multiple of D, and who computes it (KINDS)."""

    side: int = 32
    patch: int = 4
    channels: int = 3
    width: int = 64
    depth: int = 3
    heads: int = 4
    expansion: float = 2.0
    kind: str = "own"

    def __post_init__(self):
        if self.patch < 1 or self.side < self.patch or self.side % self.patch:
            raise CompanionError(
                f"images of {self.side}x{self.side} pixels cannot be cut into patches of {self.patch}x{self.patch}: "
                "expected a patch that divides the side. Change `patch`, or resize the images."
            )
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise CompanionError(
                f"a token of {self.width} numbers cannot be split over {self.heads} attention heads: expected a width "
                "that is a multiple of the number of heads. Change `width` or `heads`."
            )
        if self.depth < 1 or self.kind not in KINDS:
            raise CompanionError(
                f"a backbone of depth {self.depth} and kind {self.kind!r}: expected at least one block and one of "
                f"{', '.join(KINDS)}."
            )

    @property
    def tokens(self) -> int:
        """L, the number of patches of an image."""
        return (self.side // self.patch) ** 2


class TokenViT(nn.Module):
    """Patch embedding, learned positions, pre-norm blocks; no class token and no final norm.

    Images (B, C, S, S) float32 in [0, 1] go in as 4 x - 2, resized to `side` if S differs; `forward` gives the patch
    tokens (B, L, D). Raises CompanionError for images that are not square.
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.side = config.side
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(config.channels, config.width, config.patch, stride=config.patch)
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)  # lint: seeded by callers
        self.blocks = nn.Sequential(*[_Block(config) for _ in range(config.depth)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, L, D) of images (B, C, S, S)."""
        patches = self.patch_embed.proj(_fitted(images, self.side)).flatten(2).transpose(1, 2)  # (B, L, D)
        return self.blocks(patches + self.pos_embed)


def _fitted(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images (B, C, S, S) as the transformers take them: of the given side, from -2 to 2."""
    if images.shape[-1] != images.shape[-2]:
        raise CompanionError(
            f"images of {tuple(images.shape[1:])} were given to a transformer of {side}x{side} pixels: expected square "
            "ones, which it resizes. Crop or pad them first."
        )
    if images.shape[-1] != side:
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return 4 * images - 2


class _Block(nn.Module):
    def __init__(self, config: BackboneConfig):
        super().__init__()
        hidden = int(config.expansion * config.width)
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(config.width, hidden)
        self.mlp.fc2 = nn.Linear(hidden, config.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(tokens))))


class _Attention(nn.Module):
    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, length, width = tokens.shape
        parts = self.qkv(tokens).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # (B, heads, L, D / heads)
        weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)  # (B, heads, L, L)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, length, width))


class _TimmTokens(nn.Module):
    """timm's class behind the same face: images in [0, 1] to patch tokens, without class token and final norm."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer  # takes seconds to import

        self.side = config.side
        self.trunk = VisionTransformer(
            img_size=config.side,
            patch_size=config.patch,
            in_chans=config.channels,
            num_classes=0,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.expansion,
            class_token=False,
            global_pool="avg",
            final_norm=False,
            fc_norm=False,
        )
        for block in self.trunk.blocks:
            block.attn.fused_attn = False  # the fused kernel's gradient is not deterministic on a GPU

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.trunk.forward_features(_fitted(images, self.side))


def build_backbone(config: BackboneConfig, generator: torch.Generator) -> nn.Module:
    """Return a transformer with initial weights drawn from `generator`; torch's global state stays untouched."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(seed)
        return TokenViT(config) if config.kind == "own" else _TimmTokens(config)


def read_weights(backbone: nn.Module, path: str) -> None:
    """Read ImageNet weights in the form of the original release (.npz) into a backbone of kind "timm".

    Raises CompanionError for another kind and for a file that is missing or does not fit.
    """
    if not isinstance(backbone, _TimmTokens):
        raise CompanionError(f'weights {path} were given for a backbone of kind "own": they need kind "timm".')
    try:
        backbone.trunk.load_pretrained(path)
    except (OSError, KeyError, ValueError, RuntimeError, AssertionError) as error:
        raise CompanionError(
            f"the weights {path} cannot be read into this transformer: {error}. Expected the .npz file of a vision "
            "transformer of the same width, depth and patch. Leave `weights` empty for a self-supervised warm start."
        ) from error


@torch.no_grad()
def tokens_of(backbone: nn.Module, images: torch.Tensor, batch_size: int = 250) -> torch.Tensor:
    """Return the tokens (N, L, D) of images (N, C, side, side), on the images' device, without gradients."""
    device = next(backbone.parameters()).device
    return torch.cat([backbone(batch.to(device)).to(images.device) for batch in images.split(batch_size)])


def pooled_features(backbone: nn.Module, images: torch.Tensor, batch_size: int = 250) -> torch.Tensor:
    """Return the mean token (N, D) of images (N, C, side, side), on the images' device, without gradients."""
    parts = [tokens_of(backbone, batch, batch_size).mean(1) for batch in images.split(batch_size)]
    return torch.cat(parts)
