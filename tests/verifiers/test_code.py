# pyright: reportUnknownMemberType=false
"""Programs judged by tests, and programs that would break out. The sandbox is the real one."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import TypeAdapter, ValidationError

from ponder.verifiers.code import Case, Code
from ponder.verifiers.programs import program
from ponder.verifiers.sandbox import MOST_FILES, Sandbox
from tests.needs import tool
from tests.verifiers.hand import candidate, judged, run_of, values

DOUBLE = "```python\ndef double(x):\n    return 2 * x\n```"


@pytest.fixture(autouse=True)
def _bubblewrap() -> None:
    tool("bwrap", "bubblewrap")


def sandboxed(source: str, seconds: float = 10.0, memory_mb: int = 256) -> tuple[int | None, str]:
    """(exit status, what was printed) of a program."""
    status, printed = asyncio.run(Sandbox(memory_mb).run(source, "", seconds))
    return status, printed.decode()


def left_behind() -> list[str]:
    """Command lines of this process's sandboxes that still run; other processes may have some, too."""
    lines: list[str] = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return [line for line in lines if "/python/bin/python3" in line]


@pytest.fixture
def clean() -> Callable[[], None]:
    """Checks behind a test that nothing of the sandbox runs on and nothing stays open."""
    # What outlives its parent becomes a child of ours, and is found.
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    before = len(os.listdir("/proc/self/fd"))

    def check() -> None:
        until = time.monotonic() + 60
        while left_behind() and time.monotonic() < until:
            time.sleep(0.05)
        assert not left_behind()
        assert len(os.listdir("/proc/self/fd")) <= before + 2

    return check


# -- judging ----------------------------------------------------------------------------------------------------------


def test_the_score_is_the_share_of_tests_passed() -> None:
    code = Code(tests=("assert double(2) == 4", "assert double(3) == 7", "x = double('a')\nassert x == 'aa'"))
    assert values(code, DOUBLE, "no program", "```python\ndouble = (\n```") == pytest.approx([2 / 3, 0, 0])


def test_a_script_that_reads_is_tested_by_its_functions() -> None:
    script = "```python\nn = int(input())\ndef double(x):\n    return 2 * x\nprint(double(n))\n```"
    assert values(Code(tests=("assert double(2) == 4", Case("3", "6"))), script) == [1]


def test_a_program_that_reads_its_tests_finds_none() -> None:
    source = "import os, sys\nos.write(1, sys.stdin.read().partition('\\n')[0].encode())\nos._exit(0)"
    assert values(Code(tests=("assert double(2) == 4",)), f"```python\n{source}\n```") == [0]


def test_a_program_is_judged_by_what_it_prints() -> None:
    code = Code(tests=(Case("3\n", "6"), Case("4", "8\n")))
    assert values(code, "```python\nprint(2 * int(input()), ' ')\n```", "```python\nprint(6)\n```") == [1, 0.5]


@pytest.mark.parametrize(
    "source",
    ["import sys; sys.exit(0)", "import os; os._exit(0)", "exit()", "def double(x):\n    import os; os._exit(0)"],
)
def test_ending_early_passes_nothing(source: str) -> None:
    assert values(Code(tests=("assert double(2) == 4",)), f"```python\n{source}\n```") == [0]


def test_a_program_may_use_the_standard_library_and_a_scratch_folder() -> None:
    source = (
        "import dataclasses, decimal, json, math, random, re, sqlite3\n"
        "open('/tmp/x', 'w').write('5')\nprint(open('/tmp/x').read())\n"
        "if __name__ == '__main__':\n    print('main')\n"
    )
    assert sandboxed(source) == (0, "5\nmain\n")


def test_the_program_is_the_last_python_block() -> None:
    assert program("```python\na\n```\n```py\nb\n```\n```\nc\n```\n```bash\nd\n```") == "b\n"
    assert program("```\na\n```\n```bash\nb\n```") == "a\n"
    assert program("```bash\nb\n```") == ""
    assert program("print(1)") == "print(1)"
    assert program("```py\na") == "```py\na"


def test_a_block_is_what_the_pattern_of_one_says() -> None:
    pattern = re.compile(r"```[ \t]*([\w+-]*)[^\n`]*\n(.*?)```", re.DOTALL)
    pick = random.Random(11)
    for _ in range(20_000):
        text = "".join(pick.choices(["`", "``", "```", "\n", " ", "py", "python\n", "x", "-", "title='a'"], k=20))
        blocks = [(m[1].casefold(), m[2]) for m in pattern.finditer(text)]
        named = [b for n, b in blocks if n in ("py", "python")] or [b for n, b in blocks if not n]
        assert program(text) == ((named or [""])[-1] if blocks else text), text


@pytest.mark.parametrize("piece", ["a", " ", "-", " a", "`", "``` ", "```\n", "```a\n", "\n```x", "```a `", "\t`\n```"])
@pytest.mark.parametrize("head", ["```", "```\n", ""])
def test_finding_the_program_takes_time_as_the_text_is_long(head: str, piece: str) -> None:
    def work(n: int) -> float:
        text = head + piece * (n // len(piece))
        began = time.process_time()
        program(text)
        return time.process_time() - began

    one, two, four = (min(work(n) for _ in range(3)) for n in (25_000, 50_000, 100_000))
    assert two < 3 * one + 0.05
    assert four < 6 * one + 0.05


def test_all_tests_of_a_program_share_its_time() -> None:
    began = time.monotonic()
    assert values(Code(tests=("assert True",) * 64, seconds=1.0), "```python\nwhile True: pass\n```") == [0]
    assert time.monotonic() - began < 64 * 1.0


def test_where_there_is_no_sandbox_nothing_is_run(tmp_path: Path) -> None:
    probe = (
        "import asyncio, os, sys\n"
        "from ponder.verifiers.sandbox import Sandbox\nfrom ponder.compute.errors import EngineError\n"
        "try:\n    asyncio.run(Sandbox(256).probe())\n"
        "except EngineError as error:\n    print(error.message)\n"
    )

    async def without(path: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", probe),
            env={"PATH": path, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=asyncio.subprocess.PIPE,
        )
        return (await process.communicate())[0].decode()

    assert "apt-get install bubblewrap" in asyncio.run(without(str(tmp_path)))
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho no namespaces >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "does not hold" in asyncio.run(without(str(tmp_path)))


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"tests": []},
        {"tests": ["a"] * 65},
        {"tests": [""]},
        {"tests": ["a"], "seconds": 31},
        {"tests": [{"stdin": ""}]},
        {"tests": ["a"], "memory_mb": 10**6},
        {"tests": ["a"], "network": True},
    ],
)
def test_tests_without_sense_or_bounds_are_refused(wish: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Code).validate_python(wish)


# -- breaking out -----------------------------------------------------------------------------------------------------


def test_the_network_is_out_of_reach(clean: Callable[[], None]) -> None:
    async def main() -> tuple[tuple[int | None, bytes], int]:
        knocks = 0

        def knocked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal knocks
            knocks += 1
            writer.close()

        async with await asyncio.start_server(knocked, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            source = (
                f"import socket\ntry:\n    socket.create_connection(('127.0.0.1', {port}), 2)\n"
                "except OSError as error:\n    print('refused', error.errno)\n"
            )
            return await Sandbox(256).run(source, "", 10), knocks

    (status, printed), knocks = asyncio.run(main())
    assert status == 0
    assert printed.startswith(b"refused")
    assert knocks == 0
    clean()


@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True:\n    os.fork()",
        "import threading, time\nwhile True:\n",
        "import subprocess\nsubprocess.run(['/python/bin/python3', '-c', '0'])",
    ],
)
def test_a_fork_bomb_does_not_even_start(bomb: str, clean: Callable[[], None]) -> None:
    if bomb.endswith("True:\n"):
        bomb += "    threading.Thread(target=time.sleep, args=(9,)).start()"
    status, _ = sandboxed(bomb)
    assert status not in (0, None)
    clean()


@pytest.mark.parametrize(
    "bomb",
    [
        "x = bytearray(2**32)",
        "x = []\nwhile True:\n    x.append(bytearray(2**20))",
        "import mmap\nx = [mmap.mmap(-1, 2**26) for _ in range(64)]",
        "import os\nos.memfd_create('x')",
        "import ctypes\nassert ctypes.CDLL(None).shmget(0, 2**30, 0o1666) != -1",
        "for i in range(64):\n    open(f'/tmp/{i}', 'wb').write(bytes(2**20))",
        "open('/tmp/x', 'wb').truncate(2**40)",
    ],
)
def test_a_memory_bomb_meets_its_limit(bomb: str, clean: Callable[[], None]) -> None:
    status, _ = sandboxed(bomb)
    assert status not in (0, None)
    clean()


@pytest.mark.parametrize(
    "make", ["open(f'/tmp/{i}', 'w').close()", "os.mkdir(f'/tmp/{i}')", "os.link('/tmp/x', f'/tmp/{i}')"]
)
def test_a_bomb_of_files_without_a_byte_is_ended(make: str, clean: Callable[[], None]) -> None:
    def made(files: int, seconds: float) -> str:
        loop = f"for i in range({files}):\n    {make}\n"
        return f"import os, time\nopen('/tmp/x', 'w').close()\n{loop}time.sleep({seconds})\nprint('whole')"

    status, printed = sandboxed(made(2 * MOST_FILES, 50), seconds=60)
    assert status not in (0, None)
    assert not printed
    assert sandboxed(made(MOST_FILES // 2, 0.3)) == (0, "whole\n")
    clean()


@pytest.mark.parametrize("ends", ["", "time.sleep(60)", "print('x' * 2**21)\ntime.sleep(60)"])
def test_the_processor_time_of_programs_is_told_also_of_those_that_are_ended(ends: str) -> None:
    busy = "import time\nwhile time.process_time() < 0.3:\n    pass\n"
    asyncio.run(Sandbox(256).probe())
    told: list[float] = []
    status, _ = asyncio.run(Sandbox(256, told.append).run(busy + ends, "", 30 if "sleep" not in ends else 5))
    assert status == (0 if not ends else None)
    assert len(told) == 1
    assert 0.3 <= told[0] < 3


def test_the_processor_time_of_both_sides_of_a_test_is_told_to_the_run() -> None:
    run, spending = run_of()
    spin = "def spin():\n    import time\n    while time.process_time() < 0.3:\n        pass"
    assert judged(Code(tests=("spin()\nassert True",)), [candidate(f"```python\n{spin}\n```")], run)[0].value == 1
    assert 0.3 <= spending.program_seconds < 4


def test_ten_gigabytes_of_output_are_cut_after_the_first(clean: Callable[[], None]) -> None:
    # In more time than a test may take.
    status, printed = sandboxed("import os\nfor _ in range(10 * 1024):\n    os.write(1, bytes(2**20))", seconds=3600)
    assert status is None
    assert len(printed) <= 2**20
    clean()


@pytest.mark.parametrize("loop", ["while True:\n    pass", "import time\ntime.sleep(1000)", "x = 9**9**9"])
def test_an_endless_loop_ends(loop: str, clean: Callable[[], None]) -> None:
    status, _ = sandboxed(loop, seconds=1.0)
    assert status != 0
    clean()


def test_a_sandbox_that_is_stopped_while_it_is_made_leaves_nothing(clean: Callable[[], None]) -> None:
    async def main() -> None:
        for step in range(100):
            async with asyncio.timeout(60):
                assert await Sandbox(256).run("while True: pass", "", step / 5000) == (None, b"")

    asyncio.run(main())
    clean()


def test_a_run_that_is_cancelled_takes_the_program_with_it(clean: Callable[[], None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(1.0):
            await Sandbox(256).run("while True: pass", "", 30)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    clean()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    source = (
        "import os\n"
        f"for target in ({str(secret)!r}, '/etc/passwd', '/etc/hostname', '/root', '/proc/1/root{secret}'):\n"
        "    try:\n        os.symlink(target, '/tmp/link')\n        print(open('/tmp/link').read())\n"
        "    except OSError as error:\n        print(type(error).__name__)\n"
        "    os.unlink('/tmp/link')\n"
        "for folder in ('/', '/python/lib', '/usr/lib', '/dev'):\n"
        "    try:\n        open(folder + '/written', 'w')\n        print('written')\n"
        "    except OSError as error:\n        print('kept')\n"
    )
    status, printed = sandboxed(source)
    assert status == 0
    assert printed.split() == ["FileNotFoundError"] * 5 + ["kept"] * 4


def test_nothing_of_the_machine_is_to_be_seen() -> None:
    source = (
        "import os\nprint(sorted(os.listdir('/')))\nprint(os.path.exists('/proc/1'), os.getpid() < 10, os.getuid())\n"
        "print(sorted(os.environ), os.uname().nodename)\nprint(sorted(map(int, os.listdir('/dev/fd')))"
        " if os.path.exists('/dev/fd') else [])\n"
        "open_files = []\nfor fd in range(64):\n    try:\n        os.fstat(fd)\n        open_files.append(fd)\n"
        "    except OSError:\n        pass\nprint(open_files)\n"
    )
    os.environ["A_SECRET_OF_THE_SERVER"] = "1"
    status, printed = sandboxed(source)
    lines = printed.splitlines()
    assert status == 0
    assert set(eval(lines[0])) <= {"dev", "etc", "lib", "lib64", "program.py", "python", "sides", "tmp", "usr"}
    assert lines[1] == "False True 65534"
    assert "SECRET" not in lines[2]
    assert lines[2].endswith("sandbox")
    assert lines[4] == "[0, 1, 2]"


@pytest.mark.parametrize(
    "call",
    [
        "os.setuid(0)",
        "os.chroot('/tmp')",
        "os.mknod('/tmp/x', 0o60600)",
        "resource.setrlimit(9, (-1, -1))",
        "os.kill(1, 9) or os.kill(-1, 9) or exit(3)",
        "os.kill(0, 9)",
    ],
)
def test_no_privilege_can_be_had(call: str) -> None:
    assert sandboxed(f"import os, resource\n{call}")[0] != 0


def test_a_program_that_leaves_its_group_is_ended_all_the_same(clean: Callable[[], None]) -> None:
    leaves = "import ctypes, os\nos.setsid()\nctypes.CDLL(None).prctl(1, 0)\nprint('left', flush=True)\n"
    assert sandboxed(leaves + "os.kill(0, 9)")[1] == "left\n"
    assert sandboxed(leaves + "while True:\n    pass", seconds=5) == (None, "left\n")
    clean()


def test_programs_of_many_candidates_are_judged_side_by_side_and_each_once() -> None:
    texts = [f"```python\ndef double(x):\n    return {i} * x\n```" for i in (1, 2, 3, 2, 2)]
    assert values(Code(tests=("assert double(2) == 4",)), *texts) == [0, 1, 0, 1, 1]


def test_many_programs_of_one_caller_do_not_hold_up_another() -> None:
    """One has 16 that never end; the other's is judged while all of them go on or wait."""

    async def judge() -> tuple[list[float], bool]:
        await Sandbox(256).probe()
        endless = [candidate(f"while True: {n}", number=n) for n in range(16)]
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(Code(tests=("assert f()",) * 2, seconds=10)(run_of(tenant="slow")[0], endless))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # Its programs have begun.
            mine = Code(tests=("assert double(2) == 4", "assert double(3) == 6"))
            scores = await mine(run_of(tenant="quick")[0], [candidate(DOUBLE)])
            waits = not slow.done()
            slow.cancel()
        return [score.value for score in scores], waits

    assert asyncio.run(judge()) == ([1.0], True)
