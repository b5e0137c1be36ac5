"""What must be true of every run, whatever its faults were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ponder.compute.usage import Usage
from ponder.engines.quarantine import STUCK
from ponder.engines.supervised import TRIES
from ponder.metering.leases import Kind, window
from ponder.testing import MARKER
from tests.simulation.database import Disk
from tests.simulation.door import SEND, Caller, Server
from tests.simulation.engine import part_of_an_answer, whole_answer
from tests.simulation.world import FAILING, LONG, World

Rows = Mapping[str, Mapping[str, Any]]
"""Of the ledger, by the ids of requests."""
SPARE = 25.0
"""Seconds that a request may take beyond its time: for settling it, and for its last bytes to leave."""
PROMISED = ("finished", "budget")
"""A seeded answer that ended so is the same as undisturbed."""
COUNTED: dict[str, Kind] = {"thinking_tokens_per_minute": "minute", "thinking_tokens_per_day": "day"}


def check(
    world: World,
    callers: Sequence[Caller],
    servers: Sequence[Server],
    serving: Sequence[Server],
    disk: Disk,
    logged: Sequence[str],
) -> list[str]:
    """What is wrong in a run that is at rest: those `serving` of all its servers still do, and nobody asks."""
    rows = disk.rows()
    return [
        *(problem for server in serving for problem in _nothing_left(server)),
        *(problem for server in servers for problem in server.model.wrong),
        *(f"{len(ids)} requests of {key} run for accounts" for key, ids in _running(servers).items() if ids),
        *(f"the row of {id} is open" for id, row in rows.items() if row["settled_ms"] is None),
        *(problem for server in servers for problem in _counts(world, server, rows)),
        *_limits(world, servers, rows),
        *_traces(servers, rows),
        *_secrets(callers, servers, rows, logged),
        *(problem for caller in callers for problem in _caller(world, caller, rows)),
        *(_lost(world, callers, servers) if world.scenario.steady or world.scenario.kind == "supervised" else ()),
    ]


def _running(servers: Sequence[Server]) -> Mapping[str, set[str]]:
    return servers[0].inflight.everywhere if servers else {}


def _nothing_left(server: Server) -> Iterator[str]:
    if server.admission.inside or server.admission.queued:
        yield f"{server.admission.inside} requests run and {server.admission.queued} wait, though nobody asks"
    if server.model.running:
        yield f"{server.model.running} streams of engines are open"
    if (pool := server.model.pool) is not None and pool.slots is not None:
        if pool.slots.held or pool.slots.waiting:
            yield f"{pool.slots.held} places of replicas are taken, and {pool.slots.waiting} calls wait for one"
        yield from (f"{one.url} has {one.in_flight} calls" for one in pool.replicas if one.in_flight)
    if server.ledger.reserved or server.ledger.unsettled:
        yield f"the ledger has {server.ledger.reserved} tokens reserved, {server.ledger.unsettled} requests unsettled"
    for window_, held in server.ledger.held.items():
        yield f"{held} are reserved of the limit {window_.kind} of {window_.key}"


def _counts(world: World, server: Server, rows: Rows) -> Iterator[str]:
    """Made is what was billed and wasted, to the token; of a server that was killed, within its checkpoints."""
    settled = {id: told[-1][0] for id, told in server.inflight.settled.items()}
    if server.made is not None:
        own = [row for row in rows.values() if row["owner"] == server.ledger.process.id]
        billed = sum(row[name] for row in own for name in ("thinking", "answer", "wasted"))
        uncertain = sum(row["uncertain"] for row in own)
        if not world.struck["fenced"] and not billed <= server.made <= billed + uncertain:
            yield f"killed engines made {server.made} tokens; {billed} are billed or wasted, and {uncertain} uncertain"
        return
    told = sum(usage.generated + usage.wasted for usage in settled.values())
    if server.model.made != told:
        yield f"engines made {server.model.made} tokens, and settlements say {told}"
    drifted = 0
    for id, usage in settled.items():
        if (row := rows.get(id)) is None:
            continue
        if row["outcome"] == "lost":
            drifted += usage.generated - row["thinking"] - row["answer"]
        elif (counts := [row[n] for n in ("thinking", "answer", "wasted")]) != [
            usage.hidden,
            usage.visible,
            usage.wasted,
        ]:
            yield f"{id} is settled with {usage}, and its row says {counts}"
    if server.drifted != drifted:
        yield f"{drifted} tokens are in no row, because another server settled them, and {server.drifted} were told of"


def _limits(world: World, servers: Sequence[Server], rows: Rows) -> Iterator[str]:
    for server in servers:
        if not world.struck["fenced"]:
            # Of a server that is taken for dead the requests run on, and their places have others.
            yield from server.inflight.wrong
    for key, limits in world.scenario.keys.items():
        for name, kind in COUNTED.items():
            if (limit := limits.get(name)) is None:
                continue
            spent: dict[int, int] = {}
            for row in rows.values():
                if row["key"] == key:
                    begun = window(key, kind, row["begun_ms"]).begun_ms
                    spent[begun] = spent.get(begun, 0) + row["thinking"]
            if (most := max(spent.values(), default=0)) > limit:
                yield f"{key} has spent {most} hidden tokens in a {kind}, and its limit is {limit}"


def _traces(servers: Sequence[Server], rows: Rows) -> Iterator[str]:
    for server in servers:
        if server.killed:
            continue
        traces = dict(server.traces.latest())
        for id, told in server.inflight.settled.items():
            usage, ending = told[-1]
            used = server.inflight.used.get(id, Usage())
            if used.generated != usage.generated:
                yield f"{id}: calls have told of {used.generated} tokens, the settlement of {usage.generated}"
            if id not in rows:
                yield f"{id} was settled and is in no row"
            elif rows[id]["outcome"] not in (ending, "lost"):
                yield f"{id} ended as {ending}, and its row says {rows[id]['outcome']}"
            trace = traces.get(id)
            if trace is None:
                if usage.generated:
                    yield f"{id} has made {usage.generated} tokens and has no trace"
                continue
            calls = [one.calls.told(number) for one in trace.choices for number in range(len(one.calls))]
            if any(call["ending"] == "lost" and call["vote"] is not None for call in calls):
                yield f"{id}: a chain that was lost has a vote"
            if any(call["seconds"] is None for call in calls):
                yield f"{id}: a call is open in its trace"
            made = sum(one.tokens["hidden"] + one.tokens["visible"] for one in trace.choices)
            # A caller may go, or be cut off, when all is settled and its last bytes are on their way.
            late = trace.ended in ("disconnected", "cancelled")
            if made != usage.generated or (trace.ended != ending and not late):
                yield f"{id}: its trace says {trace.ended}, {made} tokens; its settlement {ending}, {usage.generated}"


def _lost(world: World, callers: Sequence[Caller], servers: Sequence[Server]) -> Iterator[str]:
    """As long as an engine lives, or comes back, no request is lost, nor a chain of one; but for those over which
    engines die, and those that have been failed again and again."""
    struck = world.struck
    failed = sum(struck[fault] for fault in FAILING) >= TRIES
    failed = failed or (world.scenario.kind == "supervised" and struck["fails"] > 0)
    fell = struck["crashed"] + struck["hangs"] + struck["no_start"] > 0
    stuck = struck["killed"] + struck["cut"] + struck["slow"] + struck["flaps"] >= STUCK
    for caller in callers:
        code = caller.failure.get("code") if caller.failure else None
        away = code == "engine_unavailable" and caller.asked.timeout == LONG
        quarantined = code == "request_quarantined" and not (fell or stuck)
        if away or quarantined or (code in ("engine_error", "engine_lost") and not failed):
            yield f"{caller.name} is lost though an engine lives: {caller.failure}"
    if failed or fell or stuck:
        return
    for server in servers:
        for id, trace in server.traces.latest():
            calls = [one.calls.told(number) for one in trace.choices for number in range(len(one.calls))]
            if any(call["ending"] == "lost" for call in calls):
                yield f"{id}: a chain is lost though an engine lives"


def _secrets(
    callers: Sequence[Caller],
    servers: Sequence[Server],
    rows: Rows,
    logged: Sequence[str],
) -> Iterator[str]:
    places = {
        "answers": repr([caller.body for caller in callers]),
        "rows": repr(rows),
        "the log": "\n".join(logged),
        "traces": repr([server.traces.latest() for server in servers]),
    }
    yield from (f"a thought is in {place}" for place, words in places.items() if MARKER in words)


def _caller(world: World, caller: Caller, rows: Rows) -> Iterator[str]:
    name, asked = caller.name, caller.asked
    if caller.end is None:
        yield f"{name} has not ended"
        return
    if caller.ends > 1:
        yield f"{name} was ended {caller.ends} times"
    late = caller.ended - caller.began - asked.timeout - world.frozen - caller.read_late
    if late > SPARE:
        yield f"{name} ended {late:.1f} s behind its time of {asked.timeout} s"
    for text in caller.texts.values():
        if not part_of_an_answer(text):
            yield f"{name} has a gap or a repeat: {text!r}"
    # Who does not read on is cut off by a server that goes down.
    slow = caller.stood_still and caller.server is not None and caller.server.going_down
    dropped = slow or caller.cancelled or caller.read_late >= SEND or world.struck["door_killed"]
    if caller.end == "broken" and not caller.failure and not dropped:
        yield f"{name} was broken off without a word"
    if caller.end == "refused" and not caller.failure:
        yield f"{name} was refused with {caller.status} and without a word: {caller.body!r}"
    fails = world.struck["fails"] or (world.scenario.kind == "replicas" and world.struck.total())
    if caller.status == 500 and caller.ends and not (fails and b'"engine_error"' in caller.body):
        yield f"{name} was refused as an error of the server's: {caller.body!r}"
    if caller.end == "answered":
        yield from _answer(caller, rows)


def _answer(caller: Caller, rows: Rows) -> Iterator[str]:
    name, told, finishes = caller.name, caller.told, caller.finishes
    usage, thinking, row = told["usage"], told["thinking"], rows.get(caller.id)
    if usage is None or thinking is None or row is None:
        yield f"{name} was answered without its numbers: {told}, {row}"
        return
    if len(finishes) != caller.asked.body.get("n", 1):
        yield f"{name} has {len(finishes)} ends"
    for index, text in caller.texts.items():
        if finishes.get(index) == "stop" and not whole_answer(text):
            yield f"{name} is said to be whole, and is not: {text!r}"
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    if hidden > thinking["budget"] or thinking["budget"] > max(caller.asked.body["thinking_budget"], 0):
        yield f"{name} has {hidden} hidden tokens of {thinking['budget']}, and asked for {caller.asked.body}"
    billed = row["thinking"], row["answer"]
    if row["outcome"] != "lost" and billed != (hidden, usage["completion_tokens"] - hidden):
        yield f"{name} was told {usage}, and its row says {billed}"


def compared(callers: Sequence[Caller], undisturbed: Sequence[Caller]) -> Iterator[str]:
    """A seeded answer is the same undisturbed, and streamed or not."""
    calm = {caller.asked.number: caller for caller in undisturbed}
    for other in undisturbed:
        # One that is not likely to have its answer in time is refused, however long it would have taken.
        code = other.failure.get("code") if other.failure else None
        if other.end != "answered" and code != "deadline_out_of_reach":
            yield f"undisturbed: {other.name} was not answered but {other.end}: {other.failure}"
    for caller in callers:
        other = calm.get(caller.asked.number)
        if other is None or caller.end != "answered" or other.end != "answered":
            continue
        told, known = caller.told["thinking"], other.told["thinking"]
        stops = [told["stopped_by"], *(one["stopped_by"] for one in told.get("choices", ()))]
        if told["budget"] != known["budget"] or any(stop not in PROMISED for stop in stops):
            continue
        if any(one.get("verifier_degraded") for one in (told, *told.get("choices", ()))):
            # Another judges where the verifier failed, and the answer says so.
            continue
        if (caller.texts, caller.finishes) != (other.texts, other.finishes):
            yield f"{caller.name} with a seed: {caller.texts} {told}; undisturbed {other.texts} {known}"
