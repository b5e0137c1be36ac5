"""Two servers under the same load by turns: figures of each round, and the ratios of the pairs with their intervals.

A machine's speed drifts within seconds and whatever else it does falls on both: so rounds are short, the two take turns
(A B, B A, ...), and what is compared is the two figures of one round.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from bench import machine
from bench.load import Volley, volley
from bench.machine import Server

ROWS: Mapping[str, str] = {
    "requests_per_second": "requests/s",
    "tokens_per_second": "tokens/s",
    "first_p50_ms": "first visible token p50, ms",
    "first_p99_ms": "first visible token p99, ms",
    "latency_p50_ms": "latency p50, ms",
    "latency_p99_ms": "latency p99, ms",
    "cpu_ms_per_request": "CPU ms/request",
    "memory_mb": "memory, MB",
    "tokens_per_request": "tokens/request",
}
MORE_IS_BETTER = ("requests_per_second", "tokens_per_second")
NO_TARGET = ("tokens_per_request",)

Figures = dict[str, float]
"""One server in one round, by the names of `ROWS`."""


@dataclass(frozen=True)
class Entry:
    """Both servers at one concurrency, in one mode."""

    concurrency: int
    streamed: bool
    requests: int
    """Of each server in each round."""
    medians: dict[str, Figures]
    """By the servers' names, ours first."""
    ratio: Figures
    """Median over rounds of ours / theirs."""
    ratio_interval: dict[str, tuple[float, float]]
    """95 % of it."""

    @property
    def slower(self) -> list[str]:
        """The rows whose whole interval lies on the slower side of 1. Memory is shown and not judged so: rounds of one
        process say nothing about the next process."""
        return [name for name in self.ratio if name not in (*NO_TARGET, "memory_mb") and self._slower(name)]

    def _slower(self, name: str) -> bool:
        low, high = self.ratio_interval[name]
        return high < 1 if name in MORE_IS_BETTER else low > 1


async def measure(server: Server, requests: Sequence[bytes], concurrency: int) -> Figures:
    """One round of one server."""
    before = server.cpu_seconds()
    shots = await volley(server.url, requests, concurrency)
    after = server.cpu_seconds()
    return figures(server, shots, None if before is None or after is None else after - before)


def figures(server: Server, shots: Volley, cpu: float | None) -> Figures:
    found: dict[str, float | None] = {
        "requests_per_second": shots.per_second,
        "tokens_per_second": shots.tokens_per_second,
        "first_p50_ms": _ms(shots.first(0.5)),
        "first_p99_ms": _ms(shots.first(0.99)),
        "latency_p50_ms": _ms(shots.latency(0.5)),
        "latency_p99_ms": _ms(shots.latency(0.99)),
        "cpu_ms_per_request": None if cpu is None else cpu * 1000 / len(shots.shots),
        "memory_mb": server.memory_mb(),
        "tokens_per_request": shots.tokens_per_request,
    }
    return {name: value for name, value in found.items() if value is not None}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


async def by_turns(
    servers: Sequence[Server], rounds: int, one: Callable[[Server, int], Awaitable[Figures]]
) -> dict[str, list[Figures]]:
    """So many rounds of each server, by its name; `one` measures a server in the round of that number."""
    each: dict[str, list[Figures]] = {server.name: [] for server in servers}
    for number in range(rounds):
        for server in servers if number % 2 == 0 else servers[::-1]:
            each[server.name].append(await one(server, number))
    return each


def compare(
    each: Mapping[str, Sequence[Figures]], streamed: bool, concurrency: int, requests: int, starts: int = 1
) -> Entry:
    """The rounds of two servers, ours first; or of ours alone, without a ratio. `starts`: so many times the servers
    were started, each time for as many rounds."""
    names = [name for name in ROWS if all(name in f for rounds in each.values() for f in rounds)]
    medians = {server: {n: statistics.median(f[n] for f in rs) for n in names} for server, rs in each.items()}
    first, *others = each.values()
    pairs = [pair for other in others for pair in zip(first, other, strict=True)]
    ratios = {n: [ours[n] / theirs[n] for ours, theirs in pairs if theirs[n]] for n in names}
    return Entry(
        concurrency=concurrency,
        streamed=streamed,
        requests=requests,
        medians={s: {n: round(v, 3) for n, v in m.items()} for s, m in medians.items()},
        ratio={n: round(statistics.median(r), 3) for n, r in ratios.items() if r},
        ratio_interval={n: machine.interval(r, starts) for n, r in ratios.items() if r},
    )


Measured = dict[tuple[bool, int], dict[str, list[Figures]]]
"""By mode (streamed) and concurrency: the rounds of each server."""


def entries(measured: Sequence[Measured], requests: Callable[[int], int]) -> list[Entry]:
    """One entry for each concurrency and mode, of all starts. `requests`: of a round, at a concurrency."""
    found: list[Entry] = []
    for streamed, concurrency in measured[0]:
        each: dict[str, list[Figures]] = {}
        for start in measured:
            for name, figures in start[streamed, concurrency].items():
                each.setdefault(name, []).extend(figures)
        ours_first = {name: each[name] for name in sorted(each, key=lambda name: name != "ponder")}
        found.append(compare(ours_first, streamed, concurrency, requests(concurrency), len(measured)))
    return found


def show(entry: Entry, *, target: bool) -> None:
    """The table of two servers. `target`: the ratio itself is to be no worse than 1; else its interval is not to lie on
    the slower side of 1."""
    ours, theirs = entry.medians
    mode = "streamed" if entry.streamed else "not streamed"
    print(f"\nconcurrency {entry.concurrency}, {mode}, {entry.requests} requests a round")
    print(f"  {'':30}{theirs:>10}{ours:>10}{'ratio':>9}   95 %             {'target' if target else ''}")
    for name, ratio in entry.ratio.items():
        low, high = entry.ratio_interval[name]
        line = f"  {ROWS[name]:30}{entry.medians[theirs][name]:10.2f}{entry.medians[ours][name]:10.2f}"
        line += f"{ratio:9.3f}   {low:.3f} .. {high:.3f}   "
        if target and name not in NO_TARGET:
            more = name in MORE_IS_BETTER
            met = ratio >= 1 if more else ratio <= 1
            line += f"{'>=' if more else '<='} 1.00 {'met' if met else 'MISSED'}"
        elif name in entry.slower:
            line += "SLOWER"
        print(line.rstrip(), flush=True)


def verdict(entries: Sequence[Entry]) -> None:
    """Whether any ratio's interval lies on the slower side of 1."""
    slower = [
        f"  {ROWS[name]} at concurrency {entry.concurrency}, {'streamed' if entry.streamed else 'not streamed'}"
        for entry in entries
        for name in entry.slower
    ]
    print(
        "\nSLOWER, with 95 % certainty:\n" + "\n".join(slower) if slower else "\nnothing is slower with 95 % certainty"
    )
