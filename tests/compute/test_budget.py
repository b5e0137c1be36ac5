"""The ledger's arithmetic, under random histories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.budget import Budget, Ledger
from ponder.compute.errors import Exhausted


def test_a_hold_gives_back_what_it_leaves() -> None:
    ledger = Ledger(Budget(100, 50))
    with ledger.hold("sample", thinking=60, answer=20) as hold:
        assert ledger.free == 20
        hold.spend(hidden=30)
        assert ledger.free == 20
    assert ledger.free == 70
    assert ledger.held == 0


def test_more_than_is_left_cannot_be_held() -> None:
    ledger = Ledger(Budget(100, 50))
    ledger.hold("sample", thinking=60, answer=20)
    with pytest.raises(Exhausted, match="asks for 30 tokens and 20 of 100"):
        ledger.hold("sample", thinking=20, answer=10)
    with pytest.raises(Exhausted, match="asks for 51 visible"):
        ledger.hold("answer", thinking=0, answer=51, bound=True)


def test_only_the_answer_is_visible_and_the_losers_are_hidden_whole() -> None:
    ledger = Ledger(Budget(100, 50))
    for thought, answer in ((10, 5), (20, 6)):
        with ledger.hold("sample", thinking=30, answer=10) as hold:
            hold.spend(hidden=thought, visible=answer)
    ledger.choose(1)
    assert (ledger.spent.hidden, ledger.spent.visible, ledger.spent.discarded) == (35, 6, 15)


def test_a_continued_chain_is_visible_with_what_it_inherited() -> None:
    ledger = Ledger(Budget(100, 50))
    with ledger.hold("extend", thinking=30, answer=10) as hold:
        hold.spend(hidden=10, visible=2)
    with ledger.hold("extend", thinking=0, answer=10, parent=0) as hold:
        hold.spend(visible=3)
    ledger.choose(1)
    assert (ledger.spent.hidden, ledger.spent.visible, ledger.spent.discarded) == (10, 5, 0)


def test_a_total_limit_leaves_the_answer_what_was_not_thought() -> None:
    ledger = Ledger(Budget(48, 1000, total=64))
    with ledger.hold("speak", thinking=48, answer=64, bound=True) as hold:
        hold.spend(hidden=20)
        assert ledger.allowance == 44


def test_choices_share_one_pot_of_thinking() -> None:
    assert [b.thinking for b in Budget(10, 5).split(3)] == [4, 3, 3]


@given(
    thinking=st.integers(0, 200),
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.booleans(), st.integers(0, 3)), max_size=30),
    pick=st.integers(0, 1000),
)
def test_whatever_is_held_and_spent_and_chosen_the_bound_holds(
    thinking: int, steps: list[tuple[int, int, bool, int]], pick: int
) -> None:
    ledger = Ledger(Budget(thinking, 40))
    for hidden, visible, bound, leave in steps:
        if ledger.holds and bound:
            bound = False
        try:
            if not bound:
                ledger.unbind()
            hold = ledger.hold("sample", thinking=hidden, answer=visible, bound=bound)
        except Exhausted:
            continue
        hold.spend(hidden=max(0, hidden - leave), visible=max(0, visible - leave))
        if leave:
            hold.close()
        assert ledger.generated == sum(h.tokens for h in ledger.holds)
    for hold in ledger.holds:
        hold.close()
    if ledger.holds:
        ledger.choose(pick % len(ledger.holds))
        assert ledger.spent.hidden <= thinking
        assert not ledger.overdrawn
    assert ledger.held == 0
