"""Writes `constraints-cpu.txt`: every package that the extra `cpu` comes to, with the tests' tools, at one version.

    make lock                       # after a change to pyproject.toml: what need not change stays
    make lock ARGS=--upgrade        # everything to its newest version

What is written holds for every Python and every Linux that Ponder runs on, and names no place: it is resolved from PyPI
alone, whatever indexes and folders pip is configured with here. Only torch+cpu is not there; its wheel comes from where
`install.py` takes it.
"""

import os
import shutil
import sys
import tempfile

from install import (
    CONSTRAINTS,
    OLDEST,
    ROOT,
    VENV,
    WHEELS,
    Failed,
    fetch_torch,
    make_venv,
    say,
    step,
    torch_version,
    uv_environment,
)

EXTRAS = ("cpu", "dev", "otel", "plots", "evaluation", "console", "ray")
PLACES = ("UV_FIND_LINKS", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_CONSTRAINT", "UV_OVERRIDE")
"""What would tie the result to this machine."""


def main(more):
    pip = make_venv()
    uv = VENV / "bin" / "uv"
    if not uv.exists():
        step("uv", [*pip, "install", "uv"], mend="is PyPI reached from here?")
    fetch_torch(pip, torch_version())
    with tempfile.TemporaryDirectory() as nothing:
        environment = {**os.environ, **uv_environment(pip), "XDG_CONFIG_HOME": nothing, "XDG_CONFIG_DIRS": nothing}
        for name in PLACES:
            environment.pop(name, None)
        if "UV_DEFAULT_INDEX" not in os.environ:
            environment.pop("UV_DEFAULT_INDEX", None)
        step(
            f"{CONSTRAINTS.relative_to(ROOT)}",
            [
                *[str(uv), "pip", "compile", "pyproject.toml", "--output-file", str(CONSTRAINTS)],
                *["--universal", "--python-version", "{}.{}".format(*OLDEST), "--find-links", str(WHEELS)],
                *[word for extra in EXTRAS for word in ("--extra", extra)],
                *["--group", "install", "--no-annotate", "--custom-compile-command", "make lock", *more],
            ],
            mend="what pyproject.toml asks for must be on PyPI, and fit together",
            env=environment,
        )
    shutil.rmtree(WHEELS, ignore_errors=True)
    say("`make install` brings what is here to it")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as failure:
        sys.exit(f"ponder: {failure}\nwhat mends it: {failure.mend}")
