"""The dialect of `docs/write-a-dialect.md`, installed as a package of its own, is spoken; one in the way is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from starlette.routing import Route

from ponder.server.app import PAGES, all_dialects
from ponder.testing import ScriptedEngine, always
from tests.pages import ROOT, Page
from tests.plugins import Newcomer
from tests.server.serving import CHAIN, door

PAGE = Page(ROOT / "docs" / "write-a-dialect.md")
OURS = '/plain/ask"'
ENTRY = 'plain = "my_dialects.plain:Plain"\n'
ASKS = """
from ponder.testing import MARKER, Chain, ScriptedEngine, always
from tests.server.serving import ask, door
app = door(ScriptedEngine(always(Chain(MARKER, "It is 7."))))
response = ask(app, url="/plain/ask", json={"model": "demo", "question": "3 + 4?", "thoughts": 50})
print(response.status_code, response.json()["text"])
print("/plain/ask" in ask(app, "GET", "/openapi.json").json()["paths"])
print(ask(app, url="/plain/ask", json={"model": "demo", "question": 3}).json()["field"])
"""


def changed(folder: Path, old: str, new: str) -> Newcomer:
    """Somebody who follows the page with other words in it."""
    assert old in PAGE.text
    page = folder / "page.md"
    page.write_text(PAGE.text.replace(old, new))
    return Newcomer(folder, Page(page))


def served(newcomer: Newcomer) -> subprocess.CompletedProcess[str]:
    """`ponder serve`, which is to end before there is a model."""
    command = [sys.executable, "-m", "ponder", "serve", "demo", "--port", "0"]
    return subprocess.run(
        command, cwd=newcomer.folder, env=newcomer.environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_dialect_of_another_package_is_spoken(tmp_path: Path) -> None:
    assert Newcomer(tmp_path, PAGE).python("-c", ASKS) == "200 It is 7.\nTrue\nquestion\n"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/chat/completions", "is served at /v1/chat/completions, which is Ponder's own: uninstall one, or"),
        ("/metrics", "is served at /metrics, which is a page of the server's: "),
        ("/v1/models/demo", "is served at /v1/models/demo, which is a page of the server's: "),
        ("/ask/{model", "is served at '/ask/{model', which is no path"),
        ("/ask/{model:word}", "is served at '/ask/{model:word}', which is no path"),
        ("/v1/chat/{name}", "is served at /v1/chat/{name}, which is Ponder's own"),
        ("ask", "is served at 'ask', which is no path"),
    ],
)
def test_a_dialect_in_the_way_is_refused_by_name_before_a_model_is_loaded(
    tmp_path: Path, path: str, words: str
) -> None:
    done = served(changed(tmp_path, f'path = "{OURS}', f'path = "{path}"'))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ponder: the dialect plain of the package my-dialects {words}")
    assert "loading" not in done.stderr


def test_two_dialects_on_one_path_are_both_named(tmp_path: Path) -> None:
    done = served(changed(tmp_path, ENTRY, ENTRY + ENTRY.replace("plain", "simple", 1)))
    assert done.returncode == 2
    assert "the dialect simple of the package my-dialects is served at /plain/ask, which is that of" in done.stderr
    assert "that of the dialect plain of the package my-dialects: uninstall one" in done.stderr


DOCTOR = """
import sys
from ponder.server.commands import doctor
sys.exit(doctor.tell(doctor.dialects(), sys.stdout))
"""


def diagnosed(newcomer: Newcomer) -> tuple[int, str]:
    """What `ponder doctor` says of dialects."""
    command = [sys.executable, "-c", DOCTOR]
    done = subprocess.run(
        command, cwd=newcomer.folder, env=newcomer.environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_the_doctor_says_which_dialects_there_are_and_which_the_server_would_not_start_with(tmp_path: Path) -> None:
    status, said = diagnosed(changed(tmp_path, ENTRY, ENTRY + ENTRY.replace("plain", "simple", 1)))
    assert status == 1
    assert "ok       the dialect plain of the package my-dialects is served at /plain/ask\n" in said
    assert "missing  the dialect simple of the package my-dialects is served at /plain/ask, which is that of" in said
    assert "pip uninstall my-dialects\n" in said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            ENTRY,
            ENTRY.replace("my_dialects.plain:", "my_dialects.gone:"),
            "cannot be used: ModuleNotFoundError: No mod",
        ),
        ('    key_hint = "`X-Key: <key>`"\n', "", "is no dialect: it has no key_hint."),
        ("Question.model_json_schema()", "Question.schema_of_mine()", "cannot be used: AttributeError: "),
    ],
)
def test_a_dialect_that_is_broken_is_named_by_the_server_and_by_the_doctor(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    newcomer = changed(tmp_path, old, new)
    done = served(newcomer)
    named = f"the dialect plain of the package my-dialects {words}"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"ponder: {named}")
    assert "Traceback" not in done.stderr
    assert "loading" not in done.stderr
    status, said = diagnosed(newcomer)
    assert status == 1
    assert said.startswith(f"missing  {named}")


def test_no_page_is_left_out_of_those_a_dialect_may_not_have() -> None:
    routes = [route.path for route in door(ScriptedEngine(always(CHAIN))).routes if isinstance(route, Route)]
    ours = {route.replace(":path", "") for route in set(routes) - {dialect.path for dialect in all_dialects()}}
    assert ours == set(PAGES)
