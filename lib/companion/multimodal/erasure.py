"""Nine other ways to keep a concept out of generated pictures, each in its plainest form.

Prompt: block-list. Picture: a checker after the fact. Guidance: negative prompt, SLD-like. Generator's weights:
ESD-like, concept ablation, UCE-like. Text side: projection, Safe-CLIP-like. "Like" says that the idea is the
original's and the size is ours (fact sheet, section 1.4); which nine the paper compares with was not read.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.concepts import Concept, Triples
from companion.multimodal.diffusion import hidden_states
from companion.multimodal.generators import ImageGenerator, Noised
from companion.multimodal.guidance import classifier_free
from companion.multimodal.optimisers import AdamW, warmup_cosine
from companion.multimodal.sanitizer import embed_triples


def without_banned(concept: Concept, prompts: Sequence[str]) -> list[str]:
    """Return the prompts without the words that the defender knows (block-list); other prompts stay as they are."""
    return [" ".join(word for word in prompt.split() if word not in concept.banned) for prompt in prompts]


@dataclass(frozen=True)
class Checker:
    """A checker of pictures, as Stable Diffusion has one: the cosine of a picture's features to the concept's text.

    direction: (d,) unit vector; threshold: above it a picture is blanked.
    """

    direction: torch.Tensor
    threshold: float

    def flagged(self, tower: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Return which pictures (N,) bool are blanked."""
        return self.similarity(tower, images) > self.threshold

    @torch.no_grad()
    def similarity(self, tower: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Return the cosine (N,) of pictures (N, 3, 16, 16) to the concept."""
        return F.normalize(tower(images), dim=1) @ self.direction


@torch.no_grad()
def fit_checker(
    tower: nn.Module, target: torch.Tensor, anchor: torch.Tensor, benign: torch.Tensor, false_alarms: float = 0.02
) -> Checker:
    """Return a checker whose direction is the mean text feature of target less that of anchor prompts.

    target, anchor: end-token states (N, d) of prompts with and without the concept; benign: generated pictures, of
    which the share `false_alarms` lies above the threshold.
    """
    means = [F.normalize(tower.text(states), dim=1).mean(0) for states in (target, anchor)]
    direction = F.normalize(means[0] - means[1], dim=0)
    found = Checker(direction, 0.0).similarity(tower, benign)
    return Checker(direction, float(found.quantile(1 - false_alarms)))


def cross_attention(unet: nn.Module) -> dict[str, nn.Linear]:
    """Return the key and value projections of a generator's attention to text, by name."""
    return {name: one for name, one in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}


@dataclass(frozen=True)
class FineTuning:
    """Settings of the two baselines that train the generator: its attention to text alone, from its own pictures."""

    pictures: int = 48
    steps: int = 120
    batch_size: int = 16
    learning_rate: float = 1e-3
    strength: float = 1.0


def erase_by_training(
    painter: ImageGenerator,
    start: tuple[torch.Tensor, torch.Tensor],
    goal: Callable[[nn.Module, Noised, torch.Tensor], torch.Tensor],
    training: FineTuning,
    generator: torch.Generator,
) -> nn.Module:
    """Return a copy of a generator's U-Net whose prediction for prompts was trained towards `goal`.

    start: clean latents (N, C, h, w) that are noised, and the embeddings (N, L, d) of their prompts; goal: (frozen
    U-Net, noised latents, indices) to the wanted predictions. Trained are keys and values of the attention to text,
    with AdamW on squared errors.
    """
    edited = deepcopy(painter.unet).requires_grad_(False)
    place = next(edited.parameters())
    trained = [(n, p) for name, one in cross_attention(edited).items() for n, p in _named(name, one)]
    for _, parameter in trained:
        parameter.requires_grad_(True)
    optimiser = AdamW(trained, weight_decay=0.0)
    clean, text = start
    for step in range(training.steps):
        pick = torch.randint(len(clean), (training.batch_size,), generator=generator)
        noised = Noised(*(one.to(place.device) for one in painter.noised(clean[pick], generator)))
        with torch.no_grad():
            wanted = goal(painter.unet, noised, pick)
        found = edited(*noised, text[pick].to(place.device), return_dict=False)[0]
        (found - wanted).square().mean().backward()
        optimiser.step(warmup_cosine(training.learning_rate, step, training.steps, 10))
    return edited.requires_grad_(False)


def _named(name: str, layer: nn.Linear) -> list[tuple[str, nn.Parameter]]:
    return [(f"{name}.{part}", parameter) for part, parameter in layer.named_parameters()]


def erased_stable_diffusion(
    painter: ImageGenerator,
    target: torch.Tensor,
    empty: torch.Tensor,
    clean: torch.Tensor,
    training: FineTuning,
    generator: torch.Generator,
) -> nn.Module:
    """Return an ESD-like generator (Gandikota et al. 2023): x(target) trained to x(empty) - eta (x(target) - x(empty)).

    target: embeddings (N, L, d) of prompts with the concept; clean: latents (N, C, h, w) generated from them;
    training.strength: eta.
    """

    def goal(frozen: nn.Module, noised: Noised, pick: torch.Tensor) -> torch.Tensor:
        guide = classifier_free(target[pick], empty, -training.strength)  # away from the prompt
        return guide.to(noised.latents.device, noised.latents.dtype).predict(frozen, *noised)

    return erase_by_training(painter, (clean, target), goal, training, generator)


def concept_ablation(
    painter: ImageGenerator,
    target: torch.Tensor,
    anchor: torch.Tensor,
    clean: torch.Tensor,
    training: FineTuning,
    generator: torch.Generator,
) -> nn.Module:
    """Return a generator whose output for the target was regressed to its own for the anchor (Kumari et al. 2023).

    target, anchor: aligned embeddings (N, L, d); clean: latents (N, C, h, w) generated from the anchor prompts.
    """

    def goal(frozen: nn.Module, noised: Noised, pick: torch.Tensor) -> torch.Tensor:
        return frozen(*noised, anchor[pick].to(noised.latents.device), return_dict=False)[0]

    return erase_by_training(painter, (clean, target), goal, training, generator)


@torch.no_grad()
def unified_concept_editing(
    unet: nn.Module,
    target: torch.Tensor,
    anchor: torch.Tensor,
    keep: torch.Tensor,
    keep_weight: float = 1.0,
    ridge: float = 0.1,
) -> nn.Module:
    """Return a UCE-like generator (Gandikota et al. 2024): keys and values of the attention to text in closed form.

    W* = (sum v* c^T + lambda W sum k k^T + mu W)(sum c c^T + lambda sum k k^T + mu I)^-1, with c over all positions of
    target prompts, v* = W times the anchor's embedding there, and k over prompts to keep; all (N, L, d), sums as means.
    """
    c, a, k = (one.flatten(0, 1).double() for one in (target, anchor, keep))
    identity = torch.eye(c.shape[1], dtype=torch.float64)
    kept = keep_weight * k.T @ k / len(k) + ridge * identity
    move = torch.linalg.solve(c.T @ c / len(c) + kept, c.T @ a / len(c) + kept).T  # W* = W move
    edited = deepcopy(unet).requires_grad_(False)
    for layer in cross_attention(edited).values():
        layer.weight.copy_(layer.weight.double() @ move.to(layer.weight.device))
    return edited


@dataclass(frozen=True)
class Projection:
    """Takes out of every embedding what lies along the concept and puts the anchor's mean there.

    basis: (k, d) orthonormal; offset: (d,), the anchor's mean within the basis.
    """

    basis: torch.Tensor
    offset: torch.Tensor

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden - hidden @ self.basis.T @ self.basis + self.offset


@torch.no_grad()
def fit_projection(target: torch.Tensor, anchor: torch.Tensor, positions: torch.Tensor, rank: int = 1) -> Projection:
    """Return the projection off the concept's directions (SAFREE- and LEACE-like).

    target, anchor: aligned embeddings (N, L, d); positions: (N, L) bool, where they count; rank: the leading `rank`
    right singular vectors of their differences.
    """
    difference = (target - anchor)[positions]
    basis = torch.linalg.svd(difference, full_matrices=False).Vh[:rank]
    return Projection(basis, anchor[positions].mean(0) @ basis.T @ basis)


def safe_clip(
    text_encoder: nn.Module,
    found: Triples,
    steps: int,
    learning_rate: float,
    batch_size: int,
    generator: torch.Generator,
) -> nn.Module:
    """Return a Safe-CLIP-like text encoder (Poppi et al. 2024): T'(p_t) to T(p_a), T'(p_a) and T'(p_b) to themselves.

    The losses are the sanitizer's without scores; here all weights of the encoder learn.
    """
    data = embed_triples(text_encoder, found)
    if not len(data.target):
        raise CompanionError("Safe-CLIP got no training prompts; give it triples of prompts.")
    tuned = deepcopy(text_encoder).requires_grad_(True)
    optimiser = AdamW(tuned.named_parameters(), weight_decay=0.0)
    for step in range(steps):
        pick = torch.randint(len(data.target), (min(batch_size, len(data.target)),), generator=generator)
        ids = torch.cat([found.target[pick], found.anchor[pick], found.benign[pick]])
        wanted = torch.cat([data.anchor[pick], data.anchor[pick], data.benign[pick]])
        loss = 3 * (hidden_states(tuned, ids) - wanted).square().mean()
        loss.backward()
        optimiser.step(warmup_cosine(learning_rate, step, steps, 20))
    return tuned.eval().requires_grad_(False)


def later_positions(ids: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return where (N, L) bool two aligned prompts may differ in a causal encoder: from their first other word on."""
    return (ids != other).long().cumsum(1) > 0
