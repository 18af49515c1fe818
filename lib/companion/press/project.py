"""Where everything of a checkout lies."""

import os
from dataclasses import dataclass
from pathlib import Path

from companion.errors import CompanionError


@dataclass(frozen=True)
class Project:
    """The folders of one checkout; `build` and everything under it is generated and never committed."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """Return the project around `start` (default: COMPANION_ROOT, else the working directory)."""
        origin = Path(start or os.environ.get("COMPANION_ROOT") or Path.cwd()).resolve()
        for folder in [origin, *origin.parents]:
            if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
                return cls(folder)
        raise CompanionError(
            f"no project at or above {origin}: expected a folder that holds _config.yml and notebooks/. "
            "Run the command inside the checkout or set COMPANION_ROOT to it."
        )

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def manifests(self) -> Path:
        return self.root / "data_manifests"

    @property
    def results(self) -> Path:
        """Committed reference numbers and recorded runs: results/<profile>/<slug>/..."""
        return self.root / "results"

    @property
    def book(self) -> Path:
        return self.root / "book"

    @property
    def lock(self) -> Path:
        return self.root / "requirements.lock"

    @property
    def build(self) -> Path:
        """Generated files; COMPANION_BUILD moves it elsewhere."""
        return Path(os.environ.get("COMPANION_BUILD") or self.root / "build")

    @property
    def runs(self) -> Path:
        """Finished runs: runs/<profile>/<slug>/seed-<seed>/<key>/."""
        return self.build / "runs"

    @property
    def failures(self) -> Path:
        """What the last failed try of a run left: failures/<profile>/<slug>/seed-<seed>/."""
        return self.build / "failures"

    @property
    def store(self) -> Path:
        """Trained models; COMPANION_STORE moves it elsewhere."""
        return Path(os.environ.get("COMPANION_STORE") or self.build / "store")

    def slugs(self) -> list[str]:
        """Return the chapters present, sorted by name: every notebooks/<slug> with a paper.yml."""
        return sorted(path.parent.name for path in self.notebooks.glob("*/paper.yml"))
