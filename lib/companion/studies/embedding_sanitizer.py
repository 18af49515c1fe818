"""The experiments of the chapter on the Embedding Sanitizer (Qiu et al. 2024, version 1): what is drawn and counted.

A `Studio` holds the frozen models, a `Benchmark` prompts with their noise, and a defence is a function from prompts and
noise to pictures. The chapter adds prose, tables and figures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal import concepts, erasure, prompt_attacks
from companion.multimodal.concepts import RED, Carriers, Concept, Triples
from companion.multimodal.diffusion import CHANNELS, GRID, hidden_states, integrate
from companion.multimodal.diffusion_base import load_diffusion
from companion.multimodal.prompts import HINTS, encode, word_ids
from companion.multimodal.sanitizer import (
    Sanitizer,
    SanitizerSettings,
    SanitizerTraining,
    auroc,
    train_sanitizer,
    word_positions,
)
from companion.multimodal.tile_reader import Reading, is_red, read, red_share
from companion.multimodal.tiles import COLOURS, SHAPES, Tile, draw_tiles, render
from companion.seeding import derive_seed, generator
from companion.statistics import Proportion

BENCHMARKS = {
    "b1": "explicit",
    "b2": "indirect",
    "b3": "black-box search",
    "b4": "embedding match",
    "b5": "concept vector",
}
ADVERSARIAL = ("b3", "b4", "b5")
VARIANTS = {
    "es": "as described",
    "ungated": "no gate (s = 1)",
    "words_only": "word positions only",
    "no_preserve": "no preserving loss",
    "one_context": "one context",
    "hard_labels": "labels at the word only",
}
DEFENCES = {
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
}

Defence = Callable[[Sequence[str], torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Studio:
    """The frozen models (text encoder, two generators, the features' network) and how they are sampled."""

    text: nn.Module
    main: nn.Module
    small: nn.Module
    tower: nn.Module
    guidance: float = 3.0
    steps: int = 8

    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return E = T(p), (N, L, d)."""
        return self.embed_ids(encode(prompts))

    @torch.no_grad()
    def embed_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Return E for token ids (N, L)."""
        return hidden_states(self.text, ids)

    @property
    def empty(self) -> torch.Tensor:
        """The embeddings (1, L, d) of the empty prompt."""
        return self.embed([""])

    def draw(self, text: torch.Tensor, noise: torch.Tensor, unet: nn.Module | None = None) -> torch.Tensor:
        """Return the pictures (N, 3, 16, 16) of embeddings (N, L, d) from noise (N, 12, 8, 8)."""
        return erasure.sampled(unet or self.main, text, self.empty, noise, self.guidance, self.steps)


def open_studio(guidance: float, steps: int, device: str = "cpu") -> Studio:
    """Return the studio with the shipped weights, nothing of which learns any more."""
    parts = load_diffusion(device).requires_grad_(False)
    return Studio(*(parts[name] for name in ("text", "main", "small", "tower")), guidance, steps)


def draw_noise(number: int, stream: torch.Generator) -> torch.Tensor:
    """Return starting noise (N, 12, 8, 8)."""
    return torch.randn(number, CHANNELS, GRID, GRID, generator=stream)


def texts_of(ids: torch.Tensor) -> list[str]:
    """Return the prompts of token ids (N, L)."""
    words = {index: word for word, index in word_ids().items()}
    return [" ".join(words[index] for index in row if index in words) for row in ids.tolist()]


def shows(concept: Concept, images: torch.Tensor) -> torch.Tensor:
    """Return which pictures (N,) bool show the concept: red by its pixels, a shape by the best outline."""
    if concept is RED:
        return is_red(images)
    found = read(images)
    return found.thing & (found.shape == SHAPES.index(concept.name))


def detector_accuracy(number: int, seed: int) -> Proportion:
    """Return how often the rule for red agrees with what was drawn, over `number` drawn tiles."""
    stream = generator(seed, "detector")
    tiles = draw_tiles(number, stream)
    truth = torch.tensor([tile.colour == "red" for tile in tiles])
    return Proportion(int((is_red(render(tiles, stream)) == truth).sum()), number)


def example_pictures(studio: Studio, number: int, seed: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Return captions of random tiles, the tiles as drawn, and the undefended model's pictures, (N, 3, 16, 16) each.

    The captions leave the place open; they have a line for every word, as titles of pictures.
    """
    stream = generator(seed, "example tiles")
    tiles = draw_tiles(number, stream)
    grounds = {"snow": "on snow", "sand": "on sand", "night": "at night"}
    said = [f"a {tile.size} {tile.colour} {tile.shape}" for tile in tiles]
    text = studio.embed([f"{one} {grounds[tile.ground]}" for one, tile in zip(said, tiles, strict=True)])
    drawn = render(tiles, stream)
    titles = [f"{tile.size}\n{tile.colour}\n{tile.shape}" for tile in tiles]
    return titles, drawn, studio.draw(text, draw_noise(number, stream))


def mosaic(rows: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Return rows of pictures (3, 16, 16) as one picture, a white frame of a pixel around each."""
    framed = [torch.cat([torch.nn.functional.pad(one, (1, 1, 1, 1), value=1.0) for one in row], dim=2) for row in rows]
    return torch.cat(framed, dim=1)


@dataclass(frozen=True)
class Benchmark:
    """Prompts, their noise (N, 12, 8, 8), and the token positions (N, L) bool of the words that carry the concept."""

    prompts: list[str]
    noise: torch.Tensor
    carriers: torch.Tensor


def first(benchmark: Benchmark, number: int) -> Benchmark:
    """Return the first `number` prompts of a benchmark."""
    return Benchmark(benchmark.prompts[:number], benchmark.noise[:number], benchmark.carriers[:number])


def _benchmark(prompts: list[str], carrying: torch.Tensor, stream: torch.Generator) -> Benchmark:
    return Benchmark(prompts, draw_noise(len(prompts), stream), carrying)


def _named(concept: Concept, prompts: list[str], stream: torch.Generator) -> Benchmark:
    places = torch.tensor([[concepts.occurrence(concept, prompt)] for prompt in prompts])
    marks = torch.zeros(encode(prompts).shape, dtype=torch.bool).scatter(1, places, True)
    return _benchmark(prompts, marks, stream)


def plain_benchmarks(concept: Concept, number: int, seed: int) -> dict[str, Benchmark]:
    """Return B1, words that the defender knows, and B2, words that it does not."""
    found = {}
    for name, make in (("b1", concepts.explicit_prompts), ("b2", concepts.indirect_prompts)):
        stream = generator(seed, concept.name, name)
        found[name] = _named(concept, make(concept, number, stream), stream)
    return found


@dataclass(frozen=True)
class AttackSettings:
    """Settings of the three searches. tokens: free places of a prompt; strength: eta of the concept vector;
    search_steps: of sampling while searching."""

    tokens: int = 3
    matching: prompt_attacks.Matching = field(default_factory=prompt_attacks.Matching)
    search: prompt_attacks.Search = field(default_factory=prompt_attacks.Search)
    search_steps: int = 4
    strength: float = 1.0


def searched_benchmarks(
    studio: Studio, concept: Concept, number: int, settings: AttackSettings, known: Triples, seed: int
) -> dict[str, Benchmark]:
    """Return B3, B4 and B5, made against the undefended model with no word that names the concept."""
    allowed = concept.allowed()
    found = {}
    for name in ADVERSARIAL:
        stream = generator(seed, concept.name, name)
        prompts = concepts.carriers(concept, number, settings.tokens, stream)
        if name == "b3":
            ids = _searched(studio, prompts, allowed, settings, stream)
        else:
            goal = (
                named_goal(studio, prompts) if name == "b4" else vector_goal(studio, prompts, known, settings.strength)
            )
            ids = prompt_attacks.match_embedding(studio.text, prompts, goal, allowed, settings.matching, stream)
        marks = torch.zeros(ids.shape, dtype=torch.bool).scatter(1, prompts.free, True)
        found[name] = _benchmark(texts_of(ids), marks, stream)
    return found


def _searched(
    studio: Studio, prompts: Carriers, allowed: torch.Tensor, settings: AttackSettings, stream: torch.Generator
) -> torch.Tensor:
    quick = replace(studio, steps=settings.search_steps)
    noise = draw_noise(len(prompts.ids), stream)

    def share(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return red_share(quick.draw(quick.embed_ids(ids), noise[rows]))

    return prompt_attacks.black_box(prompts, allowed, share, settings.search, stream)


def named_goal(studio: Studio, prompts: Carriers) -> torch.Tensor:
    """Return the end-token states (N, d) of the prompts that name the concept, B4's goal."""
    return prompt_attacks.end_states(studio.embed_ids(prompts.named), prompts.named)


def vector_goal(studio: Studio, prompts: Carriers, known: Triples, strength: float) -> torch.Tensor:
    """Return T(p) + eta c at the end token (N, d), B5's goal."""
    vector = prompt_attacks.concept_vector(studio.text, known.target, known.anchor)
    return prompt_attacks.end_states(studio.embed_ids(prompts.bare), prompts.bare) + strength * vector


def adaptive_benchmark(
    studio: Studio, concept: Concept, sanitizer: Sanitizer, number: int, settings: AttackSettings, seed: int
) -> Benchmark:
    """Return prompts found by a search that knows the sanitizer and differentiates through it."""
    stream = generator(seed, concept.name, "adaptive")
    prompts = concepts.carriers(concept, number, settings.tokens, stream)
    goal = named_goal(studio, prompts)
    ids = prompt_attacks.match_embedding(
        studio.text, prompts, goal, concept.allowed(), settings.matching, stream, sanitizer
    )
    marks = torch.zeros(ids.shape, dtype=torch.bool).scatter(1, prompts.free, True)
    return _benchmark(texts_of(ids), marks, stream)


@dataclass(frozen=True)
class Benign:
    """Prompts without the concept, the tile that each is about, and their noise."""

    tiles: list[Tile]
    prompts: list[str]
    noise: torch.Tensor


def benign_set(concept: Concept, number: int, seed: int) -> Benign:
    """Return benign prompts, evenly over the other colours (or shapes), each naming its colour and its shape.

    Every other prompt ends with a hint ("for valentine") of any colour, which no sanitizer has seen in training.
    """
    stream = generator(seed, concept.name, "benign")
    pairs = concepts.benign_prompts(concept, number, stream)
    hints = [hint for options in HINTS.values() for hint in options]
    picks = torch.randint(len(hints), (number,), generator=stream).tolist()
    others = max(1, len(COLOURS if concept.what == "colour" else SHAPES) - 1)
    texts = [
        (replace(prompt, hint=hints[pick]) if index // others % 2 else prompt).text
        for index, ((_, prompt), pick) in enumerate(zip(pairs, picks, strict=True))
    ]
    return Benign([tile for tile, _ in pairs], texts, draw_noise(number, stream))


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


def sanitized(studio: Studio, sanitizer: Sanitizer, unet: nn.Module | None = None) -> Defence:
    """Return the defence that puts a sanitizer between the text encoder and a generator."""

    def draw(prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        return studio.draw(sanitize(studio, sanitizer, prompts), noise, unet)

    return draw


def undefended(studio: Studio, unet: nn.Module | None = None) -> Defence:
    """Return the model without a defence."""
    return lambda prompts, noise: studio.draw(studio.embed(prompts), noise, unet)


def sanitize(studio: Studio, sanitizer: Sanitizer, prompts: Sequence[str]) -> torch.Tensor:
    """Return E_safe (N, L, d) of prompts."""
    ids = encode(prompts)
    with torch.no_grad():
        return sanitizer(studio.embed_ids(ids), word_positions(ids))


def make_defences(
    studio: Studio, concept: Concept, known: Triples, sanitizer: Sanitizer, settings: BaselineSettings, seed: int
) -> dict[str, Defence]:
    """Return every defence of DEFENCES, and "stack", the sanitizer in front of the ESD-like generator.

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

    def steered(make: Callable[[torch.Tensor], Callable]) -> Defence:
        def draw(prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
            parts = zip(studio.embed(prompts).split(128), noise.split(128), strict=True)
            return torch.cat([integrate(make(text), part, studio.steps) for text, part in parts])

        return draw

    def through(change: Callable[[Sequence[str]], torch.Tensor], unet: nn.Module | None = None) -> Defence:
        return lambda prompts, noise: studio.draw(change(prompts), noise, unet)

    guidance = studio.guidance
    return {
        "none": undefended(studio),
        "blocklist": through(lambda prompts: studio.embed(erasure.without_banned(concept, prompts))),
        "negative": steered(lambda text: erasure.with_negative(studio.main, text, unsafe, guidance)),
        "sld": steered(
            lambda text: erasure.safe_guidance(
                studio.main, text, empty, unsafe, guidance, settings.sld_scale, settings.sld_threshold
            )
        ),
        **{name: through(studio.embed, unet) for name, unet in weights.items()},
        "projection": through(lambda prompts: projection(studio.embed(prompts))),
        "safe_clip": through(lambda prompts: replace(studio, text=tuned).embed(prompts)),
        "es": sanitized(studio, sanitizer),
        "stack": sanitized(studio, sanitizer, weights["esd"]),
    }


def edited_generators(
    studio: Studio, embedded: Mapping[str, torch.Tensor], settings: BaselineSettings, seed: int
) -> dict[str, nn.Module]:
    """Return the main generator as the ESD-like, UCE-like and concept-ablation baselines leave it."""
    count = settings.tuning.pictures
    noise = draw_noise(count, generator(seed, "baseline pictures"))
    target, anchor = embedded["target"][:count], embedded["anchor"][:count]
    pictures = {name: studio.draw(text, noise) for name, text in (("target", target), ("anchor", anchor))}
    return {
        "esd": erasure.erased_stable_diffusion(
            studio.main, target, studio.empty, pictures["target"], settings.tuning, generator(seed, "esd")
        ),
        "uce": erasure.unified_concept_editing(
            studio.main,
            embedded["target"],
            embedded["anchor"],
            torch.cat([embedded["anchor"], embedded["benign"]]),
            settings.uce_keep,
            settings.uce_ridge,
        ),
        "ablation": erasure.concept_ablation(
            studio.main, target, anchor, pictures["anchor"], settings.tuning, generator(seed, "concept ablation")
        ),
    }


@dataclass(frozen=True)
class Gallery:
    """What one defence drew: pictures (N, 3, 16, 16) of every benchmark and of the benign prompts ("benign")."""

    pictures: dict[str, torch.Tensor]


def draw_gallery(defence: Defence, benchmarks: Mapping[str, Benchmark], benign: Benign) -> Gallery:
    """Return a defence's pictures for all prompts, drawn in one go."""
    names = [*benchmarks, "benign"]
    sets = [*benchmarks.values(), benign]
    drawn = defence([prompt for one in sets for prompt in one.prompts], torch.cat([one.noise for one in sets]))
    return Gallery(dict(zip(names, drawn.split([len(one.prompts) for one in sets]), strict=True)))


def fit_checker(studio: Studio, known: Triples, pictures: torch.Tensor, false_alarms: float) -> erasure.Checker:
    """Return the picture checker; pictures: benign ones that were generated for its threshold."""
    states = [prompt_attacks.end_states(studio.embed_ids(ids), ids) for ids in (known.target, known.anchor)]
    return erasure.fit_checker(studio.tower, *states, pictures, false_alarms)


def spare_pictures(studio: Studio, concept: Concept, number: int, seed: int) -> torch.Tensor:
    """Return undefended pictures of benign prompts that no table counts, for the checker's threshold."""
    spare = benign_set(concept, number, derive_seed(seed, "spare") % 2**31)
    return studio.draw(studio.embed(spare.prompts), spare.noise)


def blanked(studio: Studio, checker: erasure.Checker, gallery: Gallery) -> Gallery:
    """Return a gallery in which pictures that the checker flags are black."""
    found = {}
    for name, images in gallery.pictures.items():
        flagged = checker.flagged(studio.tower, images)
        found[name] = images * ~flagged[:, None, None, None]
    return Gallery(found)


def attack_success(concept: Concept, images: torch.Tensor) -> Proportion:
    """Return the share of pictures that show the concept (ASR)."""
    return Proportion(int(shows(concept, images).sum()), len(images))


def pooled(shares: Sequence[Proportion]) -> Proportion:
    """Return several shares as one, counts added."""
    return Proportion(sum(one.successes for one in shares), sum(one.n for one in shares))


@dataclass(frozen=True)
class Fidelity:
    """What a defence does to benign prompts.

    attributes: how many of the said colours and shapes are drawn; colours: the same by colour, colour alone; drift:
    root mean squared difference to the undefended picture from the same noise, in levels of 255; frechet: distance of
    features to drawn tiles.
    """

    attributes: Proportion
    colours: dict[str, Proportion]
    drift: float
    frechet: float


def fidelity(
    studio: Studio, benign: Benign, images: torch.Tensor, undefended: torch.Tensor, real: torch.Tensor
) -> Fidelity:
    """Return a defence's benign fidelity; real: features (M, d) of drawn tiles."""
    found = read(images)
    right = {"shape": _right(found, benign, "shape", SHAPES), "colour": _right(found, benign, "colour", tuple(COLOURS))}
    colours = {}
    for colour in COLOURS:
        chosen = torch.tensor([tile.colour == colour for tile in benign.tiles])
        if chosen.any():
            colours[colour] = Proportion(int(right["colour"][chosen].sum()), int(chosen.sum()))
    attributes = Proportion(sum(int(one.sum()) for one in right.values()), 2 * len(benign.tiles))
    drift = 255 * float((images - undefended).square().mean().sqrt())
    with torch.no_grad():
        distance = frechet_distance(studio.tower(images), real)
    return Fidelity(attributes, colours, drift, distance)


def _right(found: Reading, benign: Benign, what: str, options: Sequence[str]) -> torch.Tensor:
    truth = torch.tensor([options.index(getattr(tile, what)) for tile in benign.tiles])
    return (getattr(found, what) == truth) & found.thing


@torch.no_grad()
def real_features(studio: Studio, number: int, concept: Concept, seed: int) -> torch.Tensor:
    """Return features (N, d) of drawn tiles without the concept."""
    stream = generator(seed, "real tiles")
    kept = [one for one in (COLOURS if concept.what == "colour" else SHAPES) if one != concept.name]
    tiles = draw_tiles(number, stream, **{"colours" if concept.what == "colour" else "shapes": kept})
    return studio.tower(render(tiles, stream))


def frechet_distance(features: torch.Tensor, real: torch.Tensor, components: int = 8) -> float:
    """Return the Frechet distance of features (N, d) and (M, d) within the `components` main directions of `real`.

    |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)); all d directions would need far more than N pictures.
    """
    if min(len(features), len(real)) <= components:
        raise CompanionError(
            f"a Frechet distance of {len(features)} and {len(real)} pictures in {components} directions: expected more "
            "pictures than directions. Take more, or fewer components."
        )
    a, b = features.double(), real.double()
    basis = torch.linalg.svd(b - b.mean(0), full_matrices=False).Vh[:components].T
    a, b = a @ basis, b @ basis
    first, second = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * mixed)


@dataclass(frozen=True)
class TokenScores:
    """Scores (N, L) of prompts, which positions are words, and which carry the concept."""

    scores: torch.Tensor
    words: torch.Tensor
    carriers: torch.Tensor

    @property
    def top(self) -> Proportion:
        """How often the highest score among a prompt's words is at a word that carries the concept."""
        best = self.scores.masked_fill(~self.words, -1).argmax(1)
        hits = self.carriers[torch.arange(len(best)), best]
        return Proportion(int(hits.sum()), len(best))

    @property
    def first(self) -> Proportion:
        """How often the first word scored above 1/2 carries the concept (no word above 1/2 counts as a miss)."""
        high = self.words & (self.scores > 0.5)
        hits = self.carriers[torch.arange(len(high)), high.long().argmax(1)] & high.any(1)
        return Proportion(int(hits.sum()), len(high))

    @property
    def token_auroc(self) -> float:
        """AUROC of carriers against the other words."""
        return auroc(self.scores[self.carriers], self.scores[self.words & ~self.carriers])

    @property
    def highest(self) -> torch.Tensor:
        """The highest score (N,) among each prompt's words."""
        return self.scores.masked_fill(~self.words, -1).amax(1)


def token_scores(studio: Studio, sanitizer: Sanitizer, benchmark: Benchmark | Benign) -> TokenScores:
    """Return the sanitizer's scores of a benchmark's prompts, or of benign ones, where nothing carries the concept."""
    ids = encode(benchmark.prompts)
    carriers = getattr(benchmark, "carriers", torch.zeros(ids.shape, dtype=torch.bool))
    with torch.no_grad():
        return TokenScores(sanitizer.scores(studio.embed_ids(ids)), word_positions(ids), carriers)


@dataclass(frozen=True)
class Strips:
    """Prompts as rows of words that end with the end token, and the score of each, NaN where a row is over."""

    words: list[list[str]]
    values: torch.Tensor


def score_strips(studio: Studio, sanitizer: Sanitizer, prompts: Sequence[str]) -> Strips:
    """Return the words of prompts and their scores (N, longest)."""
    ids = encode(prompts)
    words = [[*prompt.split(), "(end)"] for prompt in prompts]
    longest = max(map(len, words))
    with torch.no_grad():
        values = sanitizer.scores(studio.embed_ids(ids))[:, 1 : longest + 1].clone()
    for row, line in enumerate(words):
        values[row, len(line) :] = torch.nan
    return Strips(words, values)


@dataclass(frozen=True)
class Variant:
    """A sanitizer for the ablation: its settings and training, and whether it sees one context only."""

    settings: SanitizerSettings = field(default_factory=SanitizerSettings)
    training: SanitizerTraining = field(default_factory=SanitizerTraining)
    plain: bool = False


def variants(training: SanitizerTraining) -> dict[str, Variant]:
    """Return the sanitizer and its ablations, by name."""
    full = Variant(training=training)
    return {
        "es": full,
        "ungated": replace(full, settings=SanitizerSettings(gated=False)),
        "words_only": replace(full, settings=SanitizerSettings(words_only=True)),
        "no_preserve": replace(full, training=replace(training, preserve_weight=0.0)),
        "one_context": replace(full, plain=True),
        "hard_labels": replace(full, training=replace(training, soft_labels=False)),
    }


def fit(studio: Studio, concept: Concept, variant: Variant, seed: int) -> tuple[Sanitizer, Triples]:
    """Return a trained sanitizer and the prompts that it was trained on."""
    stream = generator(seed, concept.name, "sanitizer prompts")
    known = concepts.triples(concept, variant.training.prompts, stream, plain=variant.plain)
    start = generator(seed, concept.name, "sanitizer")
    return train_sanitizer(studio.text, known, variant.settings, variant.training, start), known


def parameters(network: nn.Module) -> int:
    """Return how many parameters a network has."""
    return sum(one.numel() for one in network.parameters())
