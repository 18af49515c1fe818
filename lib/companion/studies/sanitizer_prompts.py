"""The prompts of the chapter on the Embedding Sanitizer: five benchmarks that ask for the concept, and benign ones."""

from dataclasses import dataclass, field, replace

import torch

from companion.multimodal import concepts, prompt_attacks
from companion.multimodal.concepts import Carriers, Concept, Triples
from companion.multimodal.prompts import HINTS
from companion.multimodal.sanitizer import Sanitizer
from companion.multimodal.tiles import COLOURS, SHAPES, Tile
from companion.seeding import generator
from companion.studies.embedding_sanitizer import Studio

BENCHMARKS = {
    "b1": "explicit",
    "b2": "indirect",
    "b3": "black-box search",
    "b4": "embedding match",
    "b5": "concept vector",
}
ADVERSARIAL = ("b3", "b4", "b5")


@dataclass(frozen=True)
class Benchmark:
    """Prompts, their noise (N, C, h, w), and the token positions (N, L) bool of the words that carry the concept."""

    prompts: list[str]
    noise: torch.Tensor
    carriers: torch.Tensor


def first(benchmark: Benchmark, number: int) -> Benchmark:
    """Return the first `number` prompts of a benchmark."""
    return Benchmark(benchmark.prompts[:number], benchmark.noise[:number], benchmark.carriers[:number])


def _named(studio: Studio, concept: Concept, prompts: list[str], stream: torch.Generator) -> Benchmark:
    marks = torch.zeros(studio.language.encode(prompts).shape, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        marks[row, list(concepts.occurrence(concept, prompt, studio.language))] = True
    return Benchmark(prompts, studio.noise(len(prompts), stream), marks)


def _searched(studio: Studio, prompts: Carriers, ids: torch.Tensor, stream: torch.Generator) -> Benchmark:
    marks = torch.zeros(ids.shape, dtype=torch.bool).scatter(1, prompts.free, True)
    return Benchmark(studio.language.texts(ids), studio.noise(len(ids), stream), marks)


def plain_benchmarks(studio: Studio, concept: Concept, number: int, seed: int) -> dict[str, Benchmark]:
    """Return B1, words that the defender knows, and B2, words that it does not."""
    found = {}
    for name, make in (("b1", concepts.explicit_prompts), ("b2", concepts.indirect_prompts)):
        stream = generator(seed, concept.name, name)
        found[name] = _named(studio, concept, make(concept, number, stream), stream)
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
    allowed = concept.allowed(studio.language)
    found = {}
    for name in ADVERSARIAL:
        stream = generator(seed, concept.name, name)
        prompts = concepts.carriers(concept, number, settings.tokens, stream, studio.language)
        if name == "b3":
            ids = _by_pictures(studio, concept, prompts, allowed, settings, stream)
        else:
            goal = (
                named_goal(studio, prompts) if name == "b4" else vector_goal(studio, prompts, known, settings.strength)
            )
            ids = prompt_attacks.match_embedding(studio.text, prompts, goal, allowed, settings.matching, stream)
        found[name] = _searched(studio, prompts, ids, stream)
    return found


def _by_pictures(
    studio: Studio,
    concept: Concept,
    prompts: Carriers,
    allowed: torch.Tensor,
    settings: AttackSettings,
    stream: torch.Generator,
    sanitizer: Sanitizer | None = None,
) -> torch.Tensor:
    quick = replace(studio, steps=settings.search_steps)
    noise = studio.noise(len(prompts.ids), stream)

    def share(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        text = quick.embed_ids(ids)
        if sanitizer is not None:
            text = sanitizer(text, studio.language.word_positions(ids))
        return studio.judge.amount(concept, quick.draw(text, noise[rows]))

    return prompt_attacks.black_box(prompts, allowed, share, settings.search, stream)


def named_goal(studio: Studio, prompts: Carriers) -> torch.Tensor:
    """Return the end-token states (N, d) of the prompts that name the concept, B4's goal."""
    return prompt_attacks.end_states(studio.embed_ids(prompts.named), prompts.named, prompts.language)


def vector_goal(studio: Studio, prompts: Carriers, known: Triples, strength: float) -> torch.Tensor:
    """Return T(p) + eta c at the end token (N, d), B5's goal."""
    vector = prompt_attacks.concept_vector(studio.text, known)
    bare = prompt_attacks.end_states(studio.embed_ids(prompts.bare), prompts.bare, prompts.language)
    return bare + strength * vector


def adaptive_benchmark(
    studio: Studio,
    concept: Concept,
    sanitizer: Sanitizer,
    number: int,
    settings: AttackSettings,
    seed: int,
    *,
    pictures: bool = False,
) -> Benchmark:
    """Return prompts found by a search that knows the sanitizer.

    pictures: False for B4's search, which differentiates through it; True for B3's, which looks at sanitized pictures.
    """
    stream = generator(seed, concept.name, "adaptive by pictures" if pictures else "adaptive")
    prompts = concepts.carriers(concept, number, settings.tokens, stream, studio.language)
    allowed = concept.allowed(studio.language)
    if pictures:
        ids = _by_pictures(studio, concept, prompts, allowed, settings, stream, sanitizer)
    else:
        goal = named_goal(studio, prompts)
        ids = prompt_attacks.match_embedding(studio.text, prompts, goal, allowed, settings.matching, stream, sanitizer)
    return _searched(studio, prompts, ids, stream)


@dataclass(frozen=True)
class Benign:
    """Prompts without the concept, the tile that each is about, and their noise."""

    tiles: list[Tile]
    prompts: list[str]
    noise: torch.Tensor


def benign_set(studio: Studio, concept: Concept, number: int, seed: int) -> Benign:
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
    return Benign([tile for tile, _ in pairs], texts, studio.noise(number, stream))
