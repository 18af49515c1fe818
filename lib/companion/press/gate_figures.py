"""The figure gate: the arrays behind each figure, and the rendered image by its root mean square difference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image, ImageChops, ImageOps

from companion.press.card import Tolerance
from companion.press.gates import Report, Row, missing_and_new, no_reference, read_json, tolerance_for, unreadable

WIDTH = 480  # pixels of a reference image
BITS = 5  # of each colour that a reference image keeps: 20 to 40 kB a figure
LARGEST_RMS = 1.0  # of 255; one changed letter of an axis label gives about 1.6, another curve 9, the same figure 0


def figures_gate(reference: Path, run: Path, tolerances: Sequence[Tolerance], slug: str, pictures: Path) -> Report:
    """Hold the figures of the folder `run` against those of the folder `reference`.

    tolerances: the card's; `figures/<name>/<array>` is matched against their patterns; pictures: the folder that
    gets <name>.png (reference, now and their difference side by side) of each image that differs.
    """
    then = read_json(reference / "results.json", slug)["figures"]
    now = read_json(run / "results.json", slug)["figures"]
    rows, details = missing_and_new("figures/", then, now), []
    for name in then:
        if name not in now:
            continue
        arrays = [folder / "arrays" / f"{name}.npz" for folder in (reference, run)]
        rows += compare_arrays(f"figures/{name}", *map(_load, arrays, [slug] * 2), tolerances)
        images = [folder / "figures" / f"{name}.png" for folder in (reference, run)]
        row = compare_images(f"figures/{name} (image)", *images, pictures / f"{name}.png", slug)
        rows.append(row)
        if not row.ok:
            details.append(f"figures/{name}: reference, now and difference side by side in {pictures / name}.png")
    return Report("figures", tuple(rows) or (Row("figures", "none", "none", True),), tuple(details))


def _load(path: Path, slug: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise no_reference(path, slug)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, BadZipFile) as error:
        raise unreadable(path, slug, error) from None


def compare_arrays(
    what: str, reference: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray], tolerances: Sequence[Tolerance]
) -> list[Row]:
    """Return a row for each array of a figure: shape, kind of dtype, places of NaN, then the largest difference."""
    rows = missing_and_new(f"{what}/", reference, now)
    for name in reference:
        if name in now:
            tolerance = tolerance_for(f"{what}/{name}", tolerances)
            rows.append(_compare_array(f"{what}/{name}", reference[name], now[name], tolerance))
    return rows


def _compare_array(what: str, then: np.ndarray, now: np.ndarray, tolerance: Tolerance) -> Row:
    if then.shape != now.shape:
        return Row(what, f"shape {then.shape}", f"shape {now.shape}", False)
    if then.dtype.kind != now.dtype.kind:
        return Row(what, f"dtype {then.dtype}", f"dtype {now.dtype}", False)
    if then.dtype.kind not in "iufc":  # truth values, text
        changed = int((then != now).sum())
        return Row(what, f"{then.size} values", f"{changed} of them differ", not changed, "", "exact")
    wide = "complex128" if then.dtype.kind == "c" else "float64"
    then, now = then.astype(wide), now.astype(wide)
    if (np.isnan(then) != np.isnan(now)).any():
        return Row(what, f"{np.isnan(then).sum()} NaN", f"{np.isnan(now).sum()} NaN, or at other places", False)
    close = np.isclose(now, then, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
    allowed = f"{tolerance.absolute:g} + {tolerance.relative:g} relative"
    if close.all():
        return Row(what, f"{then.size} values", "close", True, "", allowed)
    with np.errstate(invalid="ignore"):
        difference = np.where(close, 0.0, np.abs(now - then))
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    place = f"[{', '.join(map(str, worst))}]"
    found = f"{now[worst]:.10g}; {(~close).sum()} of {close.size} values differ"
    return Row(what, f"{then[worst]:.10g} at {place}", found, False, f"{difference[worst]:.3g}", allowed)


def reduce_image(path: Path) -> Image.Image:
    """Return the picture as references keep it: RGB on white, at most WIDTH pixels wide, BITS bits a colour.

    Each pixel depends on its own neighbourhood alone (no shared palette), so a small change stays a small change.
    """
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    if picture.width > WIDTH:
        height = max(1, round(picture.height * WIDTH / picture.width))
        picture = picture.resize((WIDTH, height), Image.Resampling.BOX)
    return ImageOps.posterize(picture, BITS)


def image_rms(first: Image.Image, second: Image.Image) -> float:
    """Return the root mean square difference of two RGB images of one size, on the scale 0 to 255."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return float(np.sqrt(np.mean(difference**2)))


def compare_images(what: str, reference: Path, now: Path, picture: Path, slug: str) -> Row:
    """Return the row that compares a reference image with a rendered figure; `picture` is written if they differ."""
    if not reference.is_file():
        raise no_reference(reference, slug)
    try:
        then, today = reduce_image(reference), reduce_image(now)
    except OSError as error:
        raise unreadable(reference, slug, error) from None
    if then.size != today.size:
        row = Row(what, f"{then.width} x {then.height} px", f"{today.width} x {today.height} px", False)
    else:
        rms = image_rms(then, today)
        row = Row(what, "image", f"RMS {rms:.3g}", rms <= LARGEST_RMS, f"{rms:.3g}", f"RMS {LARGEST_RMS:g} of 255")
    if not row.ok:
        _write_side_by_side(then, today, picture)
    return row


def _write_side_by_side(then: Image.Image, today: Image.Image, path: Path) -> None:
    """Write reference, now and their difference (made visible: black is equal) beside each other."""
    height = max(then.height, today.height)
    panels = [then, today]
    if then.size == today.size:
        panels.append(ImageOps.autocontrast(ImageChops.difference(then, today)))
    sheet = Image.new("RGB", (sum(panel.width + 8 for panel in panels) - 8, height), "grey")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + 8
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
