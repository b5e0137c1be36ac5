"""For authors of strategies, verifiers, engines, profiles and dialects: scripted models, a virtual clock, and the
promises as checks.

    from ponder.testing import Chain, ScriptedEngine, always, check_strategy

    def test_mine() -> None:
        check_strategy(MyStrategy)

Counts are tokens of the scripted model, times are seconds of the loop's clock. The checks raise `AssertionError` with a
sentence that says which promise was broken, where and by how much. Nothing here needs pytest. The server's libraries
must be installed (`pip install 'ponder-server[server]'`), vLLM need not be.
"""

from __future__ import annotations

from ponder import under_one_name
from ponder.testing.callers import Billed, Caller, Wish
from ponder.testing.case import Case, Setting
from ponder.testing.dialect_promises import check_dialect
from ponder.testing.echo import EchoEngine
from ponder.testing.engine_promises import check_engine
from ponder.testing.profile_promises import check_profile
from ponder.testing.promises import (
    Promise,
    check_strategy,
    check_verifier,
    strategy_promises,
    verifier_promises,
)
from ponder.testing.scripted import (
    CARD,
    MARKER,
    Chain,
    JudgingEngine,
    Script,
    ScriptedEngine,
    ScriptedRewards,
    always,
    question,
)
from ponder.testing.smallest import smallest
from ponder.testing.virtual_time import VirtualTimeLoop, in_virtual_time

under_one_name(__name__)

__all__ = [
    "CARD",
    "MARKER",
    "Billed",
    "Caller",
    "Case",
    "Chain",
    "EchoEngine",
    "JudgingEngine",
    "Promise",
    "Script",
    "ScriptedEngine",
    "ScriptedRewards",
    "Setting",
    "VirtualTimeLoop",
    "Wish",
    "always",
    "check_dialect",
    "check_engine",
    "check_profile",
    "check_strategy",
    "check_verifier",
    "in_virtual_time",
    "question",
    "smallest",
    "strategy_promises",
    "verifier_promises",
]
