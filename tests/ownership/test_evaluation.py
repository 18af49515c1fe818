"""AUC against scikit-learn and its direction, p-values against SciPy's formulas, F1 by hand, and errors."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from companion.errors import CompanionError
from companion.ownership.evaluation import auc, f1, mann_whitney, separation, welch

STOLEN, IRRELEVANT = np.array([0.1, 0.2, 0.2, 0.4]), np.array([0.2, 0.3, 0.5, 0.6, 0.45])


def test_auc_is_that_of_scikit_learn_with_irrelevant_models_as_positives():
    labels = [0] * len(STOLEN) + [1] * len(IRRELEVANT)
    assert auc(STOLEN, IRRELEVANT) == pytest.approx(roc_auc_score(labels, np.concatenate([STOLEN, IRRELEVANT])))


def test_auc_is_one_when_every_stolen_model_is_nearer_and_turns_round_with_the_roles():
    assert auc([0.1, 0.2], [0.3, 0.4]) == 1 and auc([0.3, 0.4], [0.1, 0.2]) == 0
    assert auc(STOLEN, IRRELEVANT) == pytest.approx(1 - auc(IRRELEVANT, STOLEN))
    assert auc([0.5, 0.5], [0.5]) == 0.5


def test_welch_is_scipys_and_its_formula():
    a, b = STOLEN, IRRELEVANT
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    t = (a.mean() - b.mean()) / math.sqrt(va + vb)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    assert welch(a, b) == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_mann_whitney_is_exact_without_ties():
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)  # 1 of C(6, 3) orders on either side


def test_p_values_of_groups_that_do_not_vary_are_not_numbers():
    assert math.isnan(welch([1, 1], [1, 1])) and math.isnan(welch([0, 0], [1, 1]))
    assert math.isnan(mann_whitney([1, 1], [1, 1])) and not math.isnan(mann_whitney([0, 0], [1, 1]))


def test_f1_takes_its_threshold_from_the_other_half():
    assert f1([0.1, 0.2], [0.8, 0.9]) == 1
    # half 0 (stolen 0.0, irrelevant 1.0): threshold 0.5, misses 0.6 and accuses nobody;
    # half 1 (stolen 0.6, irrelevant 0.8): threshold 0.7, finds 0.0, accuses nobody
    assert f1([0.0, 0.6], [1.0, 0.8]) == pytest.approx(2 * 1 / (2 * 1 + 1))
    # the mirror image: both thresholds 0.5; stolen are above, irrelevant below: nothing is right
    assert f1([0.9, 0.8], [0.1, 0.2]) == 0


def test_separation_holds_all_of_them():
    found = separation(STOLEN, IRRELEVANT)
    assert (found.auc, found.p_value) == (auc(STOLEN, IRRELEVANT), welch(STOLEN, IRRELEVANT))
    assert (found.stolen, found.irrelevant) == (4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc([], [1]), "stolen models.*at least 1"),
        (lambda: auc([1], [float("nan")]), "irrelevant models.*0 of them finite"),
        (lambda: welch([1], [1, 2]), "stolen models.*at least 2"),
        (lambda: f1([1, 2], [1]), "irrelevant models.*at least 2"),
    ],
)
def test_too_few_or_broken_distances_are_refused(call, message):
    with pytest.raises(CompanionError, match=message):
        call()
