"""Random numbers in a stream for each image, so that its result does not depend on the rest of the batch."""

from collections.abc import Sequence

import torch

from companion.seeding import generator


class Draws:
    """Streams of random numbers, one an image, seeded by the attack's seed and the image's index.

    seed: of the attack; indices: B whole numbers that name the images, for example their place in the data set;
    device: of the numbers that are returned (they are drawn on the CPU, so every device sees the same ones).

    `for_points(n)` gives the same streams for n points an image. All draws then have the first dimension B n, the
    points of an image next to each other.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ):
        self.streams = [generator(seed, "transfer attack", int(index)) for index in indices]
        self.common = generator(seed, "transfer attack", "common")
        self.device, self.dtype, self.points = torch.device(device), dtype, 1

    def for_points(self, points: int) -> "Draws":
        """Return a view of the same streams that serves `points` points an image."""
        view = object.__new__(Draws)
        view.__dict__.update(self.__dict__ | {"points": points})
        return view

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Return numbers in [low, high), (B n, *shape)."""
        drawn = [torch.rand(self.points, *shape, generator=stream) for stream in self.streams]
        return torch.cat(drawn).to(self.device, self.dtype) * (high - low) + low

    def normal(self, deviation: float, *shape: int) -> torch.Tensor:
        """Return normally distributed numbers of mean 0, (B n, *shape)."""
        drawn = [torch.randn(self.points, *shape, generator=stream) for stream in self.streams]
        return torch.cat(drawn).to(self.device, self.dtype) * deviation

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """Return whole numbers in [0, high), (B n, *shape) int64."""
        drawn = [torch.randint(high, (self.points, *shape), generator=stream) for stream in self.streams]
        return torch.cat(drawn).to(self.device)

    def orders(self, length: int, *shape: int) -> torch.Tensor:
        """Return random orders of 0, ..., length - 1, (B n, *shape, length) int64."""
        return self.uniform(0, 1, *shape, length).argsort(-1)

    def member(self, count: int) -> int:
        """Return one whole number in [0, count), drawn for all images together, such as which network comes next."""
        return int(torch.randint(count, (), generator=self.common))
