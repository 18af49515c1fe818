"""Ways to steal a network, and to hide that it was stolen: extraction, fine-tuning, pruning, adversarial training.

Every function returns a new network and leaves the one that it is given as it is. The thief holds images of his own;
what he may ask the source for is said by each function. Training goes through `companion.training.train`, so the same
generator gives the same thief. Source of the attacks: the official code of SAC and SAC-JC (Guan et al. 2022, 2024).
"""

import itertools
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import frozen
from companion.ownership.checks import check_ball, check_gradient, check_images
from companion.training import TrainingConfig, features, logits, train


def extract_by_label(
    student: nn.Module,
    source: nn.Module,
    images: torch.Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
) -> nn.Module:
    """Return `student` trained on the labels that the source gives to images (N, C, H, W)."""
    check_images(images, "the thief's images")
    student = deepcopy(student)
    train(student, images, logits(source, images).argmax(1), config, generator)
    return student


def distillation(answers: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T^2 KL(softmax(targets / T) || softmax(answers / T)), averaged over samples and classes.

    answers, targets: logits (B, K). Averaging over the classes too, which makes it a K-th of the usual loss, is what
    the official code does.
    """
    student, teacher = F.log_softmax(answers / temperature, 1), F.softmax(targets / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none").mean()


def extract_by_probability(
    student: nn.Module,
    source: nn.Module,
    images: torch.Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
    temperature: float = 20.0,
    alpha: float = 0.9,
) -> nn.Module:
    """Return `student` trained on the source's probabilities: alpha T^2 KL + (1 - alpha) cross-entropy of its labels.

    images: (N, C, H, W); temperature T and alpha are those of SAC's code for CIFAR-10 (SAC-JC's has alpha 0.1).
    """
    check_images(images, "the thief's images")
    student, answers = deepcopy(student), logits(source, images)
    labels = answers.argmax(1)

    def exchange(found, labels, places):  # added to the cross-entropy, of which (1 - alpha) is to remain
        own = student.head(found)
        return alpha * (distillation(own, answers[places], temperature) - F.cross_entropy(own, labels))

    train(student, images, labels, config, generator, roles=torch.arange(len(images)), extra_loss=exchange)
    return student


def extract_embedding(
    student: nn.Module,
    source: nn.Module,
    images: torch.Tensor,
    persons: torch.Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
    match: str = "direction",
    weight: float = 10.0,
) -> nn.Module:
    """Return `student` whose embeddings imitate the source's; it is trained on the thief's persons at the same time.

    images: (N, C, H, W); persons: (N,) int64, who they show; match: "direction" asks the source for embeddings and
    adds weight (1 - cos(own, source's)), for equal dimensions; "similarity" asks for the similarities of pairs alone
    and adds weight times the mean absolute difference of the cosines within a batch. Both are our own attacks: those of
    the paper on verification were not available. Raises CompanionError for another match, and for dimensions that
    differ where they must not.
    """
    check_images(images, "the thief's images")
    if match not in ("direction", "similarity"):
        raise CompanionError(f"extraction of embeddings by {match!r}: expected direction or similarity.")
    student, wanted = deepcopy(student), F.normalize(features(source, images), dim=1)
    if match == "direction" and student.head.in_features != wanted.shape[1]:
        raise CompanionError(
            f"the student's embeddings have {student.head.in_features} dimensions, the source's {wanted.shape[1]}: "
            "directions can only be matched where both are equal. Take another width, or match similarities."
        )

    def imitate(found, labels, places):
        own, goal = F.normalize(found, dim=1), wanted[places]
        if match == "direction":
            return weight * (1 - (own * goal).sum(1)).mean()
        return weight * (own @ own.T - goal @ goal.T).abs().mean()

    train(student, images, persons, config, generator, roles=torch.arange(len(images)), extra_loss=imitate)
    return student


def pgd(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float, step: float, steps: int
) -> torch.Tensor:
    """Return adversarial images (B, C, H, W): `steps` signed gradient steps up the cross-entropy inside the eps-ball.

    eps, step: in the range [0, 1] of a pixel (the ball is of the largest difference); the start is the image itself.
    The model is used in evaluation mode and left as it was. Raises CompanionError for a negative eps or step
    and for a model that gives no gradient.
    """
    check_images(images, "images to attack")
    check_ball(eps, step, steps)
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    found = images.clone()
    with frozen(model), torch.enable_grad():
        for _ in range(steps):
            found.requires_grad_(True)
            loss = F.cross_entropy(model(found), labels, reduction="sum")
            check_gradient(loss)
            (slope,) = torch.autograd.grad(loss, found)
            found = torch.minimum(torch.maximum(found.detach() + step * slope.sign(), low), high)
    return found.detach()


def harden(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
    eps: float = 4 / 255,
    step: float = 1 / 255,
    steps: int = 5,
) -> nn.Module:
    """Return a copy of a stolen network after adversarial training: CE(clean) + CE(adv) / stopgrad(CE(adv)).

    images: (N, C, H, W); labels: (N,), what the source calls them. This is the loss of SAC-JC's code, whose attack has
    ten steps. The batches of `config` must not be cropped.
    """
    check_images(images, "the thief's images")
    if config.crop_padding:
        raise CompanionError(
            f"crop_padding is {config.crop_padding}: adversarial images are made of whole images, use 0."
        )
    hardened = deepcopy(model)

    def adversarial(found, labels, places):
        loss = F.cross_entropy(hardened(pgd(hardened, images[places], labels, eps, step, steps)), labels)
        return loss / loss.detach().clamp(min=1e-8)

    train(hardened, images, labels, config, generator, roles=torch.arange(len(images)), extra_loss=adversarial)
    return hardened


class HeadOnly(nn.Module):
    """A network of which only the head learns: its body stays in evaluation mode, batch statistics included."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.head = model.head
        self._body = [model]  # in a list, so that its parameters are not this module's

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the body's features (B, D), without gradient."""
        body = self._body[0].eval()
        with torch.no_grad():
            return body.features(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        return self.head(self.features(images))


def fine_tune(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
    last_only: bool = False,
    classes: int | None = None,
) -> nn.Module:
    """Return a copy of `model` trained further on the thief's images (N, C, H, W) and labels (N,).

    last_only: change nothing but the last layer; classes: replace the last layer by a new one with that many outputs
    (transfer to another label set), its weights drawn from `generator`.
    """
    check_images(images, "the thief's images")
    tuned = deepcopy(model)
    if classes is not None:
        tuned.head = new_head(tuned.head.in_features, classes, generator).to(tuned.head.weight.device)
    train(HeadOnly(tuned) if last_only else tuned, images, labels, config, generator)
    return tuned.eval()


def new_head(inputs: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with weights drawn from `generator`, uniform in +-1/sqrt(inputs) as torch draws them."""
    head = nn.Linear(inputs, classes)
    bound = inputs**-0.5
    with torch.no_grad():
        for parameter in (head.weight, head.bias):
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
    return head


def fine_prune(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    rates: Sequence[float],
    config: TrainingConfig,
    generator: torch.Generator,
) -> list[nn.Module]:
    """Return one network for each rate: pruned to that share of its channels, and fine-tuned after each cut.

    The channels with the smallest mean activation over the images, of all layers pooled, are cut: their filter, scale
    and shift become 0 and stay so. Each layer keeps at least one. Each rate goes on from the network before.
    rates: rising, in (0, 1), of the channels of all convolutions that a batch normalisation follows.
    Raises CompanionError for other rates, and for a network without such convolutions.
    """
    check_images(images, "the thief's images")
    if not rates or not all(0 < low < high < 1 for low, high in zip(rates, [*rates[1:], 1 - 1e-9], strict=True)):
        raise CompanionError(f"pruning rates {list(rates)}: expected rising shares in (0, 1), such as [0.2, 0.4].")
    pruned, found = deepcopy(model), []
    total = sum(norm.num_features for _, norm in layers(pruned))
    for rate in rates:
        alive = [norm.weight.detach() != 0 for _, norm in layers(pruned)]
        gone = int(total - sum(mask.sum() for mask in alive))
        _cut(pruned, _weakest(mean_activations(pruned, images), alive, round(rate * total) - gone))
        _train_rest(pruned, lambda net: train(net, images, labels, config, generator))
        found.append(deepcopy(pruned))
    return found


def layers(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the convolutions of a network with the batch normalisation that follows each."""
    parts = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
    pairs = [
        (conv, norm)
        for conv, norm in itertools.pairwise(parts)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    ]
    if not pairs:
        raise CompanionError(
            "the network has no convolution followed by batch normalisation: there is nothing to prune."
        )
    return pairs


def mean_activations(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the mean of ReLU(normalised output) of every channel over images, one vector (channels,) a layer."""
    norms = [norm for _, norm in layers(model)]
    seen = [torch.zeros_like(norm.weight.detach()) for norm in norms]
    hooks = [norm.register_forward_hook(partial(_count, total)) for norm, total in zip(norms, seen, strict=True)]
    logits(model, images)
    for hook in hooks:
        hook.remove()
    return [total / len(images) for total in seen]


def _count(total: torch.Tensor, _: nn.Module, __: tuple, output: torch.Tensor) -> None:
    total.add_(output.relu().mean((2, 3)).sum(0))


def _weakest(activations: list[torch.Tensor], alive: list[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Return, for each layer, which channels to cut (bool): the `count` weakest alive, sparing each layer's last."""
    chosen = [torch.zeros_like(mask) for mask in alive]
    strength = [value.masked_fill(~mask, torch.inf) for value, mask in zip(activations, alive, strict=True)]
    order = torch.cat(strength).argsort(stable=True).tolist()
    owner = torch.cat([torch.full((len(mask),), layer) for layer, mask in enumerate(alive)]).tolist()
    first = [sum(len(mask) for mask in alive[:layer]) for layer in range(len(alive))]
    left = [int(mask.sum()) for mask in alive]
    for place in order[: sum(left)]:
        layer = owner[place]
        if count > 0 and left[layer] > 1:
            chosen[layer][place - first[layer]] = True
            left[layer] -= 1
            count -= 1
    return chosen


def _cut(model: nn.Module, chosen: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for (conv, norm), mask in zip(layers(model), chosen, strict=True):
            for parameter in (conv.weight, norm.weight, norm.bias):
                parameter[mask] = 0


def _train_rest(model: nn.Module, training: Callable[[nn.Module], object]) -> None:
    """Run `training` while the gradients of channels that are cut are held at 0."""
    hooks = []
    for conv, norm in layers(model):
        kept = (norm.weight.detach() != 0).float()
        for parameter in (conv.weight, norm.weight, norm.bias):
            hooks.append(parameter.register_hook(partial(torch.mul, kept.view(-1, *[1] * (parameter.ndim - 1)))))
    training(model)
    for hook in hooks:
        hook.remove()
