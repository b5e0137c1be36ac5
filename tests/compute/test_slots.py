"""A model's slots: never more than there are, none lost, the first call of a request soon, large requests too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.compute.slots import Share, Slots
from ponder.testing import in_virtual_time


class Model:
    """Counts who works on it."""

    def __init__(self, places: int) -> None:
        self.slots = Slots(places, 10.0)
        self.at_work = 0
        self.most = 0

    async def call(self, share: Share, seconds: float, used: float = 10.0, *, urgent: bool = False) -> None:
        slot = share.take(100.0) or await share.turn(100.0, urgent=urgent)
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.at_work -= 1
            share.give(slot, used)

    @property
    def idle(self) -> bool:
        fresh = Slots(self.slots.places, 10.0)
        state = self.slots.free, self.slots.kept, self.slots.waiting, self.slots.held
        return state == (fresh.free, fresh.kept, 0, 0) and not len(self.slots.queue)


@pytest.mark.parametrize("places", [1, 2, 7, 8, 16, 100])
def test_a_share_of_one_request_alone_has_all_but_what_is_kept(places: int) -> None:
    share = Slots(places, 10.0).share("ann")
    got = 0
    while share.take(10.0) is not None:
        got += 1
    assert got == places - (places // 16 or (1 if places >= 8 else 0))


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(1, 4), st.randoms(use_true_random=False))
def test_whatever_comes_and_hangs_up_no_slot_is_lost_or_given_twice(
    places: int, keys: int, chance: random.Random
) -> None:
    async def go() -> None:
        model = Model(places)
        tasks: list[asyncio.Task[None]] = []

        async def some(number: int) -> None:
            share = model.slots.share(str(number % keys), 1.0 + number % 3)
            await asyncio.sleep(chance.random() * 5)
            async with asyncio.TaskGroup() as group:
                for _ in range(chance.randint(1, 12)):
                    used = chance.choice([0.0, 1.0, 10.0, 90.0])
                    urgent = chance.random() < 0.1
                    group.create_task(model.call(share, chance.random(), used, urgent=urgent))

        for number in range(20):
            tasks.append(asyncio.create_task(some(number)))
        for task in tasks:
            if chance.random() < 0.4:
                await asyncio.sleep(chance.random())
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert model.most <= places
        assert model.idle

    in_virtual_time(go())


def test_the_first_call_of_a_request_waits_for_no_chain_to_end() -> None:
    async def go() -> None:
        model, clock = Model(32), asyncio.get_running_loop().time
        large = model.slots.share("ann")
        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(model.call(large, 100.0))
            await asyncio.sleep(1)
            assert model.at_work == 30
            began = clock()
            await model.call(model.slots.share("ann"), 1.0)
            await model.call(model.slots.share("bob"), 1.0)
            assert clock() - began == pytest.approx(2.0)
            second = model.slots.share("bob")
            await model.call(second, 1.0)
            waits = group.create_task(model.call(second, 1.0))
            await asyncio.sleep(2)
            assert not waits.done()

    in_virtual_time(go())


def test_a_flood_of_first_calls_leaves_large_requests_their_turns() -> None:
    """What is kept is for first calls; the rest goes by whose turn it is."""

    async def go() -> None:
        model = Model(16)
        large, done = model.slots.share("ann"), 0

        async def one() -> None:
            nonlocal done
            await model.call(large, 1.0)
            done += 1

        async def flood() -> None:
            async with asyncio.TaskGroup() as small:
                for _ in range(3000):
                    small.create_task(model.call(model.slots.share("bob"), 1.0))
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            flooding = group.create_task(flood())
            await asyncio.sleep(1)
            for _ in range(400):
                group.create_task(one())
            await asyncio.sleep(29)
            # Half of 15 slots, for 29 seconds.
            assert done > 150
            flooding.cancel()

    in_virtual_time(go())


def test_weights_hold_between_keys_with_calls_of_different_length() -> None:
    async def go() -> None:
        model = Model(30)
        had = {"ann": 0.0, "bob": 0.0}

        async def caller(name: str, weight: float, seconds: float) -> None:
            share = model.slots.share(name, weight)

            async def one() -> None:
                await model.call(share, seconds, used=seconds * 10)
                had[name] += seconds * 10

            async with asyncio.TaskGroup() as group:
                for _ in range(2000):
                    group.create_task(one())

        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(caller("ann", 1.0, 4.0)), group.create_task(caller("bob", 3.0, 1.0))]
            await asyncio.sleep(60)
            assert 2.4 < had["bob"] / had["ann"] < 3.6
            for one in callers:
                one.cancel()

    in_virtual_time(go())


def test_a_request_whose_time_is_up_goes_before_others_of_its_key() -> None:
    async def go() -> None:
        model, order = Model(1), list[str]()

        async def call(name: str, share: Share, urgent: bool = False) -> None:
            await model.call(share, 1.0, urgent=urgent)
            order.append(name)

        late = model.slots.share("ann")
        async with asyncio.TaskGroup() as group:
            group.create_task(call("first", late))
            await asyncio.sleep(0.1)
            group.create_task(call("new", model.slots.share("ann")))
            group.create_task(call("usual", late))
            group.create_task(call("urgent", late, urgent=True))
        assert order == ["first", "urgent", "new", "usual"]
        assert model.idle

    in_virtual_time(go())


def test_a_slot_that_is_lent_is_anothers_until_its_call_is_over() -> None:
    async def go() -> None:
        model = Model(1)
        slow, other = model.slots.share("ann"), model.slots.share("bob")
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(model.call(slow, 10.0))
            waiting = group.create_task(model.call(other, 1.0))
            await asyncio.sleep(1)
            assert not waiting.done()
            slow.lend()
            slow.lend()
            await asyncio.sleep(1.5)
            assert waiting.done()
            assert not reading.done()
        assert model.idle
        nothing = model.slots.share("cid")
        nothing.lend()
        assert model.idle

    in_virtual_time(go())


@pytest.mark.parametrize("when", ["waiting", "just given"])
def test_who_hangs_up_in_the_queue_leaves_its_slot_to_the_next(when: str) -> None:
    async def go() -> None:
        model = Model(1)
        ann, bob, cid = (model.slots.share(name) for name in ("ann", "bob", "cid"))
        first = ann.take(10.0)
        assert first is not None
        second = asyncio.create_task(model.call(bob, 1.0))
        third = asyncio.create_task(model.call(cid, 1.0))
        await asyncio.sleep(0)
        if when == "just given":
            ann.give(first, 10.0)
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        if when == "waiting":
            assert not third.done()
            ann.give(first, 10.0)
        await third
        assert model.idle

    in_virtual_time(go())


def test_the_wait_of_a_call_is_told_and_of_one_that_need_not_wait_nothing() -> None:
    async def go() -> None:
        model, waits = Model(1), list[float]()
        model.slots.on_wait = waits.append
        calls: list[Callable[[], Awaitable[None]]] = [lambda: model.call(model.slots.share("ann"), 2.0)] * 2
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call())  # pyright: ignore[reportArgumentType]
            await asyncio.sleep(1)
            assert model.slots.load == 1.0
        assert waits == [pytest.approx(2.0)]

    in_virtual_time(go())


def test_slots_that_grow_are_handed_out_and_fewer_are_waited_for() -> None:
    async def go() -> None:
        slots = Slots(2, 10.0)
        share = slots.share("ann")
        held = [slot for _ in range(2) if (slot := share.take(10)) is not None]
        waiting = [asyncio.create_task(share.turn(10)) for _ in range(3)]
        await asyncio.sleep(0)
        slots.resize(4)
        held += [await waiting[0], await waiting[1]]
        assert (slots.held, slots.waiting) == (4, 1)
        slots.resize(1)
        for slot in held[:3]:
            share.give(slot, 10)
            await asyncio.sleep(0)
            assert not waiting[2].done()
        share.give(held[3], 10)
        last = await waiting[2]
        assert (slots.held, slots.waiting, slots.free) == (1, 0, 0)
        share.give(last, 10)
        slots.resize(64)
        assert (slots.free, slots.kept, slots.held) == (60, 4, 0)
        slots.resize(2)
        assert (slots.free, slots.kept, slots.held) == (2, 0, 0)

    in_virtual_time(go())
