"""Everything of ours has one name, `ponder.…`: installed it takes no other, and no file is ever loaded under two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

from tests.from_path import from_path
from tests.test_architecture import ROOMS, ROOT

LOOKING = """
import atexit

def look():
    import collections, json, os, sys
    names = collections.defaultdict(dict)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and os.path.realpath(file).startswith(ROOT + os.sep):
            names[os.path.realpath(file)].setdefault(id(module), name)
    with open(FOUND, "w") as out:
        json.dump({file: list(each.values()) for file, each in names.items()}, out)

atexit.register(look)
"""
"""A `sitecustomize` that writes down under which names a process has loaded each file of ours."""

EVERYTHING = """
import importlib, pkgutil, ponder
for room in pkgutil.iter_modules(ponder.__path__):
    if room.ispkg and room.name != "models":
        package = importlib.import_module("ponder." + room.name)
        for module in pkgutil.iter_modules(package.__path__):
            if module.name not in ("tails", "scheduling"):
                importlib.import_module(package.__name__ + "." + module.name)
"""
"""Imports all but the models' recipe and what only vLLM's processes import."""


def python(*arguments: str, more: Path | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(folder) for folder in (more, ROOT) if folder)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("room", sorted(ROOMS.keys() - {"ponder"}))
@pytest.mark.parametrize("how", ["-c", "-m"])
def test_a_folder_at_the_top_cannot_be_imported_by_its_own_name(room: str, how: str) -> None:
    done = python(*(["-c", f"import {room}"] if how == "-c" else ["-m", room]))
    assert done.returncode == 1
    assert f"{room} is a part of Ponder: import it as ponder.{room}" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "ponder", "--version"],
        ["-m", "bench.door", "--help"],
        ["-m", "bench.overhead", "--help"],
        ["-m", "ponder", "replay", "--help"],
        ["bench/door.py", "--help"],
        ["bench/overhead.py", "--help"],
        ["-c", EVERYTHING],
    ],
    ids=lambda command: "everything" if command[0] == "-c" else " ".join(command),
)
def test_no_file_is_loaded_under_two_names(command: list[str], tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    (tmp_path / "sitecustomize.py").write_text(f"ROOT, FOUND = {str(ROOT.resolve())!r}, {str(found)!r}\n{LOOKING}")
    done = python(*command, more=tmp_path)
    assert done.returncode == 0, done.stderr
    check(json.loads(found.read_text()))


def test_no_file_is_loaded_under_two_names_by_these_tests() -> None:
    names: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or "site-packages" in Path(file).parts:
            continue
        if Path(file).resolve().is_relative_to(ROOT.resolve()):
            names[os.path.realpath(file)].setdefault(id(module), name)
    check({file: list(each.values()) for file, each in names.items()})


def check(names: dict[str, list[str]]) -> None:
    """Each file was loaded once, and that of a room under `ponder`."""
    assert names
    for file, each in names.items():
        assert len(each) == 1, f"{file} is {' and '.join(each)}"
        room = Path(file).relative_to(ROOT.resolve()).parts[0]
        if room in ROOMS and each != ["__main__"]:
            assert each[0].split(".")[0] == "ponder", f"{file} is {each[0]}"


# -- installed --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tools() -> ModuleType:
    return from_path("install_of_the_tools", ROOT / "tools" / "install.py")


@pytest.fixture(scope="module")
def installed(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel, what that says it needs, and packages of others that have the names of
    our folders and cannot be imported."""
    folder = tmp_path_factory.mktemp("installed")
    built = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "dist.py"), str(folder / "dist")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    venv = folder / "venv"
    uv = str(tools.VENV / "bin" / "uv")
    environment = {**clean(), **tools.uv_environment(tools.make_venv())}
    for command in (
        ["venv", "--python", sys.executable, str(venv)],
        ["pip", "install", "--python", str(venv), "--constraint", str(tools.CONSTRAINTS), str(wheel)],
    ):
        done = subprocess.run([uv, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for room in ROOMS.keys() - {"ponder"}:
        (packages(venv) / room).mkdir()
        (packages(venv) / room / "__init__.py").write_text("raise RuntimeError('a package of somebody else')\n")
    return venv


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def packages(venv: Path) -> Path:
    (found,) = venv.glob("lib/*/site-packages")
    return found


def ran(venv: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(venv / "bin" / command[0]), *command[1:]],
        cwd=venv,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_wheel_brings_one_package_and_no_other_file(installed: Path) -> None:
    (info,) = packages(installed).glob("ponder_server-*.dist-info")
    files = {line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()}
    assert {file.split("/")[0] for file in files} == {"ponder", info.name, ".."}
    assert {file for file in files if file.startswith("..")} == {"../../../bin/ponder"}
    assert "ponder/models/demo/model.safetensors" in files
    assert (info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_installed_alone_it_is_a_client_beside_whatever_is_called_as_our_folders(installed: Path) -> None:
    done = ran(installed, "ponder", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ponder ")
    asking = "from ponder.clients.client import Client, Unreachable\nimport ponder.clients.ask\n"
    asking += "try:\n    Client('http://127.0.0.1:1').models()\nexcept Unreachable:\n    print('nobody')\n"
    done = ran(installed, "python", "-c", asking)
    assert (done.returncode, done.stdout) == (0, "nobody\n"), done.stderr
    done = ran(installed, "ponder", "ask", "?", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "no server answers at http://127.0.0.1:1" in done.stderr
    libraries = {path.name for path in packages(installed).iterdir()}
    assert not libraries & {"fastapi", "starlette", "uvicorn", "transformers", "tokenizers", "pydantic_settings"}


@pytest.mark.parametrize("command", ["serve", "doctor", "keys"])
def test_the_client_alone_says_what_the_server_wants(installed: Path, command: str) -> None:
    done = ran(installed, "ponder", command, *(["new", "alice"] if command == "keys" else []))
    assert (done.returncode, done.stdout) == (1, "")
    assert "the server is not installed, only the client: aiohttp, alembic, cachetools, cryptography" in done.stderr
    assert "pip install 'ponder-server[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_its_libraries_the_server_is_there(installed: Path) -> None:
    """They are those of this environment, which is the slower to install."""
    link = packages(installed) / "libraries.pth"
    (libraries,) = {
        str(Path(path)) for path in sys.path if path.endswith("site-packages") and Path(path, "fastapi").is_dir()
    }
    link.write_text(libraries + "\n")
    try:
        done = ran(installed, "ponder", "keys", "new", "alice")
        assert done.returncode == 0, done.stderr
        assert 'name = "alice"' in done.stdout
        done = ran(installed, "python", "-c", "import ponder.server.serve as found; print(found.__file__)")
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).is_relative_to(packages(installed))
    finally:
        link.unlink()
