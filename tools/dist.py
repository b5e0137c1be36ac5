"""Builds the wheel and the source archive, the wheel from the archive, and installs the wheel once to prove it.

    make dist                       # into dist/
    python3 tools/dist.py FOLDER

The proof: both archives hold the licence. In a new virtual environment the wheel brings the package `ponder`, its
metadata and the command, and nothing else; with the client's two libraries alone `ponder --version` answers and
`ponder.clients` is imported.
"""

import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from install import CONSTRAINTS, ROOT, VENV, Failed, make_venv, output, say, step, uv_environment

LICENCE = "LICENSE"


def main(folder):
    pip = make_venv()
    uv = VENV / "bin" / "uv"
    if not uv.exists():
        step("uv", [*pip, "install", "--constraint", str(CONSTRAINTS), "uv"], mend="is PyPI reached from here?")
    environment = {**os.environ, **uv_environment(pip)}
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        environment.pop(name, None)
    with tempfile.TemporaryDirectory() as made:
        step(
            "built",
            [str(uv), "build", "--build-constraint", str(CONSTRAINTS), "--out-dir", made, str(ROOT)],
            mend="is PyPI reached from here? hatchling comes from there",
            env=environment,
        )
        (wheel,), (archive,) = Path(made).glob("*.whl"), Path(made).glob("*.tar.gz")
        check_licence(wheel, archive)
        prove(uv, wheel, environment)
        folder.mkdir(parents=True, exist_ok=True)
        for file in (archive, wheel):
            say(f"{shutil.copy(file, folder)} ({file.stat().st_size / 1e6:.1f} MB)")


def check_licence(wheel, archive):
    text = (ROOT / LICENCE).read_bytes()
    with zipfile.ZipFile(wheel) as files:
        in_wheel = [files.read(name) for name in files.namelist() if name.endswith(f".dist-info/licenses/{LICENCE}")]
    with tarfile.open(archive) as files:
        in_archive = [
            files.extractfile(member).read() for member in files.getmembers() if member.name.endswith(f"/{LICENCE}")
        ]
    if in_wheel != [text] or in_archive != [text]:
        raise Failed("the licence is not in both of what was built", "license-files in pyproject.toml names it")


def prove(uv, wheel, environment):
    """Installs it where nothing is, and looks at what came."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        python = venv / "bin" / "python"
        step(
            "an empty environment",
            [str(uv), "venv", "--python", sys.executable, str(venv)],
            mend="uv's words above say what it lacks",
            env=environment,
        )
        (packages,) = venv.glob("lib/*/site-packages")
        before = {path.name for path in packages.iterdir()}
        install = [str(uv), "pip", "install", "--python", str(python), "--constraint", str(CONSTRAINTS)]
        step("the wheel in it", [*install, "--no-deps", str(wheel)], mend="see the log", env=environment)
        came = {path.name for path in packages.iterdir()} - before
        info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
        if came != {"ponder", info}:
            raise Failed(f"the wheel brings {', '.join(sorted(came))}", f"it may bring ponder and {info} alone")
        step("the client's libraries", [*install, str(wheel)], mend="is PyPI reached from here?", env=environment)
        for command in (
            [str(venv / "bin" / "ponder"), "--version"],
            [str(python), "-c", "import ponder.clients.client"],
        ):
            step(" ".join(["   ", Path(command[0]).name, *command[1:]]), command, mend="see the log", env=environment)
        say(output([str(venv / "bin" / "ponder"), "--version"]) + " is installed and runs")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
    except Failed as failure:
        sys.exit(f"ponder: {failure}\nwhat mends it: {failure.mend}")
