"""`companion zoo build | list | verify`."""

import argparse
import os
import sys
import tempfile

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from companion.errors import CompanionError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the three actions of `companion zoo` to `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, summary: str, function: object) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        action.set_defaults(function=function)
        return action

    action = add("build", "train base models from their recipes and write weights, cards and digests", build)
    action.add_argument("names", nargs="+", metavar="NAME", help="a base model")
    action.add_argument("--device", default="cpu", help="where to train (default: cpu, as the shipped ones are)")
    add(
        "list", "show every base model: size, parameters, metrics, whether digest, recipe and sources are current", show
    )
    action = add("verify", "hash and evaluate the shipped weights anew and compare them with their cards", verify)
    action.add_argument("names", nargs="*", metavar="NAME", help="a base model (default: all)")
    action.add_argument("--retrain", action="store_true", help="train them from the recipe too, and compare (minutes)")
    action.add_argument("--device", default="cpu", help="where to train with --retrain (default: cpu)")


def build(options: argparse.Namespace) -> int:
    """Build each named base model."""
    zoo, default_store = _imports()
    for base in [zoo.find(name) for name in options.names]:
        card = zoo.build(base, default_store(), options.device)
        _say(f"{base.name}: {_size(card)}, {_metrics(card)}, trained in {card['seconds']:.0f} s", "green")
        _say(f"  {zoo.Place().folder(base.name)}, sha256 {card['weights']['sha256']}")
    return 0


def show(options: argparse.Namespace) -> int:
    """Print one row a base model; weights are hashed, not evaluated."""
    zoo, _ = _imports()
    table = Table("name", "size", "parameters", "metrics", "weights", "state", box=None, header_style="bold")
    table.pad_edge = False
    for column in table.columns[:3]:
        column.no_wrap = True
    for column in table.columns[1:3]:
        column.justify = "right"
    for name in zoo.BASES:
        table.add_row(name, *_row(zoo, name))
    console = _console()
    console.print(table)
    sizes = [path.stat().st_size for path in zoo.Place().weights.glob("*/weights.safetensors")]
    console.print(f"\n{sum(sizes) / 1e6:.1f} of at most {zoo.LIMIT / 1e6:.0f} MB ship with the repository", **_PLAIN)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Verify each base model; return 1 if one is not what its card says."""
    zoo, _ = _imports()
    status = 0
    for base in [zoo.find(name) for name in options.names or zoo.BASES]:
        try:
            status |= _verify(zoo, base, options)
        except CompanionError as error:
            _say(f"{base.name}: WRONG\n  {error}", "red")
            status = 1
    return status


def _verify(zoo, base, options: argparse.Namespace) -> int:
    reasons = zoo.state_of(base)
    bad = [reason for reason in reasons if reason not in ("sources changed", "digest of the weights differs")]
    compared = zoo.evaluate_shipped(base)  # says what is wrong with the digest
    good = not bad and all(line.close for line in compared)
    _say(f"{base.name}: {'ok' if good else 'WRONG'}, sha256 {base.sha256[:12]}", "green" if good else "red")
    for reason in reasons:
        _say(f"  {reason}{_what_to_do(reason, base.name)}", "yellow")
    _print_compared(compared)
    if options.retrain:
        from companion.store import ModelStore

        with tempfile.TemporaryDirectory(prefix="companion-zoo-") as folder:
            same, compared = zoo.retrain(base, ModelStore(folder), options.device)
        good = good and all(line.close for line in compared)
        _say(f"  trained anew: {'the same weights, bit for bit' if same else 'other weights than the shipped ones'}")
        _print_compared(compared)
    return 0 if good else 1


def _what_to_do(reason: str, name: str) -> str:
    if reason == "sources changed":
        return ": modules that the training reaches were edited since; the weights below still count"
    return f": build it anew (companion zoo build {name})"


def _print_compared(compared) -> None:
    for line in compared:
        said = "equal" if line.equal else f"within {line.tolerance:g}" if line.close else "DIFFERS"
        text = f"  {line.metric}: {_number(line.found)}, card {_number(line.recorded)}: {said}"
        _say(text, None if line.close else "red")


def _row(zoo, name: str) -> tuple[str, ...]:
    try:
        base = zoo.find(name)
        reasons = zoo.state_of(base)
        if reasons and reasons[0] in ("not built", "weights missing"):
            return "", "", "", "", f"[dim]{reasons[0]}[/]"
        card = zoo.read_card(name)
    except CompanionError as error:
        return "", "", "", "", f"[red]{escape(str(error))}[/]"
    state = f"[yellow]{escape('; '.join(reasons))}[/]" if reasons else "[green]current[/]"
    where = os.path.relpath(zoo.Place().folder(name))
    megabytes, parameters = f"{card['weights']['bytes'] / 1e6:.1f} MB", f"{card['weights']['parameters']:,}"
    return megabytes, parameters, escape(_metrics(card)), escape(where), state


def _metrics(card, most: int = 4) -> str:
    said = [f"{name} {_number(value)}" for name, value in card["metrics"].items()]
    return ", ".join(said[:most]) + (f" and {len(said) - most} more" if len(said) > most else "")


def _number(value: float | None) -> str:
    return "(none)" if value is None else f"{value:.4g}"


def _size(card) -> str:
    return f"{card['weights']['bytes'] / 1e6:.1f} MB, {card['weights']['parameters']:,} parameters"


_PLAIN = {"markup": False, "highlight": False, "soft_wrap": True}


def _say(text: str, style: str | None = None) -> None:
    _console().print(text, style=style, **_PLAIN)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _imports():
    """Return the zoo and the store, with PyTorch as a chapter's run has it; imported here, as that takes seconds."""
    import torch

    from companion.multimodal import zoo
    from companion.store import default_store

    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    return zoo, default_store
