"""AdamW for transformers: decay on weight matrices only, and the warm-up and half-cosine of CLIP's training."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from companion.errors import CompanionError


def decayed(name: str, parameter: torch.Tensor) -> bool:
    """Return whether weight decay applies: to weights of two or more dimensions, never to biases, norms and scales.

    Source: the training code of CLIP and CleanCLIP, which leave gains, biases and the logit scale out.
    """
    return parameter.ndim >= 2 and not name.endswith("bias")


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with the same numbers as `torch.optim.AdamW`, one decay per parameter.

    It exists because the first use of torch.optim loads torch's compiler for seconds. parameters: (name, parameter)
    pairs such as `model.named_parameters()`; those that need no gradient are left out; weight_decay: of those for which
    `decayed` says so; betas, epsilon: as in the paper. Raises CompanionError when nothing is left to train.

    >>> optimiser = AdamW(model.named_parameters(), weight_decay=0.1)  # doctest: +SKIP
    >>> loss.backward(); optimiser.step(learning_rate=1e-3)  # doctest: +SKIP
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ):
        kept = [(name, one) for name, one in parameters if one.requires_grad]
        if not kept:
            raise CompanionError("AdamW got no parameter that needs a gradient; unfreeze what shall be trained.")
        self.parameters = [one for _, one in kept]
        self.decays = [weight_decay if decayed(name, one) else 0.0 for name, one in kept]
        self.betas, self.epsilon, self.steps = betas, epsilon, 0
        self.first = [torch.zeros_like(one) for one in self.parameters]
        self.second = [torch.zeros_like(one) for one in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient, and drop the gradients."""
        self.steps += 1
        used = [index for index, one in enumerate(self.parameters) if one.grad is not None]
        values, gradients = [self.parameters[k] for k in used], [self.parameters[k].grad for k in used]
        first, second = [self.first[k] for k in used], [self.second[k] for k in used]
        shrunk = [value for k, value in zip(used, values, strict=True) if self.decays[k]]
        if shrunk and learning_rate:
            factors = [1 - learning_rate * self.decays[k] for k in used if self.decays[k]]
            torch._foreach_mul_(shrunk, factors)
        torch._foreach_lerp_(first, gradients, 1 - self.betas[0])
        torch._foreach_mul_(second, self.betas[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1 - self.betas[1])
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, math.sqrt(1 - self.betas[1] ** self.steps))
        torch._foreach_add_(root, self.epsilon)
        torch._foreach_addcdiv_(values, first, root, -learning_rate / (1 - self.betas[0] ** self.steps))
        for one in values:
            one.grad = None


def warmup_cosine(peak: float, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of `step` in [0, steps): linear rise over `warmup` steps, then half a cosine to 0.

    Source: the schedule of CLIP and CleanCLIP. A warm-up longer than half of all steps is cut to half of them.
    """
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
