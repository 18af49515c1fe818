"""Find randomness that no seed controls, by reading the code: a result that it touches differs from run to run.

A draw is accepted with a `generator=` (or `random_state=` where the library says so), inside a block
`with torch.random.fork_rng():` that calls `torch.manual_seed`, and inside `with initialised_from(generator):`, which
does both. Any other line is accepted only with a comment that says who seeds it: `# lint: seeded by ...`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

TORCH_DRAWS = {
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like"),
    *("bernoulli", "multinomial", "normal", "poisson"),
}
TENSOR_DRAWS = {
    *("random_", "normal_", "uniform_", "bernoulli_", "exponential_", "geometric_", "log_normal_", "cauchy_"),
    *("bernoulli", "multinomial"),
}
FIXED_INITS = {"constant_", "zeros_", "ones_", "eye_", "dirac_", "calculate_gain"}
DROPOUTS = re.compile(r"torch\.nn\.(functional\.(\w*dropout\w*)|\w*Dropout\w*)")
NUMPY_SEEDED = {
    "default_rng",
    "SeedSequence",
    "RandomState",
    "Generator",
    "PCG64",
    "PCG64DXSM",
    "Philox",
    "SFC64",
    "MT19937",
}
GLOBAL_SEEDS = {
    *("torch.manual_seed", "torch.seed", "torch.random.manual_seed", "torch.random.seed", "torch.set_rng_state"),
    *("torch.default_generator.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"),
    *("numpy.random.seed", "random.seed"),
}
SEEDED_BLOCKS = {"companion.multimodal.initialising.initialised_from"}
FORK_SEEDS = {"torch.manual_seed", "torch.random.manual_seed", "torch.default_generator.manual_seed"}
ALLOWED = re.compile(r"#\s*lint:\s*seeded by\s+\S")


@dataclass(frozen=True)
class Finding:
    """One line that breaks a rule: where, which rule, what to do; `error` is False for a mere hint."""

    path: str
    line: int
    rule: str
    message: str
    error: bool = True

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}{'' if self.error else ' (hint)'}"


def unseeded(text: str, path: str) -> list[Finding]:
    """Return every draw in Python code `text` that no seed controls; `path` stands in the findings."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [Finding(path, error.lineno or 1, "syntax", f"{error.msg}; expected Python without magics")]
    lines = text.splitlines()
    names = _imported_names(tree)
    forked = set(_forked(tree, names))
    findings = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in forked:
            found = _judge(node, _full_name(node.func, names))
            if found and not any(ALLOWED.search(line) for line in lines[node.lineno - 1 : node.end_lineno]):
                findings.append(Finding(path, node.lineno, *found))
    return sorted(findings, key=lambda finding: finding.line)


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Return {name in the code: what it stands for}: {"np": "numpy", "F": "torch.nn.functional", "shuffle": ...}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    """Return the imported name that a call goes to; ".method" for a method of some value."""
    words = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id in names:
        return ".".join([names[node.id], *reversed(words)])
    return f".{words[0]}" if words else ""


def _forked(tree: ast.Module, names: dict[str, str]) -> Iterator[int]:
    """Yield the calls inside blocks with a global generator of their own that is seeded."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.With):
            continue
        heads = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        opened = {_full_name(head.func, names) for head in heads}
        if opened & {"torch.random.fork_rng", *SEEDED_BLOCKS}:
            calls = [inner for part in node.body for inner in ast.walk(part) if isinstance(inner, ast.Call)]
            if opened & SEEDED_BLOCKS or any(_full_name(call.func, names) in FORK_SEEDS for call in calls):
                yield from map(id, calls)


def _has(call: ast.Call, *words: str) -> bool:
    """Return whether a keyword argument other than None is given (or `**options`, which may hold it)."""
    return any(
        keyword.arg is None
        or (keyword.arg in words and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None))
        for keyword in call.keywords
    )


def _judge(call: ast.Call, name: str) -> tuple[str, str] | None:
    """Return (rule, what to do) if a call draws without a seed."""
    module, _, function = name.rpartition(".")
    if name in GLOBAL_SEEDS:
        return "global-seed", f"{name} changes what all other code draws; pass a generator instead"
    if module == "torch" and function in TORCH_DRAWS and not _has(call, "generator"):
        return "unseeded", f"{name} draws from the global generator; pass generator="
    if module == "torch.nn.init" and function not in FIXED_INITS and not _has(call, "generator"):
        return "unseeded", f"{name} draws from the global generator; pass generator="
    if DROPOUTS.fullmatch(name):
        return (
            "unseeded",
            f"{name} draws from the global generator; draw the mask with a generator, or seed a fork of it",
        )
    if not module and name.startswith(".") and function in TENSOR_DRAWS and not _has(call, "generator"):
        return "unseeded", f"{function} of a tensor draws from the global generator; pass generator="
    if name == "torch.utils.data.DataLoader" and _shuffles(call) and not _has(call, "generator"):
        return "unseeded", "DataLoader(shuffle=True) draws from the global generator; pass generator="
    if module == "numpy.random" and function not in NUMPY_SEEDED:
        return "unseeded", f"{name} draws from NumPy's global generator; use numpy.random.default_rng(seed)"
    if module == "numpy.random" and function != "Generator" and not _seeded_first(call):
        return "unseeded", f"{name} without a seed takes one from the system; pass a seed"
    if module == "random" and not (function == "Random" and _seeded_first(call)):
        return "unseeded", f"{name} draws from Python's global generator; use random.Random(seed)"
    if not module and function == "rvs" and not _has(call, "random_state"):
        return "unseeded", "rvs draws from NumPy's global generator; pass random_state="
    return None


def _seeded_first(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return bool(given) and not (isinstance(given[0], ast.Constant) and given[0].value is None)


def _shuffles(call: ast.Call) -> bool:
    return any(
        keyword.arg == "shuffle" and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
        for keyword in call.keywords
    )
