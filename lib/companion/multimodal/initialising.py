"""Initial weights from a generator, for networks that can only draw them from torch's global one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def initialised_from(generator: torch.Generator) -> Iterator[None]:
    """Let the networks that are built inside draw their initial weights from `generator`.

    One number is drawn from `generator`, so that two blocks with it differ; torch's global state is what it was when
    the block ends, however it ends. It serves anything else on the CPU that draws globally, such as dropout.

    >>> with initialised_from(generator(0, "weights")):
    ...     model = CLIPModel(config)
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
