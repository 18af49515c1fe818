"""A chapter in a kernel: jupytext turns it into a notebook and papermill executes it, cell by cell, within limits.

Everything here changes the process it runs in (environment, memory limit), so it is called by `execute` alone, which
has a process for each run.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from companion.press.convert import to_notebook

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
MEMORY_ERRORS = ("MemoryError", "_ArrayMemoryError", "OutOfMemoryError")
MEMORY_SIGNS = re.compile(r"can't allocate memory|not enough memory|out of memory|unable to allocate|bad_alloc", re.I)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class RunFailure(Exception):
    """A run that did not come to its end; `kind` is one of those that `runs.find_failure` lists."""

    def __init__(self, kind: str, message: str, cell: int | None = None, trace: str = ""):
        super().__init__(message)
        self.kind, self.message, self.cell, self.trace = kind, message, cell, trace


def set_environment(folder: Path, root: Path, store: Path, run: Mapping[str, Any], portable: bool) -> None:
    """Set what the kernel inherits: one thread, fixed hashes, where to write, nothing of the user's own set-up.

    folder: where the chapter writes; root: of the project; store: of trained models; run: chapter, profile, seed and
    the other parameters, which `begin` holds against what the chapter says; portable: pin the vector width.
    """
    for name in PORTABLE:
        os.environ.pop(name, None)
    os.environ.update(
        ONE_THREAD
        | (PORTABLE if portable else {})
        | {
            "PYTHONHASHSEED": "0",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "MPLBACKEND": "agg",
            "COMPANION_RUN_DIR": str(folder),
            "COMPANION_RUN": json.dumps(run),
            "COMPANION_ROOT": str(root),
            "COMPANION_STORE": str(store),
            "IPYTHONDIR": str(folder.parent / "ipython"),  # no start-up files of the user's
            "JUPYTER_PREFER_ENV_PATH": "1",
        }
    )


def run_chapter(
    chapter: Path,
    parameters: Mapping[str, Any],
    folder: Path,
    cell_timeout: int,
    memory_mb: int,
    on_cell: Callable[[int, int], None],
) -> None:
    """Execute a chapter and leave folder/chapter.ipynb, partly executed if it failed.

    parameters: for papermill; folder: where the chapter writes too; cell_timeout: seconds; memory_mb: limit on the
    kernel's private memory; on_cell: called with (cell from 1, number of cells) as each cell begins.
    Raises RunFailure with the cell at which it stopped.
    """
    work = folder.parent / "work"  # empty: a chapter reads and imports nothing that lies beside it by chance
    work.mkdir()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if not _has_gpu():
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, before[1]))  # the kernel inherits it
    try:
        _papermill(chapter, parameters, folder, work, cell_timeout, on_cell)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        if (folder / "chapter.ipynb").is_file():
            _tidy_notebook(folder / "chapter.ipynb")


def _has_gpu() -> bool:
    """Return whether CUDA may start: it reserves far more address space than it uses, which a limit would forbid."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def _papermill(chapter: Path, parameters: Mapping, folder: Path, work: Path, cell_timeout: int, on_cell) -> None:
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    reached: dict[str, int | None] = {"cell": None}
    papermill_engines.register("companion", _engine(reached, on_cell))
    source = folder.parent / "source.ipynb"
    nbformat.write(to_notebook(chapter), source)
    sockets = _sockets_folder(folder.parent.parent)
    os.environ["JUPYTER_RUNTIME_DIR"] = str(sockets)
    try:
        papermill.execute_notebook(
            source,
            folder / "chapter.ipynb",
            dict(parameters),
            engine_name="companion",
            kernel_name="python3",
            progress_bar=False,
            cwd=work,
            execution_timeout=cell_timeout,
            shutdown_kernel="immediate",
            # sockets in files: two kernels that start at once can grab the same free TCP port
            config=Config({"KernelManager": {"transport": "ipc", "ip": str(sockets / "ipc")}}),
        )
    except PapermillExecutionError as error:
        raise _cell_failure(error, reached["cell"]) from None
    except CellTimeoutError:
        advice = "Make it faster, or raise cell_timeout of the profile in paper.yml."
        message = f"the cell was not done after {cell_timeout} s. {advice}"
        raise RunFailure("time-out", message, reached["cell"]) from None
    except RuntimeError as error:  # DeadKernelError is one; a kernel that dies at its start gives a plain one
        if "kernel" not in str(error).lower():
            raise
        message = (
            f"the kernel died ({error}). The system may have killed it for its memory (it used up to "
            f"{peak_memory_mb():.0f} MB), or a compiled library crashed."
        )
        raise RunFailure("dead kernel", message, reached["cell"]) from None
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _engine(reached: dict[str, int | None], on_cell: Callable[[int, int], None]) -> type:
    """Return papermill's own engine, made to tell how far it is."""
    from papermill.engines import NBClientEngine

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **settings):
            start = nb_man.cell_start

            def cell_start(cell, cell_index=None, **more):
                reached["cell"] = cell_number(cell)
                on_cell(cell_index + 1, len(nb_man.nb.cells))
                start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **settings)

    return Engine


def _sockets_folder(run: Path) -> Path:
    """Return an empty folder with a short path (a socket's has at most 107 characters), the same for the same run."""
    digest = hashlib.sha256(str(run).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"companion-{digest}"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(mode=0o700)
    return folder


def _cell_failure(error: Any, cell: int | None) -> RunFailure:
    """Return the failure for an exception in a cell; a failed allocation is a kind of its own."""
    message = f"{error.ename}: {_ANSI.sub('', error.evalue)}".removesuffix(": ")
    trace = _ANSI.sub("", "\n".join(error.traceback))
    if error.ename in MEMORY_ERRORS or (error.ename == "RuntimeError" and MEMORY_SIGNS.search(error.evalue)):
        advice = "The limit is memory_mb of the profile in paper.yml; raise it, or use smaller batches."
        return RunFailure("out of memory", f"{message}. {advice}", cell, trace)
    return RunFailure("exception", message, cell, trace)


def cell_number(cell: Mapping[str, Any]) -> int | None:
    """Return a cell's number in chapter.py, or None for a cell that papermill put in."""
    found = re.fullmatch(r"cell-(\d+)", cell.get("id", ""))
    return int(found[1]) if found else None


def _tidy_notebook(path: Path) -> None:
    """Take out of an executed notebook what differs from machine to machine: paths and random cell ids."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    papermill = notebook.metadata.get("papermill", {})
    for name in ("input_path", "output_path", "environment_variables", "version"):
        papermill.pop(name, None)
    marks = "papermill-error-cell-tag"
    notebook.cells = [cell for cell in notebook.cells if marks not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
    nbformat.write(notebook, path)


def peak_memory_mb() -> float:
    """Return the largest memory of a finished child, the kernel."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
