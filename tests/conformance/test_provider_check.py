"""TrustedRouter's check of providers finds nothing: models, completions, streams (its tiers 1 to 4), and tools and
structured answers (5)."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

from tests.conformance.environments import environment
from tests.conformance.served import served

NOT_DECLARED = "catalog.declared-v2"
"""Is about a file that a provider writes by hand; nobody has one for a server of one's own."""


def test_every_check_of_tiers_1_to_4_passes(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    check = environment("provider-check") / "bin" / "trustedrouter-provider-check"
    with served("demo") as url:
        words = [str(check), "--base-url", f"{url}/v1", "--model", "demo", "--tier", "5", "--json", str(report)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    found = json.loads(report.read_text())["checks"]
    gate = [one for one in found if one["tier"] <= 4]
    assert Counter(one["status"] for one in gate) == {"pass": 17, "skip": 1}, done.stdout
    assert [one["id"] for one in gate if one["status"] == "skip"] == [NOT_DECLARED]
    assert not [one for one in found if one["status"] == "fail"], done.stdout
