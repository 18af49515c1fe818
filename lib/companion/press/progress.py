"""What a person sees: the plan before, the runs while they go on, the summary after."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

HEARTBEAT = 60  # seconds between plain lines when nothing changes


def make_console(**settings: Any) -> Console:
    """Return a console on standard output that colours nothing on its own account."""
    return Console(highlight=False, **settings)


def duration(seconds: float | None) -> str:
    """Return 45 s, 3:07 or 1:02:30; "unknown" for None.

    >>> duration(187)
    '3:07'
    """
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _name(request) -> str:
    kind = " portable" if request.portable else ""
    overrides = "".join(f" {name}={value}" for name, value in request.overrides.items())
    return escape(f"{request.slug} {request.profile} seed {request.seed}{kind}{overrides}")


def print_plan(console: Console, plan, jobs: int) -> None:
    """Print what will run and why, what each run took last time, and what all of it should take."""
    fresh = sum(entry.fresh for entry in plan.entries)
    for entry in plan.entries:
        if entry.failure:
            console.print(f"[red]cannot run[/red] {_name(entry.request)}: {escape(entry.failure.message)}")
    if plan.missing:
        console.print(_plan_table(plan))
        console.print(f"{_count(len(plan.missing), 'run')} to do: {_forecast(plan, jobs)}")
    if fresh:
        console.print(f"{_count(fresh, 'run')} up to date")


def _forecast(plan, jobs: int) -> str:
    at_once = f"with {_count(jobs, 'job')} at once"
    if plan.unknown == len(plan.missing):
        return f"no earlier run tells how long they take, {at_once}"
    more = f", and {plan.unknown} of unknown length" if plan.unknown else ""
    return f"about {duration(plan.work_seconds())} of work, {duration(plan.wall_seconds(jobs))} {at_once}{more}"


def _plan_table(plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "last time", "memory", "why"):
        table.add_column(column, overflow="fold", justify="left" if column in ("run", "why") else "right")
    for entry in plan.missing:
        memory = f"{entry.used_mb:.0f} MB" if entry.used_mb else f"<= {entry.memory_mb} MB"
        why = "; ".join(entry.why[:3]) + (f"; and {len(entry.why) - 3} more" if len(entry.why) > 3 else "")
        table.add_row(_name(entry.request), duration(entry.seconds), memory, escape(why))
    return table


def print_outcome(console: Console, plan, outcome) -> None:
    """Print what ran, and each failure with its cell and first lines; what could not begin was said with the plan."""
    refused = {entry.request.name for entry in plan.entries if entry.failure}
    for request, failure in outcome.failed:
        if request.name in refused:
            continue
        where = f" in cell {failure['cell']}" if failure["cell"] is not None else ""
        console.print(
            f"[red]failed[/red] {_name(request)}: {failure['kind']}{where}: {escape(_first(failure['message']))}"
        )
    if outcome.log and len(outcome.failed) > len(refused):
        console.print(f"The log is {outcome.log}", soft_wrap=True)
    if outcome.ran or outcome.failed:
        counts = (
            f"{_count(len(outcome.ran), 'run')} done, {len(outcome.failed)} failed, {len(outcome.reused)} up to date"
        )
        console.print(f"{counts}, in {duration(outcome.seconds)}")


def _first(message: str) -> str:
    lines = [line for line in message.splitlines() if line.strip()]
    return " ".join(line.strip() for line in lines[:3])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


class Display:
    """Shows the missing runs of a plan: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, plan, jobs: int):
        self.console, self.plan, self.jobs = console, plan, jobs
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self.seen: dict[str, str] = {}
        self.last_line = time.monotonic()

    def __enter__(self) -> "Display":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def warn(self, message: str, detail: str) -> None:
        """Print a problem of the scheduler itself."""
        self.console.print(f"[red]{escape(message)}[/red]\n{escape(detail)}")

    def update(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Show the states, by name of run, that the executing processes have written."""
        for entry in self.plan.missing:
            state = states.get(entry.request.name, {})
            if state.get("state") != self.seen.get(entry.request.name):
                self.seen[entry.request.name] = state.get("state")
                self._announce(entry, state)
        if self.live:
            self.live.update(self._table(states))
        elif time.monotonic() - self.last_line > HEARTBEAT:
            for entry in self.plan.missing:
                if states.get(entry.request.name, {}).get("state") == "running":
                    self._line(f"going on  {_name(entry.request)}: {self._how_far(entry, states[entry.request.name])}")

    def _announce(self, entry, state: Mapping[str, Any]) -> None:
        """Print a line when a run begins (where there is no table), ends or fails."""
        name = _name(entry.request)
        if state.get("state") == "running" and not self.live:
            self._line(f"running   {name} (last time {duration(entry.seconds)})")
        elif state.get("state") == "done":
            self._line(
                f"[green]done[/green]      {name}: {duration(state['seconds'])} (last time {duration(entry.seconds)})"
            )
        elif state.get("state") == "failed":
            self._line(f"[red]failed[/red]    {name}: {state['kind']}: {escape(_first(state['message']))}")

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)
        self.last_line = time.monotonic()

    def _how_far(self, entry, state: Mapping[str, Any]) -> str:
        elapsed = time.time() - state["started"]
        if not state["cell"]:
            return f"starting, {duration(elapsed)}"
        expected = f" of about {duration(entry.seconds + 2)}" if entry.seconds else ""
        return f"cell {state['cell']} of {state['cells']}, {duration(elapsed)}{expected}"

    def _table(self, states: Mapping[str, Mapping[str, Any]]) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        waiting = 0
        for entry in self.plan.missing:
            state = states.get(entry.request.name, {})
            if state.get("state") == "running":
                table.add_row("[cyan]running[/cyan]", _name(entry.request), self._how_far(entry, state))
            elif state.get("state") not in ("done", "failed"):
                waiting += 1
        finished = len(self.plan.missing) - waiting - table.row_count
        table.add_row("", f"{finished} of {len(self.plan.missing)} finished, {waiting} waiting", self._left(states))
        return table

    def _left(self, states: Mapping[str, Mapping[str, Any]]) -> str:
        """Say how long the rest should take, as far as the runs were timed before."""
        left = 0.0
        for entry in self.plan.missing:
            state = states.get(entry.request.name, {})
            if entry.seconds is None and state.get("state") not in ("done", "failed"):
                return "time left unknown"
            if state.get("state") not in ("done", "failed"):
                gone = time.time() - state["started"] if "started" in state else 0.0
                left += max(0.0, entry.seconds + 2 - gone)
        return f"about {duration(left / min(self.jobs, len(self.plan.missing)))} left"
