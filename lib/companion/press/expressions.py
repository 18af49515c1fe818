"""The small language in which a claim is tested: arithmetic and comparisons over metric ids.

Python's parser reads an expression (`ast.parse` builds a tree and runs nothing); every node is then held against a
list of what is allowed, and a plain tree walk computes the value. No text ever becomes code.
"""

import ast
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

from companion.errors import CompanionError

GRAMMAR = (
    "numbers, metric ids (asr.badnets.plain), tolerance, + - * / ** and parentheses, abs(x) min(x, y) max(x, y), "
    "< <= > >= == != (also chained: 0 <= x < 5), and, or, not"
)
LONGEST, DEEPEST, MOST_PARTS = 500, 20, 100  # characters, levels, nodes
LARGEST_NUMBER, LARGEST_EXPONENT = 1e15, 16
TOLERANCE = "tolerance"

_SEGMENT = re.compile(r"[a-z][a-z0-9_]*")
_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CALLS = {"abs": abs, "min": min, "max": max}


@dataclass(frozen=True)
class Expression:
    """A checked expression: its text and tree, the metric ids it reads in order, whether it reads the tolerance."""

    text: str
    tree: ast.expr
    metrics: tuple[str, ...]
    uses_tolerance: bool


@dataclass(frozen=True)
class Outcome:
    """Whether an expression holds, and by how much: positive is the distance inside the boundary, None is unknown."""

    passed: bool
    margin: float | None


def parse_expression(text: str, source: str = "a claim") -> Expression:
    """Return the checked expression for `text`.

    `source` names where the text came from, for the message. Raises CompanionError when the text is not an
    expression of the grammar, or is longer, deeper or larger than an expression of a claim has reason to be.

    >>> parse_expression("asr.belt >= asr.plain - tolerance").metrics
    ('asr.belt', 'asr.plain')
    """
    text = " ".join(str(text).split())
    if len(text) > LONGEST:
        raise _refusal(source, text[:60] + " ...", LONGEST, f"{len(text)} characters; {LONGEST} are allowed")
    strange = next((i for i, letter in enumerate(text) if letter == "#" or not " " <= letter <= "~"), None)
    if strange is not None:
        raise _refusal(source, text, strange, f"the character {text[strange]!r} is not allowed")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        column = max(1, getattr(error, "offset", None) or 1) - 1
        raise _refusal(source, text, column, getattr(error, "msg", None) or "cannot be read") from None
    reader = _Reader(source, text)
    reader.truth(tree, 1)
    names = dict.fromkeys(reader.names)
    return Expression(text, tree, tuple(name for name in names if name != TOLERANCE), TOLERANCE in names)


def evaluate(expression: Expression, values: Mapping[str, float], tolerance: float | None = None) -> Outcome:
    """Return whether `expression` holds for the metric `values`.

    `tolerance` is the claim's. Raises KeyError for an id that `values` lacks, ArithmeticError (division by zero,
    overflow) or ValueError (a root of a negative number) where Python's arithmetic does.
    """
    known = {name: float(value) for name, value in values.items()}
    if tolerance is not None:
        known[TOLERANCE] = float(tolerance)
    return _truth(expression.tree, known)


def _refusal(source: str, text: str, column: int, reason: str) -> CompanionError:
    return CompanionError(
        f"{source}: the expression cannot be used, column {column + 1}: {reason}\n"
        f"    {text}\n    {' ' * min(column, len(text))}^\n"
        f"  allowed: {GRAMMAR}. Correct the expression in paper.yml."
    )


class _Reader:
    """Holds each node against the grammar; a node is read either as a number or as a truth."""

    def __init__(self, source: str, text: str):
        self.source, self.text = source, text
        self.names: list[str] = []
        self.parts = 0

    def refuse(self, node: ast.AST, reason: str) -> CompanionError:
        return _refusal(self.source, self.text, getattr(node, "col_offset", 0), reason)

    def step(self, node: ast.AST, depth: int) -> None:
        self.parts += 1
        if depth > DEEPEST:
            raise self.refuse(node, f"nested more than {DEEPEST} levels deep")
        if self.parts > MOST_PARTS:
            raise self.refuse(node, f"more than {MOST_PARTS} parts")

    def truth(self, node: ast.expr, depth: int) -> None:
        self.step(node, depth)
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self.truth(value, depth + 1)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.truth(operand, depth + 1)
            case ast.Compare(left=left, ops=ops, comparators=others):
                if bad := [op for op in ops if type(op) not in _COMPARE]:
                    raise self.refuse(node, f"the comparison {_words(bad[0])} is not allowed")
                for value in (left, *others):
                    self.number(value, depth + 1)
            case ast.BinOp() | ast.Name() | ast.Attribute() | ast.Constant(value=int() | float()):
                raise self.refuse(node, "a number stands where a comparison (true or false) is needed")
            case _:
                raise self.refuse(node, f"{_words(node)} is not allowed here")

    def number(self, node: ast.expr, depth: int) -> None:
        self.step(node, depth)
        match node:
            case ast.Constant(value=value) if type(value) in (int, float):
                if not abs(value) <= LARGEST_NUMBER:
                    raise self.refuse(node, f"the number is larger than {LARGEST_NUMBER:g}")
            case ast.Name() | ast.Attribute():
                self.metric(node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                self.number(operand, depth + 1)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                if isinstance(op, ast.Pow):
                    self.exponent(right)
                self.number(left, depth + 1)
                self.number(right, depth + 1)
            case ast.Call():
                self.call(node, depth)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                raise self.refuse(node, "a comparison stands where a number is needed")
            case _:
                raise self.refuse(node, f"{_words(node)} is not allowed")

    def exponent(self, node: ast.expr) -> None:
        number = node.operand if isinstance(node, ast.UnaryOp) else node
        value = getattr(number, "value", None) if isinstance(number, ast.Constant) else None
        if type(value) not in (int, float) or not abs(value) <= LARGEST_EXPONENT:
            raise self.refuse(node, f"an exponent must be a written number of at most {LARGEST_EXPONENT}")

    def call(self, node: ast.Call, depth: int) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in _CALLS or node.keywords:
            raise self.refuse(node, "only abs(x), min(x, y) and max(x, y) may be called")
        if (len(node.args) != 1) if name == "abs" else (len(node.args) < 2):
            raise self.refuse(node, f"{name} takes {'one value' if name == 'abs' else 'two values or more'}")
        for argument in node.args:
            self.number(argument, depth + 1)

    def metric(self, node: ast.expr) -> None:
        name = dotted(node)
        if name is None:
            raise self.refuse(node, "a dot may only join the words of a metric id")
        if not all(_SEGMENT.fullmatch(segment) for segment in name.split(".")):
            raise self.refuse(node, f"{name} is no metric id: words of a-z, 0-9 and _, each starting with a letter")
        if name in _CALLS:
            raise self.refuse(node, f"{name} is a function and needs its values in parentheses")
        self.names.append(name)


def dotted(node: ast.expr) -> str | None:
    """Return the dotted name that `node` spells, or None if it is no plain dotted name."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    return ".".join(reversed([*words, node.id])) if isinstance(node, ast.Name) else None


def _words(node: ast.AST) -> str:
    """Return a node's kind as a person writes it: IfExp becomes 'if exp'."""
    names = {"Constant": "a text or constant", "IsNot": "is not", "NotIn": "not in", "JoinedStr": "a formatted text"}
    kind = type(node).__name__
    return names.get(kind) or " ".join(re.findall("[A-Z][a-z]*", kind)).lower() or kind


def _number(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=value):
            return float(value)
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_number(operand, values))
        case ast.BinOp(left=left, op=op, right=right):
            result = _BINARY[type(op)](_number(left, values), _number(right, values))
            if isinstance(result, complex):
                raise ValueError("a root of a negative number")
            return result
        case ast.Call(func=function, args=arguments):
            return _CALLS[function.id](*[_number(argument, values) for argument in arguments])
        case _:
            return values[dotted(node)]


def _truth(node: ast.expr, values: Mapping[str, float]) -> Outcome:
    match node:
        case ast.BoolOp(op=op, values=parts):
            outcomes = [_truth(part, values) for part in parts]
            together, nearest = (all, min) if isinstance(op, ast.And) else (any, max)
            margins = [outcome.margin for outcome in outcomes]
            passed = together(outcome.passed for outcome in outcomes)
            return Outcome(passed, None if None in margins else nearest(margins))
        case ast.UnaryOp(operand=operand):
            inner = _truth(operand, values)
            return Outcome(not inner.passed, None if inner.margin is None else 0.0 - inner.margin)
        case ast.Compare(left=left, ops=ops, comparators=others):
            numbers = [_number(value, values) for value in (left, *others)]
            steps = list(zip(numbers, ops, numbers[1:], strict=False))
            margins = [_margin(a, op, b) for a, op, b in steps]
            passed = all(_COMPARE[type(op)](a, b) for a, op, b in steps)
            return Outcome(passed, None if None in margins else min(margins))
    raise AssertionError(f"{ast.dump(node)} passed the grammar but has no meaning")


def _margin(left: float, op: ast.cmpop, right: float) -> float | None:
    if isinstance(op, ast.Eq | ast.NotEq):
        return None
    difference = left - right if isinstance(op, ast.Gt | ast.GtE) else right - left
    return difference if math.isfinite(difference) else None
