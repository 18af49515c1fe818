"""Pictures of the embedded data sets for the data page; drawn by the library while printing and kept by digest."""

import hashlib
import os
from pathlib import Path

from companion import sources
from companion.data import catalogue, manifest
from companion.data.manifest import Manifest
from companion.press.markup import render
from companion.press.project import Project

IMAGES = 600  # drawn of a generated world, to have enough of each class
PER_CLASS = 12
MOST_CLASSES = 10
SCALE = 2  # screen pixels for a pixel of a 32x32 image


def shown(project: Project) -> list[Manifest]:
    """Return the data sets that are printed: generated worlds and images that come with a package, never real ones."""
    found = [manifest.read_manifest(path) for path in sorted(project.manifests.glob("*.yml"))]
    return [one for one in found if one.kind in ("generated", "embedded") and one.loader]


def pictures(project: Project) -> list[Path]:
    """Return the picture of each shown data set, drawing those that are not there yet."""
    folder = project.build / "book" / "galleries"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for described in shown(project):
        path = folder / f"{described.name}-{_digest(described)}.png"
        if not path.is_file():
            _draw(described, path)
        found.append(path)
    for path in set(folder.glob("*.png")) - set(found):
        path.unlink()
    return found


def figures(project: Project) -> str:
    """Return the figures of all shown data sets as HTML; they carry no number, so that chapters begin with figure 1."""
    pairs = zip(shown(project), pictures(project), strict=True)
    return render("galleries.html.j2", pairs=list(pairs), per_class=PER_CLASS)


def _digest(described: Manifest) -> str:
    reached = sources.sources_digest([catalogue.loader_module(described.name), "companion.press.galleries"])
    return hashlib.sha256(f"{catalogue.digest(described.name)} {reached}".encode()).hexdigest()[:16]


def _draw(described: Manifest, path: Path) -> None:
    from PIL import Image

    from companion.data.gallery import gallery

    options = {"size": IMAGES} if described.kind == "generated" else {}
    images = catalogue.load(described.name, "train", **options)
    classes = min(MOST_CLASSES, len(images.classes))
    picture = gallery(images, PER_CLASS, classes)  # (C, H', W')
    array = (picture * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()  # (H', W', C) or (H', W')
    scale = max(1, round(SCALE * 32 / images.shape[-1]))
    image = Image.fromarray(array)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    made = path.with_suffix(f".{os.getpid()}.tmp")
    image.save(made, format="PNG", optimize=True)
    made.replace(path)
