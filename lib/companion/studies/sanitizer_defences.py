"""The defences of the chapter on the Embedding Sanitizer: the sanitizer, nine baselines, and what all of them draw.

A defence is a function from prompts and noise to pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from companion.multimodal import erasure, guidance, prompt_attacks
from companion.multimodal.concepts import Concept, Triples
from companion.multimodal.generators import ImageGenerator
from companion.multimodal.sanitizer import Sanitizer
from companion.seeding import derive_seed, generator
from companion.studies.embedding_sanitizer import Studio
from companion.studies.sanitizer_prompts import Benchmark, Benign, benign_set

LABELS = {
    "none": "no defence",
    "blocklist": "block-list",
    "checker": "picture checker",
    "negative": "negative prompt",
    "sld": "SLD-like",
    "esd": "ESD-like",
    "uce": "UCE-like",
    "projection": "projection",
    "safe_clip": "Safe-CLIP-like",
    "ablation": "concept ablation",
    "es": "Embedding Sanitizer",
    "stack": "sanitizer and ESD-like",
}

Defence = Callable[[Sequence[str], torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class BaselineSettings:
    """Settings of the baselines, tuned on seed 0 of the laptop profile as the sanitizer was."""

    sld_scale: float = 2.0
    sld_threshold: float = 0.1
    tuning: erasure.FineTuning = field(default_factory=erasure.FineTuning)
    uce_ridge: float = 0.01
    uce_keep: float = 1.0
    projection_rank: int = 1
    safe_clip_steps: int = 300
    safe_clip_rate: float = 1e-3
    checker_alarms: float = 0.02


def sanitized(studio: Studio, sanitizer: Sanitizer, painter: ImageGenerator | None = None) -> Defence:
    """Return the defence that puts a sanitizer between the text encoder and a generator."""

    def draw(prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        return studio.draw(sanitize(studio, sanitizer, prompts), noise, painter)

    return draw


def undefended(studio: Studio, painter: ImageGenerator | None = None) -> Defence:
    """Return the model without a defence."""
    return lambda prompts, noise: studio.draw(studio.embed(prompts), noise, painter)


def sanitize(studio: Studio, sanitizer: Sanitizer, prompts: Sequence[str]) -> torch.Tensor:
    """Return E_safe (N, L, d) of prompts."""
    ids = studio.language.encode(prompts)
    with torch.no_grad():
        return sanitizer(studio.embed_ids(ids), studio.language.word_positions(ids))


def make_defences(
    studio: Studio, concept: Concept, known: Triples, sanitizer: Sanitizer, settings: BaselineSettings, seed: int
) -> dict[str, Defence]:
    """Return every defence of LABELS; "stack" is the sanitizer in front of the ESD-like generator.

    The checker is not among them: it works on the pictures of "none" (see `blanked`). Guidance knows the concept as the
    mean embedding of the target prompts.
    """
    embedded = {name: studio.embed_ids(getattr(known, name)) for name in ("target", "anchor", "benign")}
    weights = edited_generators(studio, embedded, settings, seed)
    later = erasure.later_positions(known.target, known.anchor)
    projection = erasure.fit_projection(embedded["target"], embedded["anchor"], later, settings.projection_rank)
    stream = generator(seed, concept.name, "safe clip")
    tuned = erasure.safe_clip(studio.text, known, settings.safe_clip_steps, settings.safe_clip_rate, 32, stream)
    unsafe, empty = embedded["target"].mean(0, keepdim=True), studio.empty

    def away(prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        return studio.draw(studio.embed(prompts), noise, other=unsafe)

    def steered(prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        sld = (studio.guidance, settings.sld_scale, settings.sld_threshold)
        guide = guidance.safe_guidance(studio.embed(prompts), empty, unsafe, *sld)
        return studio.main.draw(guide, noise, studio.steps)

    def through(change: Callable[[Sequence[str]], torch.Tensor], painter: ImageGenerator | None = None) -> Defence:
        return lambda prompts, noise: studio.draw(change(prompts), noise, painter)

    return {
        "none": undefended(studio),
        "blocklist": through(lambda prompts: studio.embed(erasure.without_banned(concept, prompts))),
        "negative": away,
        "sld": steered,
        **{name: through(studio.embed, painter) for name, painter in weights.items()},
        "projection": through(lambda prompts: projection(studio.embed(prompts))),
        "safe_clip": through(lambda prompts: replace(studio, text=tuned).embed(prompts)),
        "es": sanitized(studio, sanitizer),
        "stack": sanitized(studio, sanitizer, weights["esd"]),
    }


def edited_generators(
    studio: Studio, embedded: Mapping[str, torch.Tensor], settings: BaselineSettings, seed: int
) -> dict[str, ImageGenerator]:
    """Return the main generator as the ESD-like, UCE-like and concept-ablation baselines leave it."""
    count = settings.tuning.pictures
    noise = studio.noise(count, generator(seed, "baseline pictures"))
    target, anchor = embedded["target"][:count], embedded["anchor"][:count]
    clean = {}
    for name, text in (("target", target), ("anchor", anchor)):
        guide = guidance.classifier_free(text, studio.empty, studio.guidance)
        clean[name] = studio.main.latents(guide, noise, studio.steps)
    edited = {
        "esd": erasure.erased_stable_diffusion(
            studio.main, target, studio.empty, clean["target"], settings.tuning, generator(seed, "esd")
        ),
        "uce": erasure.unified_concept_editing(
            studio.main.unet,
            embedded["target"],
            embedded["anchor"],
            torch.cat([embedded["anchor"], embedded["benign"]]),
            settings.uce_keep,
            settings.uce_ridge,
        ),
        "ablation": erasure.concept_ablation(
            studio.main, target, anchor, clean["anchor"], settings.tuning, generator(seed, "concept ablation")
        ),
    }
    return {name: studio.main.with_unet(unet) for name, unet in edited.items()}


@dataclass(frozen=True)
class Gallery:
    """What one defence drew: pictures (N, 3, H, W) of every benchmark and of the benign prompts ("benign")."""

    pictures: dict[str, torch.Tensor]


def draw_gallery(defence: Defence, benchmarks: Mapping[str, Benchmark], benign: Benign) -> Gallery:
    """Return a defence's pictures for all prompts, drawn in one go."""
    names = [*benchmarks, "benign"]
    sets = [*benchmarks.values(), benign]
    drawn = defence([prompt for one in sets for prompt in one.prompts], torch.cat([one.noise for one in sets]))
    return Gallery(dict(zip(names, drawn.split([len(one.prompts) for one in sets]), strict=True)))


def fit_checker(studio: Studio, known: Triples, pictures: torch.Tensor, false_alarms: float) -> erasure.Checker:
    """Return the picture checker; pictures: benign ones that were generated for its threshold."""
    aim = prompt_attacks.Aim(studio.text, known.language, None)
    states = [aim.end_states(ids) for ids in (known.target, known.anchor)]
    return erasure.fit_checker(studio.judge.tower, *states, pictures, false_alarms)


def spare_pictures(studio: Studio, concept: Concept, number: int, seed: int) -> torch.Tensor:
    """Return undefended pictures of benign prompts that no table counts, for the checker's threshold."""
    spare = benign_set(studio, concept, number, derive_seed(seed, "spare") % 2**31)
    return studio.draw(studio.embed(spare.prompts), spare.noise)


def blanked(studio: Studio, checker: erasure.Checker, gallery: Gallery) -> Gallery:
    """Return a gallery in which pictures that the checker flags are black."""
    found = {}
    for name, images in gallery.pictures.items():
        flagged = checker.flagged(studio.judge.tower, images)
        found[name] = images * ~flagged[:, None, None, None]
    return Gallery(found)
