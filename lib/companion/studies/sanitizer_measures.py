"""What the chapter on the Embedding Sanitizer counts: attack success, what benign pictures keep, and token scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from companion.errors import CompanionError
from companion.multimodal.concepts import Concept
from companion.multimodal.picture_judges import OPTIONS, Seen
from companion.multimodal.sanitizer import Sanitizer
from companion.multimodal.suspicion import auroc
from companion.multimodal.tiles import COLOURS, SHAPES, draw_tiles, render
from companion.seeding import derive_seed, generator
from companion.statistics import Proportion
from companion.studies.embedding_sanitizer import Studio
from companion.studies.sanitizer_prompts import Benchmark, Benign, benign_set


def detector_accuracy(studio: Studio, concept: Concept, number: int, seed: int) -> Proportion:
    """Return how often the judge agrees with what was drawn about the concept, over `number` drawn tiles."""
    stream = generator(seed, "detector")
    tiles = draw_tiles(number, stream)
    truth = torch.tensor([getattr(tile, concept.what) == concept.name for tile in tiles])
    return Proportion(int((studio.judge.shows(concept, render(tiles, stream)) == truth).sum()), number)


def attack_success(studio: Studio, concept: Concept, images: torch.Tensor) -> Proportion:
    """Return the share of pictures that show the concept (ASR)."""
    return Proportion(int(studio.judge.shows(concept, images).sum()), len(images))


def pooled(shares: Sequence[Proportion]) -> Proportion:
    """Return several shares as one, counts added."""
    return Proportion(sum(one.successes for one in shares), sum(one.n for one in shares))


@dataclass(frozen=True)
class Fidelity:
    """What a defence does to benign prompts.

    attributes: how many of the said colours and shapes are drawn; colours: the same by colour, colour alone; drift:
    root mean squared difference to the undefended picture from the same noise, in levels of 255; frechet: distance of
    features to reference pictures.
    """

    attributes: Proportion
    colours: dict[str, Proportion]
    drift: float
    frechet: float


def fidelity(
    studio: Studio, benign: Benign, images: torch.Tensor, undefended: torch.Tensor, reference: torch.Tensor
) -> Fidelity:
    """Return a defence's benign fidelity; reference: features (M, d), see `reference_features`."""
    seen = studio.judge.see(images)
    right = {what: _right(seen, benign, what) for what in OPTIONS}
    colours = {}
    for colour in COLOURS:
        chosen = torch.tensor([tile.colour == colour for tile in benign.tiles])
        if chosen.any():
            colours[colour] = Proportion(int(right["colour"][chosen].sum()), int(chosen.sum()))
    attributes = Proportion(sum(int(one.sum()) for one in right.values()), 2 * len(benign.tiles))
    drift = 255 * float((images - undefended).square().mean().sqrt())
    distance = frechet_distance(studio.judge.features(images), reference)
    return Fidelity(attributes, colours, drift, distance)


def _right(seen: Seen, benign: Benign, what: str) -> torch.Tensor:
    truth = torch.tensor([OPTIONS[what].index(getattr(tile, what)) for tile in benign.tiles])
    return (getattr(seen, what) == truth) & seen.thing


def reference_features(studio: Studio, concept: Concept, number: int, seed: int) -> torch.Tensor:
    """Return features (N, d) of pictures without the concept that benign ones are compared with: drawn tiles.

    Nobody drew what a published model is asked for, so there they are its own pictures, undefended, of other benign
    prompts.
    """
    if studio.published:
        spare = benign_set(studio, concept, number, derive_seed(seed, "reference") % 2**31)
        return studio.judge.features(studio.draw(studio.embed(spare.prompts), spare.noise))
    stream = generator(seed, "real tiles")
    kept = [one for one in (COLOURS if concept.what == "colour" else SHAPES) if one != concept.name]
    tiles = draw_tiles(number, stream, **{"colours" if concept.what == "colour" else "shapes": kept})
    return studio.judge.features(render(tiles, stream))


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


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for the page: drift, which spans orders of magnitude, to three decimals and the rest to one."""
    return table.round({column: 3 if column == "drift" else 1 for column in table.columns})


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
        return auroc(self.scores[self.words], self.carriers[self.words])

    def detection_auroc(self, calm: "TokenScores") -> float:
        """AUROC of these prompts' highest scores against those of benign prompts."""
        both = torch.cat([self.highest, calm.highest])
        return auroc(both, torch.arange(len(both)) < len(self.highest))

    @property
    def highest(self) -> torch.Tensor:
        """The highest score (N,) among each prompt's words."""
        return self.scores.masked_fill(~self.words, -1).amax(1)


def token_scores(studio: Studio, sanitizer: Sanitizer, benchmark: Benchmark | Benign) -> TokenScores:
    """Return the sanitizer's scores of a benchmark's prompts, or of benign ones, where nothing carries the concept."""
    ids = studio.language.encode(benchmark.prompts)
    carriers = getattr(benchmark, "carriers", torch.zeros(ids.shape, dtype=torch.bool))
    with torch.no_grad():
        return TokenScores(sanitizer.scores(studio.embed_ids(ids)), studio.language.word_positions(ids), carriers)


@dataclass(frozen=True)
class Strips:
    """Prompts as rows of words that end with the end token, and each word's highest score of its tokens, NaN where
    a row is over; carriers: (row, column) of the words that carry the concept."""

    words: list[list[str]]
    values: torch.Tensor
    carriers: list[tuple[int, int]]


def score_strips(studio: Studio, sanitizer: Sanitizer, prompts: Sequence[str], carriers: torch.Tensor) -> Strips:
    """Return the words of prompts and their scores (N, longest); carriers: (N, L) bool, the carriers' tokens."""
    marked = []
    words = [[*prompt.split(), "(end)"] for prompt in prompts]
    values = torch.full((len(prompts), max(map(len, words))), torch.nan)
    ids = studio.language.encode(prompts)
    with torch.no_grad():
        scores = sanitizer.scores(studio.embed_ids(ids))
    for row, (prompt, end) in enumerate(zip(prompts, studio.language.ends(ids).tolist(), strict=True)):
        for column, span in enumerate([*studio.language.spans(prompt), range(end, end + 1)]):
            values[row, column] = scores[row, list(span)].max()
            if carriers[row, list(span)].any():
                marked.append((row, column))
    return Strips(words, values, marked)
