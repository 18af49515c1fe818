"""The verdict gate fails when the status of a claim, one of its parts or the card's claims change."""

import dataclasses

import pytest
from gate_toys import toy_card, toy_reference, toy_run

from companion.errors import CompanionError
from companion.press.card import ClaimTest
from companion.press.claims import verdicts
from companion.press.gate_verdicts import verdicts_gate

KNOWN = {"asr.plain", "index"}


def gate(tmp_path, card=None, **changes):
    card, run = card or toy_card(), toy_run(tmp_path / "run", **changes)
    return verdicts_gate(toy_reference(tmp_path), card, verdicts(card, [run]), KNOWN)


def test_unchanged_verdicts_pass_and_a_failed_claim_is_no_failure(tmp_path):
    report = gate(tmp_path)
    assert report.passed and [row.now for row in report.rows] == ["held", "failed"]


def test_a_changed_verdict_fails_and_names_claim_and_part(tmp_path):
    report = gate(tmp_path, asr=89.0)
    assert [(row.what, row.reference, row.now) for row in report.failures] == [
        ("claim works", "held", "failed"),
        ("claim works, test high, seed 0", "holds", "does not hold"),
    ]


def test_a_part_counts_where_too_few_seeds_leave_the_claim_not_tested(tmp_path):
    claims = tuple(dataclasses.replace(claim, minimum_seeds=3) for claim in toy_card().claims)
    card = toy_card(claims=claims)
    report = gate(tmp_path, card, asr=89.0)
    assert "claim works, test high, seed 0" in [row.what for row in report.failures]


def test_missing_and_new_claims_and_tests_fail(tmp_path):
    first, second = toy_card().claims
    card = toy_card(claims=(dataclasses.replace(first, id="other"), second))
    assert {row.what for row in gate(tmp_path, card).failures} == {"claim works", "claim other"}


def test_a_mistyped_metric_fails_with_a_hint(tmp_path):
    first, second = toy_card().claims
    card = toy_card(claims=(dataclasses.replace(first, tests=(ClaimTest("high", "asr.plane > 90"),)), second))
    lines = [row.what for row in gate(tmp_path, card).failures]
    assert any("no run produces the metric asr.plane; did you mean asr.plain" in line for line in lines)


def test_a_missing_reference_says_how_to_make_it(tmp_path):
    with pytest.raises(CompanionError, match="companion reference toy"):
        verdicts_gate(tmp_path, toy_card(), [], KNOWN)
