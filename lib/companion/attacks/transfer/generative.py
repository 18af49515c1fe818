"""A generative attack: a network that makes a perturbation in one pass, trained against a surrogate (GAP-like)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.transfer.state import project
from companion.errors import CompanionError
from companion.models.frozen import frozen


class PerturbationGenerator(nn.Module):
    """Images (B, C, H, W) in [0, 1] to perturbations in [-1, 1] of the same shape, by a small convolutional network.

    channels: C; width: of the hidden layers. Sides must be divisible by 2. Each channel is normalised over the image
    before the tanh: without it, training ends at a uniform change of brightness, where tanh gives no gradient.
    """

    def __init__(self, channels: int, width: int = 16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1), nn.InstanceNorm2d(channels), nn.Tanh(),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return perturbations (B, C, H, W) in [-1, 1], to be scaled by eps."""
        return self.layers(images * 2 - 1)


def train_generator(
    surrogate: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    generator: torch.Generator,
    epochs: int = 5,
    batch_size: int = 50,
    learning_rate: float = 1e-3,
    width: int = 16,
) -> PerturbationGenerator:
    """Return a generator trained with Adam so that the surrogate's probability of the true class becomes small.

    images: (N, C, H, W) in [0, 1]; labels: (N,) int64; eps: in pixels; generator: draws weights and the order of
    images. What is minimised is -log(1 - p(true class)), whose gradient neither vanishes while the surrogate is sure
    nor grows without bound once it is fooled: our choice, as the paper's own loss was not verified.
    Raises `CompanionError` at a loss that is not finite.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(seed)
        network = PerturbationGenerator(images.shape[1], width)
    network.to(images.device)
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    with frozen(surrogate):
        for _ in range(epochs):
            for chosen in torch.randperm(len(images), generator=generator).split(batch_size):
                clean = images[chosen]
                logits = surrogate(project(clean + eps * network(clean), clean, eps))
                others = logits.masked_fill(F.one_hot(labels[chosen], logits.shape[1]).bool(), -math.inf)
                loss = (logits.logsumexp(1) - others.logsumexp(1)).mean()  # -log(1 - p)
                if not torch.isfinite(loss):
                    raise CompanionError(
                        f"the generator's loss is {loss.item()}: expected a finite number. Lower the learning rate "
                        f"(now {learning_rate})."
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.eval().requires_grad_(False)
