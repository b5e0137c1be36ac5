"""The floors of the house: who may import whom, and who may look at a thought. Read from the code itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "compute": set[str](),
    "strategies": {"compute"},
    "verifiers": {"compute"},
    "engines": {"compute"},
    "metering": {"compute"},
    "clients": set[str](),
    "models": {"compute", "engines"},
    "testing": {"compute", "strategies", "engines", "metering", "server"},
    "server": {"compute", "strategies", "verifiers", "engines", "metering"},
    "evaluation": {"compute", "strategies", "verifiers", "engines", "metering", "clients"},
    "console": {"clients", "evaluation"},
    "ponder": {"server", "clients", "console", "evaluation"},
}
"""What each room may import of ours. `server` knows everyone but `clients` and `evaluation`; `testing` speaks dialects
over a server; `console` is a client; `ponder`, the one name of all rooms, holds the command line, which knows those
with subcommands."""


PASSAGE = 13
"""Lines that no two files have in common: what is the same for so long has a place of its own."""


def files(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*.py") if "work" not in p.relative_to(ROOT).parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def modules(path: Path) -> frozenset[str]:
    """All that a file imports, wherever in it; `from a import b` may mean a name or a module."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def imports(path: Path) -> set[str]:
    """The first names of all that a file imports; of ours the rooms, without the `ponder.` before them."""
    return {name.removeprefix("ponder.").split(".")[0] for name in modules(path)} - {"ponder"}


@cache
def attributes(path: Path) -> frozenset[str]:
    return frozenset(node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute))


@cache
def names(path: Path) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name))


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down_only(room: str) -> None:
    assert files(room)
    for path in files(room):
        upward = imports(path) & ROOMS.keys() - ROOMS[room] - {room}
        assert not upward, f"{path.relative_to(ROOT)} imports {upward}"


@pytest.mark.parametrize("room", [*ROOMS, "tests", "bench"])
def test_a_room_is_imported_under_ponder_alone(room: str) -> None:
    for path in files(room):
        flat = {name.split(".")[0] for name in modules(path)} & ROOMS.keys() - {"ponder"}
        assert not flat, f"{path.relative_to(ROOT)} imports {flat} without ponder. before it"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports for types alone included."""
    paths = {
        "ponder." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ROOMS.keys() - {"models"}
        for path in files(room)
    }
    order = TopologicalSorter({name: modules(path) & paths.keys() - {name} for name, path in paths.items()})
    order.prepare()


def test_a_request_reads_the_time_in_one_place() -> None:
    """So that a loop with a clock of its own drives everything that waits or is timed."""
    on_the_way = ("admission", "http/body", "http/outbox", "respond", "traces")
    for path in [*files("compute"), *files("strategies"), *(ROOT / f"server/{name}.py" for name in on_the_way)]:
        assert path.name == "clock.py" or "monotonic" not in attributes(path), path


def test_only_engines_and_verifiers_look_at_thoughts() -> None:
    """`compute/transcript.py` continues a chain, `compute/text.py` compares places, `compute/summary.py` compares a
    summary with its thought; `server/unseal.py` is the one place where a key with the scope for it is shown one."""
    allowed = {"compute/transcript.py", "compute/text.py", "compute/summary.py", "server/unseal.py"}
    assert all("unseal" in attributes(ROOT / path) for path in allowed)
    for room in ("compute", "strategies", "metering", "server", "clients"):
        for path in files(room):
            if str(path.relative_to(ROOT)) not in allowed:
                assert "unseal" not in attributes(path), f"{path.relative_to(ROOT)} unseals a hidden value"


def test_the_server_never_names_a_candidate() -> None:
    for path in files("server"):
        assert "Candidate" not in names(path), path


def test_dialects_import_the_core_and_only_the_application_imports_them() -> None:
    """`server/app.py` is where the table of dialects meets the core."""
    for path in files("server"):
        place = path.relative_to(ROOT / "server").parts
        if place[0] != "dialects" and place != ("app.py",):
            assert not [name for name in modules(path) if name.startswith("ponder.server.dialects")], path
        elif len(place) > 2:
            others = {name.split(".")[3] for name in modules(path) if name.startswith("ponder.server.dialects.")}
            shared = {one.stem for one in (ROOT / "server/dialects").glob("*.py")}
            assert others <= {place[1]} | shared, f"{path} imports another dialect"
            assert not {"ponder.server.unseal", "ponder.server.respond"} & modules(path), path


def test_openai_s_words_stand_in_its_dialect_alone() -> None:
    """But for the traces and what reads them, which call the answers of a request so in a format of our own, and for
    the spans, whose words are OpenTelemetry's."""
    others = {
        "traces.py": {"choices"},
        "shared_traces.py": {"choices"},
        "trace_shapes.py": {"choices"},
        "commands/receipt.py": {"choices"},
        "spans.py": {"finish_reason"},
    }
    others |= {"dialects/thinking_report.py": {"choices"}}
    for path in files("server"):
        place = path.relative_to(ROOT / "server").as_posix()
        if not place.startswith(("dialects/openai_chat/", "dialects/openai_completions/")):
            words = {"choices", "finish_reason", "chat.completion"} - others.get(place, set())
            found = [word for word in words if word in path.read_text()]
            assert not found, f"{place} has OpenAI's words {found}"


def test_a_strategy_has_no_try_no_clock_no_engine_and_no_task_of_its_own() -> None:
    for path in files("strategies"):
        nodes = list(ast.walk(tree(path)))
        assert not [n for n in nodes if isinstance(n, ast.Try | ast.TryStar)], f"{path} has a try"
        assert not imports(path) & {"time", "vllm", "httpx", "torch"}, path
        assert not names(path) & {"Engine", "Spending", "Reservation", "Sampling", "Chains"}, path
        assert not attributes(path) & {"gather", "create_future", "wait_for", "timeout", "sleep"}, path


def test_nothing_gathers_and_nothing_runs_loose() -> None:
    """Tasks are children of a task group, so that a cancelled request leaves none behind; and of our own kind of group,
    which does not forget that it was cancelled. The console, a program of its own, has no requests that go on."""
    home = ROOT / "compute" / "groups.py"
    for room in ROOMS.keys() - {"models"}:
        for path in files(room):
            if path == home:
                continue
            assert not attributes(path) & {"ensure_future", "gather"}, path
            assert room == "console" or "TaskGroup" not in attributes(path), path
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.Attribute) and node.attr == "create_task":
                    assert not (isinstance(node.value, ast.Name) and node.value.id == "asyncio"), path


def test_the_core_imports_no_torch_and_no_engine_library_at_the_top() -> None:
    """But for what vLLM itself imports in its own process, which nobody else does."""
    for room in ROOMS.keys() - {"models"}:
        for path in files(room):
            inside = {"ponder.engines.tails", "ponder.engines.scheduling"}
            assert not inside & modules(path), path
            if f"ponder.{path.parent.name}.{path.stem}" in inside:
                continue
            top = {a.name.split(".")[0] for n in tree(path).body if isinstance(n, ast.Import) for a in n.names}
            top |= {(n.module or "").split(".")[0] for n in tree(path).body if isinstance(n, ast.ImportFrom)}
            assert not top & {"torch", "vllm"}, path


def passages(path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """All passages of `PASSAGE` lines and where each begins: blank lines, comments and white space do not count."""
    lines = [(number, " ".join(line.split())) for number, line in enumerate(path.read_text().splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    for at in range(len(lines) - PASSAGE + 1):
        yield tuple(line for _, line in lines[at : at + PASSAGE]), lines[at][0]


def test_no_passage_stands_in_two_files() -> None:
    begun: dict[tuple[str, ...], tuple[Path, int]] = {}
    for path in (path for room in (*ROOMS, "bench", "tools") for path in files(room)):
        for passage, number in passages(path):
            other, there = begun.setdefault(passage, (path, number))
            here = f"{path.relative_to(ROOT)}:{number}"
            assert other == path, f"{here} and {other.relative_to(ROOT)}:{there} are the same for {PASSAGE} lines"
