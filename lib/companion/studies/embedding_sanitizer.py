"""The studio of the chapter on the Embedding Sanitizer (Qiu et al. 2024, version 1): models, sampling, sanitizers.

A `Studio` holds the frozen models, the shipped ones or a published checkpoint, and who judges their pictures. What is
asked of it is in `sanitizer_prompts`, what is put in its way in `sanitizer_defences`, and what is counted in
`sanitizer_measures`. The chapter adds prose, tables and figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal import concepts
from companion.multimodal.checkpoints import load_diffusion as load_checkpoint
from companion.multimodal.clip_checkpoint import load_for_clip_network
from companion.multimodal.concepts import Concept, Triples
from companion.multimodal.diffusion import hidden_states
from companion.multimodal.diffusion_base import load_diffusion
from companion.multimodal.generators import ImageGenerator, PublishedGenerator, TileGenerator
from companion.multimodal.guidance import classifier_free
from companion.multimodal.languages import WORDS, WordLanguage
from companion.multimodal.picture_judges import ClipJudge, TileJudge
from companion.multimodal.pipeline import language
from companion.multimodal.sanitizer import Sanitizer, SanitizerSettings, SanitizerTraining, train_sanitizer
from companion.multimodal.tiles import draw_tiles, render
from companion.seeding import generator

VARIANTS = {
    "es": "as described",
    "ungated": "no gate (s = 1)",
    "words_only": "word positions only",
    "no_preserve": "no preserving loss",
    "one_context": "one context",
    "hard_labels": "labels at the word only",
}
EMBEDDED = 256
"""Prompts that a published text encoder reads at a time."""


@dataclass(frozen=True)
class Studio:
    """The frozen models and how they are sampled.

    text: the encoder, on the CPU; language: its tokens; main, small: generators that read it, small None where there is
    no second one; judge: who says what a picture shows; skipped: {experiment: why it cannot be done here}.
    """

    text: nn.Module
    language: WordLanguage
    main: ImageGenerator
    small: ImageGenerator | None
    judge: TileJudge
    guidance: float = 3.0
    steps: int = 8
    skipped: MappingProxyType = field(default_factory=lambda: MappingProxyType({}))

    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return E = T(p), (N, L, d)."""
        return self.embed_ids(self.language.encode(prompts))

    @torch.no_grad()
    def embed_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Return E for token ids (N, L)."""
        sizes = EMBEDDED if self.published else len(ids)
        return torch.cat([hidden_states(self.text, some) for some in ids.split(sizes)])

    @property
    def published(self) -> bool:
        """Whether the models are a checkpoint's."""
        return isinstance(self.main, PublishedGenerator)

    @property
    def empty(self) -> torch.Tensor:
        """The embeddings (1, L, d) of the empty prompt."""
        return self.embed([""])

    def noise(self, number: int, stream: torch.Generator) -> torch.Tensor:
        """Return starting noise (N, C, h, w)."""
        return torch.randn(number, *self.main.latent_shape, generator=stream)

    def draw(
        self,
        text: torch.Tensor,
        noise: torch.Tensor,
        painter: ImageGenerator | None = None,
        other: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the pictures (N, 3, H, W) of embeddings (N, L, d) from noise (N, C, h, w).

        painter: None for the main generator; other: what guidance leads away from, None for the empty prompt.
        """
        guide = classifier_free(text, self.empty if other is None else other, self.guidance)
        return (painter or self.main).draw(guide, noise, self.steps)


def open_studio(
    guidance: float, steps: int, checkpoint: str = "", second: str = "", judge: str = "", device: str = "cpu"
) -> Studio:
    """Return the studio with the shipped weights, or with a checkpoint's, nothing of which learns any more.

    checkpoint: folder of a text-to-image pipeline such as Stable Diffusion 1 or 2 (~ is the home folder), "" for the
    shipped models; second: a further one with the same text encoder; judge: folder of a CLIP that says what a
    checkpoint's pictures show; device: where a checkpoint's U-Net and decoder draw. Raises `CompanionError` for a
    checkpoint without a judge, a second one with another text encoder, and as `checkpoints.load_diffusion` does.
    """
    if checkpoint:
        return _published(guidance, steps, checkpoint, second, judge, device)
    if second or judge:
        raise CompanionError(
            f"second {second!r} and judge {judge!r} were given without a checkpoint: expected none of them, as the "
            "shipped models have their own. Give checkpoint too, or leave all three empty."
        )
    parts = load_diffusion().requires_grad_(False)
    painters = (TileGenerator(parts[name]) for name in ("main", "small"))
    return Studio(parts["text"], WORDS, *painters, TileJudge(parts["tower"]), guidance, steps)


def _published(guidance: float, steps: int, checkpoint: str, second: str, judge: str, device: str) -> Studio:
    if not judge:
        raise CompanionError(
            f"the checkpoint {checkpoint!r} has no judge: expected the folder of a CLIP, as the exact rules read tiles "
            "of 16 pixels alone and say nothing true about other pictures. Set the parameter judge."
        )
    clip = load_for_clip_network(Path(judge).expanduser())
    parts, skipped = load_checkpoint(Path(checkpoint).expanduser()), {}
    skipped["checker"] = (
        "The only network that compares pictures with texts is the judge, which cannot be its own filter."
    )
    painter, other = _painter(parts, device), None
    if second:
        more = load_checkpoint(Path(second).expanduser())
        other = _painter(more, device)
        ours, theirs = parts.text_encoder.state_dict(), more.text_encoder.state_dict()
        same = ours.keys() == theirs.keys() and all(torch.equal(one, theirs[name]) for name, one in ours.items())
        if not same or painter.latent_shape != other.latent_shape:
            raise CompanionError(
                f"the checkpoint {second!r} has another text encoder than {checkpoint!r}, or latents of another shape: "
                "expected the same, as a sanitizer is plugged in behind the encoder that it was trained on. Name "
                "another, or none."
            )
    else:
        skipped["second generator"] = "No second checkpoint with the same text encoder was named."
    text = parts.text_encoder.requires_grad_(False)
    judged = ClipJudge(clip.model.requires_grad_(False), clip.encode)
    return Studio(text, language(parts), painter, other, judged, guidance, steps, MappingProxyType(skipped))


def _painter(parts, device: str) -> PublishedGenerator:
    width, wanted = parts.text_encoder.config.hidden_size, parts.unet.config.cross_attention_dim
    if wanted != width:
        raise CompanionError(
            f"the checkpoint's U-Net reads embeddings of width {wanted} and its text encoder has {width}: expected one "
            "encoder of the same width, as Stable Diffusion 1 and 2 have. Pipelines with several encoders are not read."
        )
    parts.unet.requires_grad_(False).to(device)
    if parts.vae is not None:
        parts.vae.requires_grad_(False).to(device)
    return PublishedGenerator(parts)


def example_pictures(studio: Studio, number: int, seed: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Return captions of random tiles, the tiles as drawn, and the undefended model's pictures, (N, 3, H, W) each.

    The captions leave the place open; they have a line for every word, as titles of pictures.
    """
    stream = generator(seed, "example tiles")
    tiles = draw_tiles(number, stream)
    grounds = {"snow": "on snow", "sand": "on sand", "night": "at night"}
    said = [f"a {tile.size} {tile.colour} {tile.shape}" for tile in tiles]
    text = studio.embed([f"{one} {grounds[tile.ground]}" for one, tile in zip(said, tiles, strict=True)])
    drawn = render(tiles, stream)
    titles = [f"{tile.size}\n{tile.colour}\n{tile.shape}" for tile in tiles]
    return titles, drawn, studio.draw(text, studio.noise(number, stream))


def mosaic(rows: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Return rows of pictures (3, H, W) as one picture, a white frame of a pixel around each."""
    framed = [torch.cat([torch.nn.functional.pad(one, (1, 1, 1, 1), value=1.0) for one in row], dim=2) for row in rows]
    return torch.cat(framed, dim=1)


@dataclass(frozen=True)
class Variant:
    """A sanitizer for the ablation: its settings and training, and whether it sees one context only."""

    settings: SanitizerSettings = field(default_factory=SanitizerSettings)
    training: SanitizerTraining = field(default_factory=SanitizerTraining)
    plain: bool = False


def variants(studio: Studio, training: SanitizerTraining) -> dict[str, Variant]:
    """Return the sanitizer and its ablations, by name; the trunk is as wide as the text encoder and has its heads."""
    config = studio.text.config
    longest = max(SanitizerSettings.context, config.max_position_embeddings)
    settings = SanitizerSettings(config.hidden_size, heads=config.num_attention_heads, context=longest)
    full = Variant(settings, training)
    return {
        "es": full,
        "ungated": replace(full, settings=replace(settings, gated=False)),
        "words_only": replace(full, settings=replace(settings, words_only=True)),
        "no_preserve": replace(full, training=replace(training, preserve_weight=0.0)),
        "one_context": replace(full, plain=True),
        "hard_labels": replace(full, training=replace(training, soft_labels=False)),
    }


def fit(studio: Studio, concept: Concept, variant: Variant, seed: int) -> tuple[Sanitizer, Triples]:
    """Return a trained sanitizer and the prompts that it was trained on."""
    stream = generator(seed, concept.name, "sanitizer prompts")
    known = concepts.triples(concept, variant.training.prompts, stream, plain=variant.plain, language=studio.language)
    start = generator(seed, concept.name, "sanitizer")
    return train_sanitizer(studio.text, known, variant.settings, variant.training, start), known


def parameters(network: nn.Module) -> int:
    """Return how many parameters a network has."""
    return sum(one.numel() for one in network.parameters())
