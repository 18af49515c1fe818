"""What a failed try of a run leaves for the chapter's page, put in place and taken away in one step each."""

import json
import shutil
from pathlib import Path
from typing import Any

from companion.press import records
from companion.press.kernel import RunFailure
from companion.press.keys import Key
from companion.press.project import Project
from companion.press.runs import Request, failure_path, publish, scratch_folder


def describe_failure(request: Request, failure: RunFailure, key: Key | None) -> dict[str, Any]:
    """Return the content of failure.json."""
    return {
        "chapter": request.slug,
        "profile": request.profile,
        "seed": request.seed,
        "overrides": request.overrides,
        "portable": request.portable,
        "key": key.digest if key else None,
        "kind": failure.kind,
        "cell": failure.cell,
        "message": failure.message,
        "traceback": failure.trace,
        "when": records.now(),
    }


def publish_failure(
    project: Project, request: Request, failure: RunFailure, key: Key | None, notebook: Path | None = None
) -> None:
    """Put failure.json, and the notebook as far as it came, into the failures folder of the run."""
    folder = scratch_folder(project, request)
    made = folder / "failure"
    made.mkdir()
    content = json.dumps(describe_failure(request, failure, key), indent=1, ensure_ascii=False)
    (made / "failure.json").write_text(content + "\n", encoding="utf-8")
    if notebook and notebook.is_file():
        shutil.copy(notebook, made)
    publish(made, failure_path(project, request), folder / "replaced")
    shutil.rmtree(folder, ignore_errors=True)


def clear_failure(project: Project, request: Request) -> None:
    """Take away what an earlier failed try left."""
    target = failure_path(project, request)
    if target.exists():
        folder = scratch_folder(project, request)
        target.rename(folder / "cleared")
        shutil.rmtree(folder, ignore_errors=True)
