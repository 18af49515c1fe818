"""Reads the pickles in which CIFAR is published, without running anything that a pickle could ask for.

A pickle is a program for a small stack machine; two of its instructions fetch any Python object by name and call it,
which is how a hostile file runs code. The reader below interprets the instructions itself. A name stays a pair of
strings, a call stays an inert record, and the only record that is ever turned into something else is the one that
means "a C-ordered array of unsigned bytes", for which the bytes are handed to numpy.frombuffer. Nothing is imported,
looked up or called by a name from the file; any instruction outside the short list below is an error.
"""

import pickletools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from companion.errors import CompanionError

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE"}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_ARRAY = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    module: str
    name: str


@dataclass
class _Call:
    """A call that the file asks for and that is not made: numpy's array or dtype, with the state it would be given."""

    function: _Name
    arguments: tuple
    state: tuple | None = None


def read_pickle(path: Path) -> dict:
    """Return the dictionary in the pickle file `path`: strings, numbers, lists and (N, M) uint8 arrays, nothing else.

    Strings written by Python 2 come back as str. Raises CompanionError for a file that is cut short and for one that
    asks for anything but such values.
    """
    return parse_pickle(path.read_bytes(), str(path))


def parse_pickle(content: bytes, origin: str) -> dict:
    """Return the dictionary in the pickle `content`; `origin` names it in errors."""
    machine = _Machine()
    try:
        for opcode, argument, machine.position in pickletools.genops(content):
            machine.step(opcode.name, argument)
        result = _finished(machine.stack.pop())
    except CompanionError as error:
        place = f"{origin}: refused at byte {machine.position:,}"
        raise CompanionError(f"{place}: {error} Nothing of it was run.") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CompanionError(f"{origin} is not a complete pickle of CIFAR's form: {error}. Fetch it again.") from None
    if not isinstance(result, dict):
        raise CompanionError(f"{origin} holds a {type(result).__name__}, expected a dictionary as in CIFAR's batches.")
    return result


class _Machine:
    """The stack machine, for the instructions that protocol 2 needs to write plain values and byte arrays."""

    def __init__(self) -> None:
        self.stack: list = []
        self.memo: dict[int, object] = {}
        self.position = 0  # of the current instruction, in bytes

    def step(self, name: str, argument: object) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(_Name(*argument.split(" ", 1)))
        elif name not in ("PROTO", "STOP"):
            self._combine(name)

    def _combine(self, name: str) -> None:
        """Carry out an instruction that takes values off the stack."""
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name == "TUPLE":
            self.stack.append(tuple(self._since_mark()))
        elif name in ("APPEND", "APPENDS"):
            values = [self.stack.pop()] if name == "APPEND" else self._since_mark()
            _of_type(self.stack[-1], list).extend(map(_finished, values))
        elif name in ("SETITEM", "SETITEMS"):
            values = [self.stack.pop(-2), self.stack.pop()] if name == "SETITEM" else self._since_mark()
            target = _of_type(self.stack[-1], dict)
            target.update(zip(values[::2], map(_finished, values[1::2]), strict=True))
        elif name == "REDUCE":
            arguments = self.stack.pop()
            self.stack[-1] = _recognised(self.stack[-1], arguments)
        elif name == "BUILD":
            state = self.stack.pop()
            _of_type(self.stack[-1], _Call).state = state
        else:
            raise CompanionError(f"the instruction {name} has no place in a file of numbers and names.")

    def _since_mark(self) -> list:
        start = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values


def _recognised(function: object, arguments: object) -> _Call:
    """Return the record of a call, if it is one of the two that an array of bytes consists of."""
    name = _of_type(function, _Name)
    pair = (name.module, name.name)
    if pair in _ARRAY and arguments and arguments[0] == _Name("numpy", "ndarray"):
        return _Call(name, arguments)
    if pair == ("numpy", "dtype") and arguments and arguments[0] == "u1":
        return _Call(name, arguments)
    raise CompanionError(f"it asks to call {name.module}.{name.name} with {_shown(arguments)}.")


def _finished(value: object) -> object:
    """Return `value`, an array instead of the record of one; anything else that is not plain data is refused."""
    if isinstance(value, _Call):
        return _array(value)
    if isinstance(value, _Name):
        raise CompanionError(f"it holds a reference to {value.module}.{value.name} where a value was expected.")
    return tuple(map(_finished, value)) if isinstance(value, tuple) else value


def _array(call: _Call) -> np.ndarray:
    _version, shape, dtype, fortran, data = call.state if isinstance(call.state, tuple) else (None,) * 5
    plain = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not (plain and isinstance(dtype, _Call) and dtype.function.name == "dtype" and fortran is False):
        raise CompanionError("an array in it is not of unsigned bytes in C order.")
    content = data.encode("latin-1")  # pickletools hands out byte strings decoded that way
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _of_type(value: object, kind: type) -> object:
    if not isinstance(value, kind):
        wanted, given = kind.__name__.strip("_").lower(), type(value).__name__
        raise CompanionError(f"an instruction needs a {wanted} and finds a {given}.")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
