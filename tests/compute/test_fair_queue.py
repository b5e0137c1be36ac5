"""Keys have their weights' share of the turns and none starves; within a key whoever has had the least is next."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.fair_queue import ELDEST, FairQueue, Least, Member

WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])
COSTS = st.sampled_from([1.0, 8.0, 64.0, 512.0])


class Request(Member):
    """A member that always wants another turn."""

    had = 0.0
    turns = 0


def a_turn(queue: FairQueue[Request], cost: float) -> Request:
    """Gives the next turn, which is over at once, and lets its member wait for another."""
    member = queue.next()
    assert member is not None
    queue.charge(member, cost)
    queue.settle(member, cost, cost)
    member.had += cost
    member.turns += 1
    queue.enter(member, member.had, small=False)
    return member


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 5))), max_size=60))
def test_the_least_is_first_whatever_was_changed(changes: list[tuple[int, int | None]]) -> None:
    least: Least[int] = Least()
    ranks: dict[int, int] = {}
    came: dict[int, int] = {}
    for number, (thing, rank) in enumerate(changes):
        if rank is None:
            least.drop(thing)
            ranks.pop(thing, None)
            came.pop(thing, None)
        else:
            least.put(thing, rank)
            ranks[thing] = rank
            came.setdefault(thing, number)
        assert least.first == min(ranks, key=lambda one: (ranks[one], came[one]), default=None)
        assert len(least) == len(ranks)


@given(st.lists(st.tuples(WEIGHTS, COSTS), min_size=2, max_size=6))
def test_keys_that_always_wait_have_what_their_weights_say(keys: list[tuple[float, float]]) -> None:
    """What two of them have had, each over its weight, differs by no more than one turn of each."""
    queue: FairQueue[Request] = FairQueue(1.0)
    members = [Request(queue.line(str(i), weight)) for i, (weight, _) in enumerate(keys)]
    costs = {member: cost for member, (_, cost) in zip(members, keys, strict=True)}
    for member in members:
        queue.enter(member, 0.0, small=False)
    for _ in range(300):
        nxt = queue.next()
        assert nxt is not None
        a_turn(queue, costs[nxt])
        for one, other in pairwise(members):
            apart = abs(one.had / one.line.weight - other.had / other.line.weight)
            assert apart <= costs[one] / one.line.weight + costs[other] / other.line.weight + 1e-6


@given(
    st.lists(st.tuples(WEIGHTS, st.lists(COSTS, min_size=1, max_size=4)), min_size=2, max_size=6),
    st.randoms(use_true_random=False),
)
def test_no_key_starves_whatever_is_charged_and_settled(
    keys: list[tuple[float, list[float]]], chance: random.Random
) -> None:
    """Turns overlap, and cost other than was charged. What the others have while one waits is bounded by their weights
    beside its own, and by what its own turns may cost."""
    open_at_once, dearest = 5, 512.0
    queue: FairQueue[Request] = FairQueue(64.0)
    members = [Request(queue.line(str(i), weight)) for i, (weight, _) in enumerate(keys)]
    waited: dict[Request, float] = dict.fromkeys(members, 0.0)
    running: list[tuple[Request, float, float]] = []
    for member in members:
        queue.enter(member, 0.0, small=False)
    for step in range(300):
        member = queue.next()
        assert member is not None
        charged, costs = member.line.mean, keys[members.index(member)][1]
        queue.charge(member, charged)
        running.append((member, charged, costs[step % len(costs)]))
        waited[member] = 0
        for other in members:
            if other is not member:
                waited[other] += charged
                weights = sum(one.line.weight for one in members if one is not other)
                ahead = (2 + open_at_once) * dearest / other.line.weight
                assert waited[other] <= weights * ahead + len(keys) * open_at_once * dearest
        queue.enter(member, member.had, small=False)
        while len(running) > open_at_once or (running and chance.random() < 0.5):
            ended, was_charged, cost = running.pop(0)
            queue.settle(ended, was_charged, cost)
            ended.had += cost
            queue.enter(ended, ended.had, small=False)


@given(st.integers(1, 40))
def test_a_key_that_had_nothing_to_do_saves_nothing_up(before: int) -> None:
    """And one that had all while it was alone owes nothing for it."""
    queue: FairQueue[Request] = FairQueue(8.0)
    alone, later = Request(queue.line("alone", 1.0)), Request(queue.line("later", 1.0))
    queue.enter(alone, 0.0, small=False)
    for _ in range(before):
        a_turn(queue, 8.0)
    queue.enter(later, 0.0, small=False)
    turns = [a_turn(queue, 8.0) for _ in range(20)]
    assert 9 <= turns.count(later) <= 11
    assert later in turns[:2]
    assert alone in turns[:3]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_of_a_key_whoever_has_had_the_least_is_next_but_one_turn_in_eight_is_the_eldests(had: list[int]) -> None:
    queue: FairQueue[Request] = FairQueue(1.0)
    line = queue.line("one", 1.0)
    members = [Request(line) for _ in had]
    for member, tokens in zip(members, had, strict=True):
        member.had = 100.0 * tokens
        queue.enter(member, member.had, small=False)
    waiting = list(members)
    for number in range(40):
        least = min(waiting, key=lambda member: (member.had, members.index(member)))
        member = queue.next()
        assert member is not None
        if number % ELDEST == ELDEST - 1:
            assert member is waiting[0]
        else:
            assert member.had == least.had
        a_turn(queue, 10.0)
        waiting.remove(member)
        waiting.append(member)


def test_a_large_request_does_not_stand_still_beside_ever_new_small_ones() -> None:
    queue: FairQueue[Request] = FairQueue(1.0)
    line = queue.line("one", 1.0)
    large = Request(line)
    queue.enter(large, 1e9, small=False)
    turns = 0
    for _ in range(80):
        new = Request(line)
        queue.enter(new, 0.0, small=True)
        member = queue.next()
        assert member is not None
        queue.charge(member, 1.0)
        queue.settle(member, 1.0, 1.0)
        turns += member is large
        if member is not large:
            queue.leave(member)
    assert abs(turns - 80 // ELDEST) <= 1
