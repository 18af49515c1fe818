"""Where a cell stands in the repository: its lines at the commit of the run, for a link that stays right."""

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from companion import sources
from companion.errors import CompanionError
from companion.press.convert import Cell, read_cells
from companion.press.project import Project


@dataclass(frozen=True)
class Place:
    """Lines of chapter.py and the address that shows them; `note` says why it is not the run's own commit."""

    url: str
    first: int
    last: int
    note: str = ""


@dataclass(frozen=True)
class SourceLines:
    """Finds the lines of a chapter's cells at the commit that its run was made from."""

    project: Project
    repository: str
    branch: str
    record: Mapping[str, Any]

    def of(self, cell: Cell) -> Place:
        """Return the place of a cell: at the run's commit if its code stands there, else on the main branch."""
        path = f"notebooks/{self.record['chapter']}/chapter.py"
        commit = self.record.get("commit")
        found = next((old for old in self._committed if self._same(old, cell)), None)
        if found is None:
            url = f"{self.repository}/blob/{self.branch}/{path}#L{cell.first_line}-L{cell.last_line}"
            note = "newer than the commit of the run" if commit else "the run was made outside of a git checkout"
            return Place(url, cell.first_line, cell.last_line, note)
        url = f"{self.repository}/blob/{commit}/{path}#L{found.first_line}-L{found.last_line}"
        return Place(url, found.first_line, found.last_line)

    @staticmethod
    def _same(old: Cell, cell: Cell) -> bool:
        return old.kind == cell.kind and sources.code_digest(old.source) == sources.code_digest(cell.source)

    @cached_property
    def _committed(self) -> list[Cell]:
        """The code cells of chapter.py at the run's commit; none if git does not have it."""
        commit = self.record.get("commit")
        name = f"{commit}:./notebooks/{self.record['chapter']}/chapter.py"
        if not commit:
            return []
        done = subprocess.run(["git", "-C", self.project.root, "show", name], capture_output=True, timeout=20)
        if done.returncode:
            return []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chapter.py"
            path.write_bytes(done.stdout)
            try:
                cells = [cell for cell in read_cells(path) if cell.kind == "code"]
                for cell in cells:
                    sources.code_digest(cell.source)
            except (CompanionError, SyntaxError):
                return []
        return cells
