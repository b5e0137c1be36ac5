"""The verifier of `docs/write-a-verifier.md`, installed as a package of its own, is listed, checked and asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pages import ROOT, Page
from tests.plugins import Newcomer

ASKING = """
import json
from ponder.testing import Chain
from tests.server.serving import ask, chat, door, scripted

app = door(scripted(Chain("think " * 20, "It is 7."), Chain("a", "It is 9.")))
wishes = {"strategy": {"name": "best_of_n", "n": 2, "select": "argmax"}, "thinking_budget": 2000}
print(json.dumps({
    "listed": ask(app, "GET", "/v1/strategies").json()["verifiers"],
    "answered": chat(app, verifier={"name": "brevity", "half": 10}, **wishes).json(),
    "refused": chat(app, verifier={"name": "brevity", "half": 0}, **wishes).json(),
}))
"""


def test_a_verifier_of_another_package_judges(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path, Page(ROOT / "docs" / "write-a-verifier.md"))
    told: dict[str, Any] = json.loads(newcomer.python("-c", ASKING, cwd=ROOT))
    listed = {entry["name"]: entry for entry in told["listed"]}
    assert "prm" in listed
    assert listed["brevity"]["description"] == "Likes short chains."
    assert "Tokens at which" in json.dumps(listed["brevity"])
    thinking = told["answered"]["thinking"]
    assert thinking["verifier"] == "brevity"
    assert "verifier_degraded" not in thinking
    assert told["answered"]["choices"][0]["message"]["content"] == "It is 9."
    tokens = len("a") + 1 + len("It is 9.")
    assert thinking["score"] == 10 / (10 + tokens)
    assert told["refused"]["error"]["param"] == "verifier.half"
