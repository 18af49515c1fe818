"""The claim language: equal to Python's arithmetic on what it allows, and closed to everything else."""

import ast
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.errors import CompanionError
from companion.press.expressions import GRAMMAR, evaluate, parse_expression

VALUES = {"asr": 97.25, "asr.belt": 3.5, "accuracy.badnets_2.plain": -0.125, "zero": 0.0}
PYTHON_NAMES = {name.replace(".", "_"): value for name, value in VALUES.items()}

numbers = st.deferred(lambda: leaves | negated | sums | powers | calls)
leaves = st.one_of(
    st.sampled_from(sorted(VALUES)),
    st.just("tolerance"),
    st.floats(0, 1e6).map(lambda x: repr(round(x, 6))),
)
negated = numbers.map(lambda a: f"-({a})")
sums = st.tuples(numbers, st.sampled_from(["+", "-", "*", "/"]), numbers).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
powers = st.tuples(numbers, st.sampled_from(["2", "3", "-1", "0.5"])).map(lambda t: f"({t[0]}) ** {t[1]}")
calls = st.one_of(
    numbers.map(lambda a: f"abs({a})"),
    st.tuples(st.sampled_from(["min", "max"]), numbers, numbers).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
)
symbols = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
truths = st.deferred(lambda: comparisons | chained | joined | inverted)
comparisons = st.tuples(numbers, symbols, numbers).map(" ".join)
chained = st.tuples(numbers, symbols, numbers, symbols, numbers).map(" ".join)
joined = st.tuples(truths, st.sampled_from(["and", "or"]), truths).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})")
inverted = truths.map(lambda a: f"not ({a})")


class _Dotted(ast.NodeTransformer):
    """Turns a metric id into one Python name, so that Python itself can compute the same tree."""

    def visit_Attribute(self, node):
        return ast.Name(ast.unparse(node).replace(".", "_"), ast.Load())


def python_says(text: str, tolerance: float) -> bool:
    """Python's own result, with `and` and `or` replaced by functions that look at both sides, as a claim does."""
    tree = ast.fix_missing_locations(_Dotted().visit(ast.parse(text, mode="eval")))
    return eval(compile(tree, "test", "eval"), {**PYTHON_NAMES, "tolerance": tolerance})


@settings(max_examples=150, deadline=None)
@given(truths, st.floats(0, 10))
def test_evaluation_equals_pythons_own(text, tolerance):
    try:
        expression = parse_expression(text)
    except CompanionError as error:  # the only refusal that a random valid tree may meet is its size
        assert "levels deep" in str(error) or "parts" in str(error) or "characters" in str(error)
        return
    try:
        found = evaluate(expression, VALUES, tolerance).passed
    except (ArithmeticError, ValueError):
        return  # both sides of and/or are computed, where Python may stop before the division by zero
    assert found is bool(python_says(text, tolerance))


@settings(max_examples=50, deadline=None)
@given(truths)
def test_whatever_python_cannot_compute_is_an_error_here_too(text):
    try:
        python_says(text, 1.0)
    except (ArithmeticError, TypeError):  # TypeError: the comparison of a complex number
        with pytest.raises((CompanionError, ArithmeticError, ValueError)):
            evaluate(parse_expression(text), VALUES, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "asr.__class__ > 1",
        "__import__ > 1",
        "().__class__.__bases__ > 1",
        "(asr).real > 1 and (1).real > 0",
        "__import__('os').system('true') == 0",
        "open('x') == 1",
        "getattr(asr, 'x') > 1",
        "abs.__call__(1) > 0",
        "max(asr, key=abs) > 0",
        "max(*asr) > 0",
        "min(asr) > 0",
        "abs() > 0",
        "abs > 0",
        "[asr for asr in (1, 2)] == 1",
        "(x for x in y) == 1",
        "{1: 2} == 1",
        "[1, 2] == 1",
        "(1, 2) < (2, 3)",
        "(lambda: 1)() > 0",
        "asr[0] > 1",
        "'asr' == 'asr'",
        "f'{asr}' == 1",
        "b'a' == 1",
        "asr if asr > 1 else 2 > 1",
        "(asr := 3) > 1",
        "asr in belt",
        "asr is belt",
        "asr > True",
        "None == None",
        "1j > 0",
        "... == 1",
        "asr // 2 > 1",
        "asr % 2 > 1",
        "asr @ 2 > 1",
        "asr << 2 > 1",
        "asr & 2 > 1",
        "~1 > 1",
        "2 ** asr > 1",
        "2 ** 99999999 > 1",
        "9 ** 9 ** 9 ** 9 > 1",
        "2 ** --3 > 1",
        "1e400 > 1",
        "9" * 400 + " > 1",
        "asr",
        "asr + 1",
        "1",
        "not asr",
        "asr and belt",
        "(asr > 1) + 1 > 1",
        "max(asr > 1, 2) > 1",
        "(asr > 1) > 0",
        "asr > 1; belt > 1",
        "asr = 1",
        "import os",
        "asr > 1 # and more",
        "asr > \u0661",
        "\uff41sr > 1",
        "asr > 1\x00",
        "Asr > 1",
        "asr._x > 1",
        "await asr > 1",
        "yield asr > 1",
        "",
        "asr >",
        "(" * 300 + "asr" + ")" * 300 + " > 1",
        "-" * 450 + "1 > 0",
        "not " * 100 + "1 > 0",
        " + ".join(["1"] * 100) + " > 1",
        "asr > 1 and " * 200 + "asr > 1",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(CompanionError) as caught:
        parse_expression(text, "claim stealth, test 'low'")
    message = str(caught.value)
    assert message.startswith("claim stealth, test 'low'") and "column" in message and GRAMMAR in message


def test_a_refusal_points_at_the_column():
    with pytest.raises(CompanionError) as caught:
        parse_expression("asr.belt >\n  system(1)", "claim a, test 'b'")
    lines = str(caught.value).splitlines()
    assert "column 12" in lines[0] and lines[1] == "    asr.belt > system(1)"
    assert lines[2].index("^") == lines[1].index("system")


def test_metrics_are_listed_once_in_order_and_without_tolerance():
    expression = parse_expression("b.two - tolerance <= max(a, b.two) < 3")
    assert expression.metrics == ("b.two", "a")


@pytest.mark.parametrize(
    ("text", "passed", "margin"),
    [
        ("asr >= 95", True, 2.25),
        ("asr < 95", False, -2.25),
        ("asr >= 98 - tolerance", True, 1.25),
        ("0 < asr.belt <= 5", True, 1.5),
        ("asr > 95 and asr.belt > 4", False, -0.5),
        ("asr > 95 or asr.belt > 4", True, 2.25),
        ("not asr > 95", False, -2.25),
        ("zero == 0", True, None),
    ],
)
def test_margin_is_the_distance_inside_the_boundary(text, passed, margin):
    outcome = evaluate(parse_expression(text), VALUES, tolerance=2.0)
    assert (outcome.passed, outcome.margin) == (passed, margin)


def test_arithmetic_that_fails_raises():
    for text in ("1 / zero > 0", "(-asr) ** 0.5 > 0", "zero ** -1 > 0"):
        with pytest.raises((ArithmeticError, ValueError)):
            evaluate(parse_expression(text), VALUES)
    with pytest.raises(KeyError):
        evaluate(parse_expression("unknown > 0"), VALUES)
    assert math.isinf(1e308 * 10) and evaluate(parse_expression("asr * 1e15 ** 16 > 1e15"), VALUES).passed
