"""The pickle reader gives plain data and runs nothing."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from cifar_toys import python2_pickle
from hypothesis import given
from hypothesis import strategies as st

from companion.data.unpickle import parse_pickle, read_pickle
from companion.errors import CompanionError


class Hostile:
    """Unpickled in the ordinary way, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["value", "in a list", "alone", "key"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run_it(tmp_path, protocol, place):
    target = tmp_path / "made"
    hostile = Hostile(target)
    content = {"value": {"data": hostile}, "in a list": {"labels": [1, hostile]}, "alone": hostile, "key": {hostile: 1}}
    file = tmp_path / "batch"
    file.write_bytes(pickle.dumps(content[place], protocol))
    with pytest.raises(CompanionError, match="batch"):
        read_pickle(file)
    assert not target.exists()
    pickle.loads(file.read_bytes())
    assert target.exists(), "the test proves nothing: the file is harmless"


def test_the_refusal_names_the_call(tmp_path):
    content = pickle.dumps({"data": Hostile(tmp_path / "made")}, 2)
    with pytest.raises(CompanionError, match=r"toy: refused at byte \d+: it asks to call posix\.mkdir with"):
        parse_pickle(content, "toy")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}U\x01acbuiltins\neval\nU\x011\x85Rs.",  # a call by GLOBAL and REDUCE
        b"\x80\x02}U\x01acbuiltins\neval\ns.",  # a name as a value
        b"\x80\x02}U\x01acbuiltins\neval\n\x85s.",  # a name inside a tuple
        b"\x80\x02}U\x01a(ibuiltins\neval\ns.",  # INST
        b"\x80\x02}U\x01acnumpy\ndtype\nU\x02O8K\x00K\x01\x87Rs.",  # numpy's dtype, of objects
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncbuiltins\nlist\nK\x00\x85U\x01b\x87Rs.",
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rs.",  # no state
        b"\x80\x02}U\x01aPid\ns.",  # a persistent id
        b"\x80\x02}U\x01a\x82\x01s.",  # an extension code
        b"\x80\x02}U\x01acnumpy\nndarray\n)\x81s.",  # NEWOBJ
    ],
)
def test_every_other_way_to_an_object_is_refused(content):
    with pytest.raises(CompanionError, match="refused at byte"):
        parse_pickle(content, "toy")


@pytest.mark.parametrize("dtype", ["u1", "i8", "O"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_only_byte_arrays_in_c_order_are_read(dtype, order):
    array = np.arange(6).reshape(2, 3).astype(dtype, order=order)
    content = python2_pickle({"data": array})
    if (dtype, order) == ("u1", "C"):
        assert parse_pickle(content, "toy")["data"].tolist() == array.tolist()
    else:
        with pytest.raises(CompanionError):
            parse_pickle(content, "toy")


plain = st.recursive(
    st.integers(-(2**31), 2**31 - 1) | st.text(max_size=5) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), plain, max_size=5))
def test_plain_data_comes_back_as_pickle_reads_it(value):
    assert parse_pickle(pickle.dumps(value, 2), "toy") == value


def test_long_lists_and_memo_entries_come_back():
    value = {
        "labels": list(range(3000)),
        "filenames": [f"image_{k}.png" for k in range(3000)],
        "again": [["x"] * 2] * 3,
    }
    assert parse_pickle(pickle.dumps(value, 2), "toy") == value
    assert parse_pickle(python2_pickle(value), "toy") == value


@given(st.binary(max_size=60))
def test_any_bytes_give_data_or_a_clear_error(content):
    for attempt in (content, b"\x80\x02}" + content, b"\x80\x02}" + content + b"."):
        try:
            assert isinstance(parse_pickle(attempt, "toy"), dict)
        except CompanionError as error:
            assert "toy" in str(error)


def test_a_pickle_cut_short_is_an_error():
    content = python2_pickle({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]})
    for length in range(0, len(content), 97):
        with pytest.raises(CompanionError):
            parse_pickle(content[:length], "toy")
