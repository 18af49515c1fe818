"""A network as a chain of stages whose output channels can be switched off, and its answers for many masks at once.

A *neuron* here is an output channel of a stage, taken after its batch normalisation and ReLU; a neuron that is switched
off gives zero at every place of its map. (Zero before batch normalisation would be another thing: the normalisation
would turn it into a constant.) Masks are a batch dimension. Two masks that agree on the first stages share their
computation there: the images pass through a stage once for each different set of neurons before it, not once for each
mask. In a walk that removes neurons one after the other most masks differ in a late stage only, which is what makes
Monte-Carlo estimates over such walks cheap.
"""

from collections.abc import Sequence

import torch
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of
from companion.models.resnet import ResNet18
from companion.models.small import SmallCNN

CHUNK = 160  # masks that are evaluated together; more do not go faster and take more memory
ROOM = 2**24  # numbers that one activation of a chunk may hold, about 67 MB


class Chain(nn.Module):
    """A network in stages: logits = tail(stage_L(... stage_1(images))).

    stages: modules whose outputs are (B, C_s, H_s, W_s) or (B, C_s); their channels are the neurons, numbered stage
    after stage; tail: from the last stage to logits (B, K), without neurons. The stages are the network's own modules,
    not copies, so training the chain trains the network.
    """

    def __init__(self, stages: Sequence[nn.Module], tail: nn.Module, sizes: Sequence[int]):
        super().__init__()
        self.stages, self.tail, self.sizes = nn.ModuleList(stages), tail, tuple(int(size) for size in sizes)
        if not self.sizes or min(self.sizes) < 1:
            raise CompanionError(
                f"a chain with stages of {list(self.sizes)} neurons has nothing to prune; expected one stage or more "
                "with at least one neuron each."
            )

    @property
    def neurons(self) -> int:
        """How many neurons there are in all stages together."""
        return sum(self.sizes)

    def stage_of(self, neurons: torch.Tensor) -> torch.Tensor:
        """Return the stage, counted from 0, of each neuron in `neurons` (int64, any shape)."""
        return torch.bucketize(neurons, torch.tensor(self.sizes).cumsum(0), right=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W) with every neuron on."""
        for stage in self.stages:
            images = stage(images)
        return self.tail(images)

    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return each stage's mean activation over places, (B, C_s) a stage, with every neuron on."""
        found = []
        for stage in self.stages:
            images = stage(images)
            found.append(images.flatten(2).mean(2) if images.ndim > 2 else images)
        return found


class Masked:
    """The answers of a chain to fixed images, for any number of masks.

    chain: on its device, evaluated in evaluation mode and without gradients; images: (N, C, H, W) in [0, 1]. The
    output of the first stage is computed once, here. `passes` counts images sent through each later stage or the tail,
    (L,) int64: what the masks really cost.
    """

    def __init__(self, chain: Chain, images: torch.Tensor):
        if images.ndim != 4 or not len(images):
            raise CompanionError(f"images of shape {tuple(images.shape)} to evaluate masks on; expected (N, C, H, W).")
        self.chain, self.count = chain.eval(), len(images)
        self.device = device_of(chain)
        with torch.no_grad():
            self.first = chain.stages[0](images.to(self.device))  # (N, C_1, H_1, W_1)
        self.passes = torch.zeros(len(chain.sizes), dtype=torch.int64)
        self.chunk = max(1, min(CHUNK, ROOM // self.first.numel()))

    def logits(self, masks: torch.Tensor) -> torch.Tensor:
        """Return logits (M, N, K) for masks (M, neurons) bool, True where a neuron is on.

        Neighbouring masks should have much in common, such as the steps of one walk: they are evaluated in chunks.
        """
        if masks.ndim != 2 or masks.shape[1] != self.chain.neurons or masks.dtype != torch.bool:
            raise CompanionError(
                f"masks of shape {tuple(masks.shape)} and type {masks.dtype}; expected (M, {self.chain.neurons}) "
                "torch.bool, a column for each neuron."
            )
        with torch.no_grad():
            return torch.cat([self._logits(part) for part in masks.to(self.device).split(self.chunk)])

    def _logits(self, masks: torch.Tensor) -> torch.Tensor:
        maps = self.first.unsqueeze(0)  # (U, N, C, H, W): one entry for each different set of neurons so far
        owner = torch.zeros(len(masks), 1, dtype=torch.int64, device=self.device)  # (M, 1): the entry of each mask
        following = [*self.chain.stages[1:], self.chain.tail]
        for index, (mask, stage) in enumerate(zip(masks.split(self.chain.sizes, dim=1), following, strict=True)):
            groups, owner = torch.unique(torch.cat([owner, mask.long()], 1), dim=0, return_inverse=True)
            owner = owner.unsqueeze(1)
            kept = groups[:, 1:].to(maps.dtype).view(len(groups), 1, -1, *[1] * (maps.ndim - 3))  # (U, 1, C, 1, 1)
            maps = maps[groups[:, 0]] * kept  # (U, N, C, H, W)
            self.passes[index] += len(groups) * self.count
            layout = torch.channels_last if maps.ndim == 5 else torch.contiguous_format
            found = stage(maps.flatten(0, 1).contiguous(memory_format=layout))
            maps = found.unflatten(0, (len(groups), self.count))
        return maps[owner.squeeze(1)]  # (M, N, K)


class _MaxThenHead(nn.Module):
    """What follows the last block of `SmallCNN`: the global maximum and the linear layer."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.head(maps.amax(dim=(2, 3)))


def chain_of(model: nn.Module) -> Chain:
    """Return the chain of a network of `companion.models.build`.

    The small network has a stage for each of its three blocks; ResNet-18 one for its stem and one for each residual
    block, whose channels are counted after the sum with the shortcut. A chain is returned as it is.
    Raises CompanionError for another kind of network, and for weights that are not finite.
    """
    if isinstance(model, Chain):
        chain = model
    elif isinstance(model, SmallCNN):
        chain = Chain(model.blocks, _MaxThenHead(model.head), [block[0].out_channels for block in model.blocks])
    elif isinstance(model, ResNet18):
        body = model.backbone
        stem = nn.Sequential(body.conv1, body.bn1, body.relu)
        blocks = [block for layer in (body.layer1, body.layer2, body.layer3, body.layer4) for block in layer]
        tail = nn.Sequential(body.avgpool, nn.Flatten(), model.head)
        chain = Chain([stem, *blocks], tail, [64, *[block.conv2.out_channels for block in blocks]])
    else:
        raise CompanionError(
            f"a {type(model).__name__} has nothing to prune that is known here; expected SmallCNN, ResNet18, or a "
            "Chain of your own stages."
        )
    _check_finite(chain)
    return chain


def _check_finite(chain: Chain) -> None:
    for name, value in chain.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise CompanionError(
                f"{bad} of {value.numel()} numbers of the network's {name} are not finite; no neuron of it can be "
                "valued. Look at its training, or load it again."
            )
