"""SCAn: a mixture among Gaussian classes stands out, and with two classes nothing ever can."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.defenses import scan
from companion.errors import CompanionError
from companion.seeding import generator

CLASSES, DIMENSIONS = 8, 6


def world(seed=0, each=60, classes=CLASSES):
    """Gaussian classes with one covariance, twice: an inspected and a clean set."""
    stream = generator(seed)
    centres = 4 * torch.randn(classes, DIMENSIONS, generator=stream)
    shape = torch.randn(DIMENSIONS, DIMENSIONS, generator=stream)
    labels = torch.arange(classes).repeat(each)
    sets = [centres[labels] + torch.randn(len(labels), DIMENSIONS, generator=stream) @ shape for _ in range(2)]
    return sets[0], labels, sets[1], labels, shape


def test_a_class_of_two_groups_is_flagged_and_its_groups_are_found():
    features, labels, clean, clean_labels, _ = world()
    poisoned = ((labels == 3).nonzero().flatten())[:25]
    features[poisoned] = features[labels == 6][:25] + 5
    report = scan.inspect(features, labels, clean, clean_labels)
    assert report.flagged == (3,) and report.score == float(report.scores[3]) > scan.PORT.threshold
    groups = report.groups[3]
    assert len(set(groups[:25].tolist())) == 1 and (groups[25:] != groups[0]).all()


def test_clean_classes_look_alike():
    features, labels, clean, clean_labels, _ = world(1, each=300)
    report = scan.inspect(features, labels, clean, clean_labels)
    assert report.flagged == ()
    expected = 2 / math.pi  # of a standard normal variable cut at its mean, the best split of one dimension
    assert (report.statistics > 0.8 * expected).all() and (report.statistics < 2.5 * expected).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=2, unique=True))
def test_of_two_values_the_deviation_is_constant(values):
    found = scan.deviations(torch.tensor(values, dtype=torch.float64))
    torch.testing.assert_close(found, torch.full((2,), 1 / scan.MAD_SCALE, dtype=torch.float64))


def test_two_classes_are_never_flagged_however_poisoned():
    features, labels, clean, clean_labels, _ = world(2, classes=2)
    features[labels == 1] = torch.where(torch.arange(60)[:, None] < 30, 100.0, features[labels == 1])
    report = scan.inspect(features, labels, clean, clean_labels)
    assert report.flagged == () and report.score == pytest.approx(0.6745, abs=1e-4)
    assert report.statistics[1] > 100 * report.statistics[0]


def test_the_score_does_not_depend_on_the_features_units():
    features, labels, clean, clean_labels, _ = world(3)
    change = torch.randn(DIMENSIONS, DIMENSIONS, generator=generator(9)) + 3 * torch.eye(DIMENSIONS)
    config = scan.Config(dimensions=None, ridge=0.0)
    first = scan.inspect(features, labels, clean, clean_labels, config).scores
    again = scan.inspect(features @ change - 7, labels, clean @ change - 7, clean_labels, config).scores
    torch.testing.assert_close(first, again, rtol=0.05, atol=0.05)  # the split starts elsewhere


def test_the_global_model_recovers_the_covariance_within_classes():
    _, labels, clean, _, shape = world(4, each=2000)
    within = scan.global_model(clean.double(), labels, scan.Config(ridge=0.0))[1]
    truth = (shape.T @ shape).double()
    assert torch.linalg.norm(within - truth) < 0.05 * torch.linalg.norm(truth)


def test_one_sided_ignores_a_class_that_is_too_compact():
    features, labels, clean, clean_labels, _ = world(5, each=200)
    features[labels == 2] = features[labels == 2].mean(0)
    both = scan.inspect(features, labels, clean, clean_labels, scan.Config(threshold=2.0))
    above = scan.inspect(features, labels, clean, clean_labels, scan.Config(threshold=2.0, one_sided=True))
    assert 2 in both.flagged and 2 not in above.flagged
    assert torch.equal(both.scores, above.scores)


def test_bad_input_is_named():
    features, labels, clean, clean_labels, _ = world()
    with pytest.raises(CompanionError, match="8 clean images for 8 labels"):
        scan.inspect(features, labels, clean[:8], clean_labels[:8])
    with pytest.raises(CompanionError, match="0 clean images of label 5"):
        scan.inspect(features, labels, clean[labels != 5], clean_labels[labels != 5])
    with pytest.raises(CompanionError, match="at least two labels"):
        scan.inspect(features, labels * 0, clean, labels * 0)
    with pytest.raises(CompanionError, match="not finite"):
        scan.inspect(features * math.inf, labels, clean, clean_labels)
    with pytest.raises(CompanionError, match="expected \\(N, D\\)"):
        scan.inspect(features, labels[:3], clean, clean_labels)
