"""The ledger's arithmetic, under random histories."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.budget import Budget, Spending
from ponder.compute.cost import CostLimit
from ponder.compute.errors import Exhausted, Unaffordable


def test_a_hold_gives_back_what_it_leaves() -> None:
    spending = Spending(Budget(100, 50))
    with spending.reserve("sample", thinking=60, answer=20) as reservation:
        assert spending.free == 20
        reservation.spend(hidden=30)
        assert spending.free == 20
    assert spending.free == 70
    assert spending.held == 0


def test_more_than_is_left_cannot_be_held() -> None:
    spending = Spending(Budget(100, 50))
    spending.reserve("sample", thinking=60, answer=20)
    with pytest.raises(Exhausted, match="asks for 30 tokens and 20 of 100"):
        spending.reserve("sample", thinking=20, answer=10)
    with pytest.raises(Exhausted, match="asks for 51 visible"):
        spending.reserve("answer", thinking=0, answer=51, bound=True)


def test_only_the_answer_is_visible_and_the_losers_are_hidden_whole() -> None:
    spending = Spending(Budget(100, 50))
    for thought, answer in ((10, 5), (20, 6)):
        with spending.reserve("sample", thinking=30, answer=10) as reservation:
            reservation.spend(hidden=thought, visible=answer)
    spending.choose(1)
    assert (spending.spent.hidden, spending.spent.visible, spending.spent.discarded) == (35, 6, 15)


def test_a_continued_chain_is_visible_with_what_it_inherited() -> None:
    spending = Spending(Budget(100, 50))
    with spending.reserve("extend", thinking=30, answer=10) as reservation:
        reservation.spend(hidden=10, visible=2)
    with spending.reserve("extend", thinking=0, answer=10, parent=0) as reservation:
        reservation.spend(visible=3)
    spending.choose(1)
    assert (spending.spent.hidden, spending.spent.visible, spending.spent.discarded) == (10, 5, 0)


def test_a_total_limit_leaves_the_answer_what_was_not_thought() -> None:
    spending = Spending(Budget(48, 1000, total=64))
    with spending.reserve("stream", thinking=48, answer=64, bound=True) as reservation:
        reservation.spend(hidden=20)
        assert spending.allowance == 44


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
    spending = Spending(Budget(thinking, 40))
    for hidden, visible, bound, leave in steps:
        if spending.reservations and bound:
            bound = False
        try:
            if not bound:
                spending.unbind()
            reservation = spending.reserve("sample", thinking=hidden, answer=visible, bound=bound)
        except Exhausted:
            continue
        reservation.spend(hidden=max(0, hidden - leave), visible=max(0, visible - leave))
        if leave:
            reservation.close()
        assert spending.generated == sum(h.tokens for h in spending.reservations)
    for reservation in spending.reservations:
        reservation.close()
    if spending.reservations:
        spending.choose(pick % len(spending.reservations))
        assert spending.spent.hidden <= thinking
        assert not spending.overdrawn
    assert spending.held == 0


# -- money ------------------------------------------------------------------------------------------------------------


def test_what_may_be_hidden_or_visible_is_held_at_the_dearer_price_until_it_is_known() -> None:
    spending = Spending(Budget(1000, 50, cost=CostLimit(hidden=2, visible=5, verifier=1, amount=500)))
    assert (spending.free, spending.free_thought) == (100, 250)
    with spending.reserve("sample", thinking=60, answer=20) as reservation:
        assert spending.free == 20
        reservation.spend(hidden=40, visible=10)
    # 40 thoughts at 2, and 10 of an answer that may lose or be given.
    assert spending.free == (500 - 80 - 50) // 5
    with pytest.raises(Exhausted, match="asks for 75 tokens and 74 of 1000"):
        spending.reserve("sample", thinking=75, answer=0)
    spending.choose(0)
    # Chosen, its answer is paid out of its own money.
    assert spending.free == (500 - 80) // 5
    assert spending.cost == 40 * 2 + 10 * 5


def test_an_answer_that_is_certain_takes_nothing_from_the_thoughts() -> None:
    spending = Spending(Budget(1000, 50, cost=CostLimit(hidden=2, visible=5, verifier=1, amount=500)))
    with spending.reserve("stream", thinking=250, answer=50, bound=True) as reservation:
        assert spending.free_thought == 0
        reservation.spend(hidden=100, visible=50)
    assert spending.free_thought == 150
    assert spending.contested == (500 - 200 - 250) // 5
    assert not spending.overdrawn


async def read(spending: Spending, tokens: int) -> None:
    async with spending.reading(tokens):
        spending.read_for_verifier(tokens, 0)


def test_what_a_reward_model_reads_is_held_before_it_is_read() -> None:
    limit = CostLimit(hidden=2, visible=2, verifier=1, amount=500, judging=100)
    spending = Spending(Budget(1000, 50, cost=limit))
    assert spending.free == 200

    async def held() -> None:
        async with spending.reading(300):
            assert (spending.free, spending.held) == (100, 300)
            spending.read_for_verifier(300, 0)

    asyncio.run(held())
    assert (spending.free, spending.held) == (100, 0)
    spending.reserve("sample", thinking=90, answer=10)
    with pytest.raises(Unaffordable, match="takes 1 tokens and the cost limit pays for 0"):
        asyncio.run(read(spending, 1))
    # How much was read before that may depend on which was quicker: no chain is to live on it.
    assert spending.free == 0
    assert spending.dear


def test_what_is_kept_for_behind_the_answer_hides_no_lack_of_money() -> None:
    spending = Spending(Budget(12, 50, cost=CostLimit(hidden=2, visible=2, verifier=0, amount=10)))
    assert (spending.free, spending.dear) == (5, True)
    spending.kept = 12
    assert (spending.free, spending.dear) == (0, True)


@given(
    st.builds(CostLimit, *[st.integers(0, 9)] * 3, st.integers(0, 2000), judging=st.just(0)),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.sampled_from("rbv"), st.integers(0, 3)), max_size=30),
    st.integers(0, 1000),
)
def test_whatever_is_held_and_spent_and_chosen_the_cost_is_within_its_limit(
    cost: CostLimit, steps: list[tuple[int, int, str, int]], pick: int
) -> None:
    spending = Spending(Budget(500, 40, cost=cost))
    for hidden, visible, kind, leave in steps:
        try:
            if kind == "v":
                asyncio.run(read(spending, hidden))
                continue
            bound = kind == "b" and not spending.reservations
            if not bound:
                spending.unbind()
            reservation = spending.reserve("sample", thinking=hidden, answer=visible, bound=bound)
        except Exhausted:
            continue
        # One that may lose may write all of it as its answer.
        if bound or pick % 2:
            reservation.spend(hidden=max(0, hidden - leave), visible=max(0, visible - leave))
        else:
            reservation.spend(visible=min(40, hidden + visible))
        if leave:
            reservation.close(forfeit=leave == 2)
    for reservation in spending.reservations:
        reservation.close()
    if spending.reservations:
        spending.choose(pick % len(spending.reservations))
    assert spending.cost <= cost.amount + 40 * cost.visible
    assert not spending.overdrawn
    assert spending.held == 0
