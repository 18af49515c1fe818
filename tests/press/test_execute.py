"""One run in its process: what it is given, what it leaves, and that nothing half-done ever becomes visible."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from miniature import BODY, Miniature

FIGURE = """\
# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

figure, axis = plt.subplots(figsize=(2, 2))
axis.plot([1, 2])
recorder.figure("curve", figure, {"y": np.array([1, 2])}, alt="A line.", caption="A line.")
recorder.table("numbers", pd.DataFrame({"a": [1]}), caption="One.")

"""

ENVIRONMENT = """\
# %%
import json, os

names = ["OMP_NUM_THREADS", "PYTHONHASHSEED", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "COMPANION_ROOT"]
print(json.dumps({name: os.environ.get(name) for name in names} | {"here": os.listdir(), "seed": seed, "size": size}))

"""


def execute(project: Miniature, slug: str = "toy", number: int = 0, **request) -> subprocess.CompletedProcess:
    """Run one request in its process, as the scheduler does."""
    content = {"slug": slug, "profile": "laptop", "seed": 0, "root": str(project.root)}
    content["progress"] = str(project.root / f"progress-{number}.json")
    path = project.write(f"request-{number}.json", json.dumps(content | request))
    command = [sys.executable, "-m", "companion.press.execute", str(path)]
    return subprocess.run(
        command, env=project.environment, cwd=project.root, capture_output=True, text=True, timeout=120
    )


def only_run(project: Miniature, name: str = "laptop/toy/seed-0") -> Path:
    (folder,) = (project.root / "build" / "runs" / name).iterdir()
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_run_leaves_everything_that_belongs_to_it(miniature, keys):
    miniature.chapter("toy", FIGURE + BODY)
    assert execute(miniature, seed=2).returncode == 0
    folder = only_run(miniature, "laptop/toy/seed-2")
    key = keys("toy", seed=2)
    assert folder.name == key["digest"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("chapter.ipynb", "results.json", "record.json"),
        *("figures/curve.png", "arrays/curve.npz", "tables/numbers.csv"),
    }
    results, record, notebook = [read(folder / name) for name in ("results.json", "record.json", "chapter.ipynb")]
    assert (results["chapter"], results["profile"], results["seed"]) == ("toy", "laptop", 2)
    assert results["metrics"]["toy.double"] == {"value": 8, "unit": "", "n": 3, "ci": None}
    assert (results["figures"]["curve"]["cell"], results["tables"]["numbers"]["cell"]) == (3, 3)
    assert record["key"] == key["digest"]
    assert record["parts"] == key["parts"]
    assert record["parameters"] == {"size": 3}
    assert record["threads"] == 1
    assert record["device"] == "cpu"
    assert 0 < record["wall_seconds"] < 100
    assert 20 < record["peak_memory_mb"] < 1000
    check_notebook(notebook, miniature)
    assert read(miniature.root / "progress-0.json")["state"] == "done"
    assert not list((miniature.root / "build" / "tmp").glob("*/*"))


def check_notebook(notebook: dict, miniature: Miniature) -> None:
    """Check cell ids, glued numbers and alt text, and that no path of this machine stands in the notebook."""
    ids = [cell["id"] for cell in notebook["cells"]]
    assert ids == ["cell-0", "cell-1", "injected-parameters", *(f"cell-{number}" for number in range(2, 7))]
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    glued = {output["metadata"]["scrapbook"]["name"] for output in outputs if "scrapbook" in output.get("metadata", {})}
    assert glued == {"toy.double", "toy.third"}
    (picture,) = [output for output in outputs if "image/png" in output.get("data", {})]
    assert picture["metadata"]["image/png"]["alt"] == "A line."
    assert str(miniature.root) not in json.dumps(notebook)


def test_the_kernel_gets_a_clean_and_pinned_environment(miniature):
    miniature.chapter("toy", ENVIRONMENT)
    miniature.environment |= {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "7"}
    printed = {}
    for portable in (False, True):
        assert execute(miniature, portable=portable, overrides={"size": 5}).returncode == 0
    for folder in (miniature.root / "build" / "runs" / "laptop" / "toy" / "seed-0").iterdir():
        record = read(folder / "record.json")
        assert record["parameters"] == record["overrides"] == {"size": 5}
        cells = read(folder / "chapter.ipynb")["cells"]
        text = "".join(cells[-3]["outputs"][0]["text"])
        printed[record["portable"]] = json.loads(text)
    shared = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "COMPANION_ROOT": str(miniature.root), "here": []}
    shared |= {"seed": 0, "size": 5}
    pinned = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert printed[True] == shared | pinned
    assert printed[False] == shared | dict.fromkeys(pinned)


def test_a_run_is_done_once_and_replaced_by_its_successor(miniature):
    miniature.chapter("toy")
    assert execute(miniature).returncode == 0
    first = only_run(miniature)
    started = read(first / "record.json")["started"]
    assert execute(miniature).returncode == 0
    assert read(only_run(miniature) / "record.json")["started"] == started
    assert execute(miniature, overrides={"size": 4}).returncode == 0  # another kind of run: both stay
    assert len(list(first.parent.iterdir())) == 2
    miniature.edit("notebooks/toy/chapter.py", "1 / 3", "1 / 4")
    assert execute(miniature).returncode == 0
    left = [read(folder / "record.json")["overrides"] for folder in first.parent.iterdir()]
    assert sorted(map(str, left)) == ["{'size': 4}", "{}"]
    assert not first.exists()


def test_a_run_whose_sources_change_meanwhile_is_not_kept(miniature):
    path = miniature.root / "lib" / "companion" / "toys" / "indirect.py"
    miniature.chapter("toy", f"# %%\nfrom pathlib import Path\n\nPath({str(path)!r}).write_text('TWO = 5')\n\n")
    done = execute(miniature)
    assert done.returncode == 1
    assert miniature.runs() == {}
    failure = miniature.failure("toy")
    assert failure["kind"] == "sources changed"
    assert "lib/companion/toys/indirect.py changed" in failure["message"]
    assert "sources changed" in done.stderr


def test_two_commands_at_once_do_a_run_once(miniature):
    count = miniature.root / "count"
    miniature.chapter("toy", f"# %%\nwith open({str(count)!r}, 'a') as file:\n    file.write('x')\n\n")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda number: execute(miniature, number=number), range(2)))
    assert [one.returncode for one in done] == [0, 0]
    assert count.read_text() == "x"
    assert list(miniature.runs()) == ["laptop/toy/seed-0"]


@pytest.mark.parametrize(
    ("old", "new", "kind", "said"),
    [
        ("recorder.finish()", "pass", "exception", "recorder.finish()"),
        ("1 / 3)", 'float("nan"))', "exception", "metric toy.third is nan"),
        ('recorder = begin("toy", profile, seed)', 'recorder = begin("toy", profile, 7)', "exception", "seed = 7"),
        ("size = 3\n", "size = 3\nimport os\n", "set-up", "parameters cell"),
    ],
)
def test_what_breaks_the_contract_fails(miniature, old, new, kind, said):
    miniature.chapter("toy")
    miniature.edit("notebooks/toy/chapter.py", old, new)
    assert execute(miniature).returncode == 1
    failure = miniature.failure("toy")
    assert failure["kind"] == kind
    assert said in failure["message"]
    assert miniature.runs() == {}
