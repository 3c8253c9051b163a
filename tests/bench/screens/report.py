"""What was measured, as Markdown: each figure beside its aim, then everything of every program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.bench.screens.figures import median_of, percentile

Results = dict[str, Any]
NONE = "-"


def number(value: float | None, digits: int = 0) -> str:
    """A figure, or a dash."""
    return NONE if value is None else f"{value:,.{digits}f}"


def of(found: Any, *path: str) -> Any:
    """What is at this path; None when it was not measured."""
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def keys_ms(times: list[float] | None) -> str:
    """p50 / p99."""
    if not times:
        return NONE
    return f"{1000 * percentile(times, 0.5):.0f} / {1000 * percentile(times, 0.99):.0f}"


def p99_ms(times: list[float] | None) -> float | None:
    return 1000 * percentile(times, 0.99) if times else None


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown."""
    heads = list(titles)
    lines = [heads, ["---"] * len(heads), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


class Report:
    """Tables of one run of the measurement."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._programs: dict[str, Results] = results["programs"]

    def text(self) -> str:
        """All of it."""
        facts = self._results["facts"]
        parts = [
            "\n".join(f"- {name}: {value}" for name, value in facts.items()),
            "## Beside the aims",
            self._aims(),
            "## Start, ms (median)",
            self._starts(),
            "## At rest",
            self._rest(),
            "## Slurm commands a minute",
            self._commands(),
            "## Key to paint, ms (p50 / p99)",
            self._keys(),
            "## A log of 200 MB",
            self._logs(),
        ]
        parts += [f"- not run: {name}: {why}" for name, why in self._results["missing"].items()]
        return "\n\n".join(parts) + "\n"

    def _start(self, name: str, key: str) -> float | None:
        return median_of(self._programs.get(name, {}).get("starts", []), key)

    def _aims(self) -> str:
        rows = []
        bare = next((name for name in self._programs if name.startswith("bare")), "")
        frame = self._start(bare, "first_ms")
        for where in ("local", "over SSH"):
            for what in ("monitor", "runs"):
                name = f"llama-tui {what}, {where}"
                if name in self._programs:
                    rows += list(self._aim_rows(name, frame))
        for name, logs in self._logs_by_program():
            rows += list(self._log_rows(name, logs))
        return table(("figure", "program", "measured", "aim", "verdict"), rows)

    def _aim_rows(self, name: str, frame: float | None) -> Iterable[list[str]]:
        found = self._programs[name]
        first = self._start(name, "first_ms")
        ratio = None if first is None or not frame else first / frame
        yield _aim("first frame, times bare Textual's", name, ratio, 1.15, 2)
        yield _aim("first job shown, ms", name, self._start(name, "job_ms"), 900)
        yield _aim("memory (RSS), MB", name, of(found, "rest", "memory", "rss"), 90)
        yield _aim("idle CPU, %", name, of(found, "rest", "silent", "cpu_percent"), 0.5, 2)
        yield _aim("terminal bytes/s, idle", name, of(found, "rest", "silent", "bytes_per_second"), 100)
        yield _aim(
            "Slurm commands/min, active", name, of(found, "rest", "silent", "commands_per_minute"), 12, 1
        )
        yield _aim(
            "Slurm commands/min, nothing active", name, of(found, "ended", "commands_per_minute"), 0, 1
        )
        for situation in ("idle", "burst", "hang"):
            times = of(found, "keys", situation)
            if times:
                yield _aim(f"key to paint p99, {situation}, ms", name, p99_ms(times), 50)

    def _logs_by_program(self) -> Iterable[tuple[str, list[Results]]]:
        for name, found in self._programs.items():
            for kind, rounds in found.get("logs", {}).items():
                yield f"{name}, {kind}", rounds

    def _log_rows(self, name: str, rounds: list[Results]) -> Iterable[list[str]]:
        yield _aim(
            "200 MB log: from the list of runs to its end, ms", name, median_of(rounds, "from_runs_ms"), 1000
        )
        yield _aim("200 MB log: search, ms", name, median_of(rounds, "search_ms"), 2000)
        most = max(of(one, "memory_most", "rss") + of(one, "far_memory_most", "rss") for one in rounds)
        yield _aim("200 MB log: memory at the most, both sides, MB", name, most, 150)

    def _starts(self) -> str:
        rows = []
        for name, found in self._programs.items():
            starts = found.get("starts", [])
            jobs = self._start(name, "job_ms")
            shown = number(jobs) if jobs is not None or not starts else "shows none"
            spread = [one["first_ms"] for one in starts if one["first_ms"] is not None]
            span = f"{min(spread):.0f}-{max(spread):.0f}" if spread else NONE
            rows.append([name, number(self._start(name, "first_ms")), span, shown])
        return table(("program", "first frame", "from-to", "first job"), rows)

    def _rest(self) -> str:
        rows = []
        for name, found in self._programs.items():
            rest = found.get("rest", {})
            rows.append(
                [
                    name,
                    number(of(rest, "memory", "rss"), 1),
                    number(of(rest, "memory", "pss"), 1),
                    number(of(rest, "far_memory", "rss"), 1),
                    *(
                        number(of(rest, state, "cpu_percent"), 2)
                        + _far(of(rest, state, "far_cpu_percent"), "far_memory" in rest)
                        for state in ("silent", "talking")
                    ),
                    *(number(of(rest, state, "bytes_per_second")) for state in ("silent", "talking")),
                ]
            )
        titles = (
            "program",
            "RSS MB",
            "PSS MB",
            "far side RSS MB",
            "CPU %, idle",
            "CPU %, a line a second",
            "bytes/s, idle",
            "bytes/s, a line a second",
        )
        return table(titles, rows)

    def _commands(self) -> str:
        rows = []
        for name, found in self._programs.items():
            which = of(found, "rest", "silent", "commands") or {}
            rows.append(
                [
                    name,
                    number(of(found, "rest", "talking", "commands_per_minute"), 1),
                    number(of(found, "rest", "silent", "commands_per_minute"), 1),
                    ", ".join(f"{command} {count:.0f}" for command, count in sorted(which.items())) or NONE,
                    number(of(found, "ended", "commands_per_minute"), 1),
                ]
            )
        titles = ("program", "active, printing", "active, silent", "which", "nothing active")
        return table(titles, rows)

    def _keys(self) -> str:
        rows = []
        for name, found in self._programs.items():
            keys = found.get("keys", {})
            rows.append(
                [
                    name,
                    *(keys_ms(keys.get(situation)) for situation in ("idle", "hang", "burst")),
                    number(of(keys, "memory_after_burst", "rss"), 1),
                ]
            )
        titles = ("program", "idle", "slurmctld hangs", "log bursts", "RSS after the burst, MB")
        return table(titles, rows)

    def _logs(self) -> str:
        rows = []
        for name, rounds in self._logs_by_program():
            after = max(of(one, "memory_after", "rss") for one in rounds)
            most = max(of(one, "memory_most", "rss") for one in rounds)
            far = max(of(one, "far_memory_most", "rss") for one in rounds)
            figures = (median_of(rounds, key) for key in ("end_ms", "from_runs_ms", "search_ms"))
            rows.append(
                [name, *(number(one) for one in figures), number(after, 1), number(most, 1), number(far, 1)]
            )
        titles = (
            "program, log",
            "start to its end, ms",
            "list of runs to its end, ms",
            "search, ms",
            "RSS after, MB",
            "RSS at the most, MB",
            "far side at the most, MB",
        )
        return table(titles, rows)


def _aim(figure: str, name: str, value: float | None, most: float, digits: int = 0) -> list[str]:
    verdict = "not measured" if value is None else "met" if value <= most else "**missed**"
    return [figure, name, number(value, digits), f"{most:g}", verdict]


def _far(percent: float | None, there: bool) -> str:
    return f" (far side {percent:.2f})" if there and percent is not None else ""
