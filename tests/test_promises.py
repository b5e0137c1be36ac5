"""What every strategy keeps without knowing it, under every budget and every way of being cut short."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ponder.strategies import strategies
from ponder.testing.case import Setting
from ponder.testing.promises import Promise, promises
from ponder.verifiers import verifiers

STRATEGIES = strategies()
VERIFIERS = verifiers()


def setting(name: str, strategy: str, verifier: str | None = None, **parameters: Any) -> Setting:
    made = partial(STRATEGIES[strategy], **parameters)
    if verifier is None:
        return Setting(made, name=name, asks_reward_model=True)
    return Setting(made, VERIFIERS[verifier], name, asks_reward_model=verifier == "prm")


SETTINGS = [
    *(setting(name, name) for name in STRATEGIES),
    setting("majority_vote in rounds", "majority_vote", mode="rounds", first=2, n=9),
    setting("majority_vote, certain", "majority_vote", confidence=1, n=5),
    setting("best_of_n argmax", "best_of_n", select="argmax", n=5),
    setting("revision of three chains", "revision", chains=3, rounds=2),
    setting("beam_search ahead", "beam_search", lookahead=2, beams=6, width=3, step_tokens=9),
    setting("dvts of three", "dvts", beams=6, width=2, step_tokens=24),
    setting("particle_filter, always resampled", "particle_filter", threshold=1, step_tokens=24),
    setting("auto that prefers latency", "auto", prefer="latency", n=32, confidence=1),
    *(
        setting(f"{name} by {verifier}", name, verifier)
        for name in ("best_of_n", "beam_search")
        for verifier in ("judge", "consensus", "confidence", "agreement", "prm")
    ),
    setting("revision by judge", "revision", "judge", chains=2),
    setting("auto by prm", "auto", "prm"),
    replace(setting("auto by all evidence", "auto", evidence="all"), seed=None),
    setting("auto by votes", "auto", evidence="votes"),
    setting("particle_filter by confidence", "particle_filter", "confidence"),
]
"""A strategy as a request names it: with its defaults, with parameters, with a verifier."""


@pytest.mark.parametrize(
    "promise", [promise for one in SETTINGS for promise in promises(one)], ids=lambda p: f"{p.setting}: {p}"
)
def test_a_strategy_keeps(promise: Promise) -> None:
    promise.check()
