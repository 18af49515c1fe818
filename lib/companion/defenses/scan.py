"""SCAn (Tang et al., USENIX Security 2021): look for a class whose features look like two groups instead of one.

A clean set gives a global model of features: class centres vary with covariance S_u, images around their centre with
S_e (expectation maximisation, one S_e for all classes). In the inspected, perhaps poisoned set each class t is split
into two groups under F = S_e^-1, and J_t is the likelihood ratio of two groups to one, per image. A poisoned target
class holds its own images and the poisoned ones, so its J_t stands out: its distance from the median in units of the
scaled median absolute deviation is the score, and e^2 the limit.

The split is the classification form of expectation maximisation: two means under the metric F, started from the sign
of the first principal component, so that nothing is random. Written from the BackdoorBench port's description.
"""

import math
from dataclasses import dataclass

import torch

from companion.errors import CompanionError

MAD_SCALE = 1.4826


@dataclass(frozen=True)
class Config:
    """Settings of SCAn.

    dimensions: features are reduced to so many principal components of the clean set (None: all of them); iterations:
    of the global model's expectation maximisation; split_iterations: of the split, at most; threshold: of the score;
    one_sided: only a class above the median is flagged, where the port counts both directions; ridge: share of the mean
    variance that is added to the diagonal of S_e.
    """

    dimensions: int | None = 32
    iterations: int = 10
    split_iterations: int = 50
    threshold: float = math.e**2
    one_sided: bool = False
    ridge: float = 1e-3


PORT = Config()
ONE_SIDED = Config(one_sided=True)


@dataclass(frozen=True, eq=False)
class Report:
    """What SCAn says of one inspected set.

    statistics: (K,) float64, J of each class; scores: (K,), distances from the median in scaled MADs (0 for the median
    itself where the MAD is 0, else infinite there); flagged: the labels above the threshold; groups: for each class,
    (n_t,) int64 of 0 and 1, the two groups of its images in their order.
    """

    statistics: torch.Tensor
    scores: torch.Tensor
    flagged: tuple[int, ...]
    groups: tuple[torch.Tensor, ...]

    @property
    def score(self) -> float:
        """The largest score."""
        return float(self.scores.max())


def inspect(
    features: torch.Tensor,
    labels: torch.Tensor,
    clean_features: torch.Tensor,
    clean_labels: torch.Tensor,
    config: Config = PORT,
) -> Report:
    """Return SCAn's report on a set of labelled images.

    features: (N, D) float, of the set that is inspected, as the suspected network computes them; labels: (N,) int64 in
    [0, K), as the set has them; clean_features (n, D), clean_labels (n,): of a clean set that contains every label.
    Raises CompanionError for other shapes, values that are not finite, fewer than two labels, a label with fewer than
    2 inspected or without clean images, and fewer clean images than are needed to tell the labels apart.
    """
    _check(features, labels, clean_features, clean_labels)
    classes = int(labels.max()) + 1
    centre, axes = _components(clean_features.double().cpu(), config.dimensions)
    clean, inspected = ((part.double().cpu() - centre) @ axes for part in (clean_features, features))
    within = global_model(clean, clean_labels.cpu(), config)[1]
    whiten = torch.linalg.cholesky(torch.linalg.inv(within))  # F = L L', so distances under F are plain ones of x L
    white = inspected @ whiten
    found = [split(white[labels.cpu() == label], config.split_iterations) for label in range(classes)]
    statistics = torch.tensor([value for value, _ in found], dtype=torch.float64)
    scores = deviations(statistics)
    above = statistics > statistics.quantile(0.5) if config.one_sided else torch.ones_like(scores, dtype=torch.bool)
    flagged = ((scores > config.threshold) & above).nonzero().flatten().tolist()
    return Report(statistics, scores, tuple(flagged), tuple(groups for _, groups in found))


def deviations(values: torch.Tensor) -> torch.Tensor:
    """Return |v - median| / (1.4826 MAD) of values (K,), with the averaging median.

    Of two different values both are 0.6745, whatever they are. Where the MAD is 0: 0 for the median, else infinite.

    >>> deviations(torch.tensor([3.0, 4711.0])).round(decimals=4).tolist()
    [0.6745, 0.6745]
    """
    values = values.double()
    distances = (values - values.quantile(0.5)).abs()
    return torch.where(distances == 0, 0.0, distances / (MAD_SCALE * distances.quantile(0.5)))


def global_model(features: torch.Tensor, labels: torch.Tensor, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the covariances S_u between and S_e within classes, each (d, d), of clean features (n, d) and labels (n,).

    x = u_class + e with u ~ N(0, S_u), e ~ N(0, S_e) around the mean of all: an exact E-step for the class centres,
    then both covariances from their posteriors.
    """
    classes = labels.unique()
    centred = features - features.mean(0)
    counts = torch.stack([(labels == label).sum() for label in classes]).double()  # (K,)
    means = torch.stack([centred[labels == label].mean(0) for label in classes])  # (K, d)
    position = torch.searchsorted(classes, labels)
    between = means.T @ means / len(classes)
    rest = centred - means[position]
    within = rest.T @ rest / len(centred)
    eye = torch.eye(features.shape[1], dtype=features.dtype)
    for _ in range(config.iterations):
        within = within + config.ridge * within.diagonal().mean() * eye
        between = between + 1e-9 * between.diagonal().mean() * eye
        noise = within / counts.view(-1, 1, 1)  # (K, d, d): of a class mean
        gain = between @ torch.linalg.inv(between + noise)  # (K, d, d)
        centres = (gain @ means.unsqueeze(2)).squeeze(2)  # (K, d)
        spread = between - gain @ between  # (K, d, d): what is left unknown of a centre
        rest = centred - centres[position]
        weights = (counts / len(centred)).view(-1, 1, 1)
        within = rest.T @ rest / len(centred) + (weights * spread).sum(0)
        between = centres.T @ centres / len(classes) + spread.mean(0)
    return between, within + config.ridge * within.diagonal().mean() * eye


def split(white: torch.Tensor, iterations: int) -> tuple[float, torch.Tensor]:
    """Return J and the group of each image, for whitened features (n, d) of one class, n >= 2.

    J = (sum of squared distances from the class mean - sum of squared distances from the own group's mean) / n: twice
    the log likelihood ratio of two groups to one, for each image, when both have covariance S_e.
    """
    centred = white - white.mean(0)
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    groups = (centred @ direction > 0).long()
    for _ in range(iterations):
        if groups.min() == groups.max():
            return 0.0, groups
        centres = torch.stack([centred[groups == side].mean(0) for side in (0, 1)])  # (2, d)
        nearer = torch.cdist(centred, centres).argmin(1)
        if torch.equal(nearer, groups):
            break
        groups = nearer
    if groups.min() == groups.max():
        return 0.0, groups
    centres = torch.stack([centred[groups == side].mean(0) for side in (0, 1)])
    one, two = centred.square().sum(), (centred - centres[groups]).square().sum()
    return float((one - two) / len(centred)), groups


def _components(clean: torch.Tensor, dimensions: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    centre = clean.mean(0)
    most = min(len(clean) - 1, clean.shape[1])
    wanted = most if dimensions is None else min(dimensions, most)
    return centre, torch.linalg.svd(clean - centre, full_matrices=False).Vh[:wanted].T  # (D,), (D, d)


def _check(features, labels, clean_features, clean_labels) -> None:
    for what, values, names in (("inspected", features, labels), ("clean", clean_features, clean_labels)):
        if values.ndim != 2 or names.shape != values.shape[:1] or names.dtype != torch.int64 or not len(names):
            raise CompanionError(
                f"SCAn got {what} features of shape {tuple(values.shape)} and labels of shape {tuple(names.shape)} "
                f"{names.dtype}; expected (N, D) and (N,) int64 with N >= 1."
            )
        if not torch.isfinite(values).all():
            raise CompanionError(f"SCAn got {what} features that are not finite; look at the network's weights.")
    classes = int(max(labels.max(), clean_labels.max())) + 1
    if classes < 2 or features.shape[1] != clean_features.shape[1]:
        raise CompanionError(
            f"SCAn got {classes} labels and features of {features.shape[1]} and {clean_features.shape[1]} dimensions; "
            "expected at least two labels and the same network for both sets."
        )
    if len(clean_labels) <= classes:
        raise CompanionError(
            f"SCAn got {len(clean_labels)} clean images for {classes} labels; its model of the variation within a "
            "class needs more images than labels. Give it more clean images."
        )
    for what, names, least in (("inspected", labels, 2), ("clean", clean_labels, 1)):
        counts = torch.bincount(names.cpu(), minlength=classes)
        if (counts < least).any():
            label = int((counts < least).nonzero()[0])
            raise CompanionError(
                f"SCAn got {int(counts[label])} {what} images of label {label}; expected at least {least} of each of "
                f"the {classes} labels."
            )
