"""The figure gate fails when an array or the rendered picture changes, and only then."""

import numpy as np
import pytest
from gate_toys import CURVE, toy_card, toy_figure, toy_reference, toy_run
from PIL import Image

from companion.errors import CompanionError
from companion.press.card import Tolerance
from companion.press.gate_figures import WIDTH, compare_arrays, figures_gate, image_rms, reduce_image
from companion.press.notebook import Recorder
from companion.press.reference_files import write_json

TOLERANCES = toy_card().tolerances


def gate(tmp_path, **changes):
    run = toy_run(tmp_path / "run", **changes)
    return figures_gate(toy_reference(tmp_path), run.path, TOLERANCES, "toy", tmp_path / "pictures")


def test_an_unchanged_figure_passes(tmp_path):
    report = gate(tmp_path)
    assert report.passed and len(report.rows) == 5  # four arrays and the image
    assert not (tmp_path / "pictures").exists()


def test_a_tiny_change_passes(tmp_path):
    assert gate(tmp_path, curve=CURVE + 1e-9).passed


def test_a_changed_array_fails_though_the_picture_is_the_same(tmp_path):
    curve = CURVE.copy()
    curve[4] += 1e-4
    report = gate(tmp_path, curve=curve)
    (row,) = report.failures
    assert row.what == "figures/curve/success" and "at [4]" in row.reference and row.difference == "0.0001"


def test_a_changed_picture_fails_though_the_arrays_are_the_same(tmp_path):
    report = gate(tmp_path, label="trigger lost")
    (row,) = report.failures
    assert row.what == "figures/curve (image)" and row.now.startswith("RMS")
    with Image.open(tmp_path / "pictures" / "curve.png") as picture:  # reference, now, difference
        assert picture.width > 3 * picture.height
    assert "pictures/curve.png" in "\n".join(report.lines())


def test_a_reference_picture_is_small(tmp_path):
    path = toy_reference(tmp_path) / "figures" / "curve.png"
    assert path.stat().st_size < 40_000
    with Image.open(path) as picture:
        assert picture.width == WIDTH


def test_reducing_twice_is_reducing_once(tmp_path):
    toy_figure(CURVE, "x").savefig(tmp_path / "a.png", dpi=200)
    once = reduce_image(tmp_path / "a.png")
    once.save(tmp_path / "b.png")
    assert image_rms(once, reduce_image(tmp_path / "b.png")) == 0


def test_rms_of_a_known_difference():
    black, white = Image.new("RGB", (8, 4)), Image.new("RGB", (8, 4), "white")
    half = black.copy()
    half.paste(white.crop((0, 0, 4, 4)), (0, 0))
    assert image_rms(black, white) == 255 and image_rms(black, half) == pytest.approx(255 / np.sqrt(2))


def test_transparent_pixels_count_as_white(tmp_path):
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert reduce_image(tmp_path / "clear.png").getcolors() == [(100, (248, 248, 248))]  # white in 5 bits


def test_another_size_fails(tmp_path):
    reference, run = toy_reference(tmp_path), toy_run(tmp_path / "run").path
    path = run / "figures" / "curve.png"
    with Image.open(path) as picture:
        picture.crop((0, 0, picture.width, picture.height // 2)).save(path)
    (row,) = figures_gate(reference, run, TOLERANCES, "toy", tmp_path / "pictures").failures
    assert row.reference.endswith("px") and row.reference != row.now


def test_missing_and_new_figures_fail(tmp_path):
    reference = toy_reference(tmp_path)
    recorder = Recorder("toy", "smoke", 0, tmp_path / "other")
    recorder.figure("second", toy_figure(CURVE, "x"), {"a": CURVE}, "A line.", "A line.")
    recorder.finish()
    report = figures_gate(reference, tmp_path / "other", TOLERANCES, "toy", tmp_path / "pictures")
    assert [(row.what, row.now) for row in report.failures] == [
        ("figures/curve", "missing"),
        ("figures/second", "new"),
    ]


def test_a_lost_reference_picture_says_how_to_make_it(tmp_path):
    reference, run = toy_reference(tmp_path), toy_run(tmp_path / "run").path
    (reference / "figures" / "curve.png").unlink()
    with pytest.raises(CompanionError, match="companion reference toy"):
        figures_gate(reference, run, TOLERANCES, "toy", tmp_path / "pictures")
    (reference / "arrays" / "curve.npz").write_bytes(b"PK damaged")
    with pytest.raises(CompanionError, match="cannot be read"):
        figures_gate(reference, run, TOLERANCES, "toy", tmp_path / "pictures")


def test_a_chapter_without_figures_passes(tmp_path):
    for side in ("then", "now"):
        (tmp_path / side).mkdir()
        write_json(tmp_path / side / "results.json", {"figures": {}})
    assert figures_gate(tmp_path / "then", tmp_path / "now", TOLERANCES, "toy", tmp_path).passed


A = np.array([1.0, np.nan, 3.0])


@pytest.mark.parametrize(
    ("now", "ok"),
    [
        (A, True),
        (A.astype("float32"), True),
        (A + 1e-7, True),
        (A + 1e-3, False),
        (np.array([np.nan, 1.0, 3.0]), False),
        (np.array([1.0, 2.0, 3.0]), False),
        (A[:2], False),
        (A[None], False),
        (np.array([1, 2, 3]), False),
        (np.array([1.0, np.nan, np.inf]), False),
        (np.array(["1", "2", "3"]), False),
    ],
)
def test_shape_kind_nan_and_values_of_an_array_count(now, ok):
    (row,) = compare_arrays("figures/f", {"a": A}, {"a": now}, TOLERANCES)
    assert row.ok is ok and row.what == "figures/f/a"


def test_truth_values_and_text_are_compared_exactly():
    then = {"flags": np.array([True, False]), "names": np.array(["a", "b"])}
    now = {"flags": np.array([True, True]), "names": np.array(["a", "c"])}
    assert all(row.ok for row in compare_arrays("f", then, then, TOLERANCES))
    assert not any(row.ok for row in compare_arrays("f", then, now, TOLERANCES))


def test_missing_and_new_arrays_fail():
    rows = compare_arrays("figures/f", {"a": A}, {"b": A}, TOLERANCES)
    assert [(row.what, row.ok) for row in rows] == [("figures/f/a", False), ("figures/f/b", False)]


def test_a_figures_own_tolerance():
    tolerances = (Tolerance("figures/f/*", 0.1, 0.0), *TOLERANCES)
    assert compare_arrays("figures/f", {"a": A}, {"a": A + 0.05}, tolerances)[0].ok
    assert not compare_arrays("figures/g", {"a": A}, {"a": A + 0.05}, tolerances)[0].ok
