"""What servers and the replicas of a deployment tell each other, without a cluster."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from ponder.compute.errors import EngineError, Lost
from ponder.engines.ray.hosting import Progress
from ponder.engines.ray.meetings import Meeting, Told, Where
from ponder.engines.ray.readers import Readers
from ponder.engines.ray.scaling import OUTSIDE, RUNNING, SECONDS, WAITING, BacklogPolicy, Demand, wanted
from ponder.engines.replicas.connection import Access
from ponder.engines.reward_reader import Reading
from ponder.testing import in_virtual_time

A, B = Where("http://a:1", "key of a"), Where("http://b:1", "key of b")


def test_those_that_answer_are_the_members_and_each_has_its_key() -> None:
    async def meet(told: Told) -> Sequence[object]:
        assert told == Told("door", 3, 1.5)
        return [A, Lost("it has died"), B]

    meeting = Meeting("demo", meet, lambda: Told("door", 3, 1.5))
    assert asyncio.run(meeting.read()) == [A.url, B.url]
    key = meeting.access(B.url).key
    assert key is not None
    assert key.get_secret_value() == B.key
    assert meeting.access("http://c:1") == Access()


@pytest.mark.parametrize("answers", [[], [RuntimeError("no")], None])
def test_where_none_answers_nothing_changes(answers: Sequence[object] | None) -> None:
    async def meet(told: Told) -> Sequence[object]:
        if answers is None:
            raise RuntimeError("Serve says that there is none")
        return answers

    assert asyncio.run(Meeting("demo", meet, lambda: Told("door")).read()) is None


def test_a_key_is_in_no_log_and_is_told_to_other_processes() -> None:
    assert "key of a" not in repr(A)
    assert pickle.loads(pickle.dumps(A)) == A


def test_a_server_that_has_calls_and_makes_no_token_hangs() -> None:
    async def go() -> None:
        progress = Progress()
        for made in (5, 5, 6):
            progress.look(f"vllm:generation_tokens_total {made}", 2)
            await asyncio.sleep(100)
        progress.look("vllm:generation_tokens_total 6", 0)  # It has nothing to do,
        await asyncio.sleep(300)
        progress.look("vllm:generation_tokens_total 6", 0)
        progress.look("another:series 1", 2)  # and this one does not say.
        await asyncio.sleep(300)
        progress.look("another:series 1", 2)
        progress.look("vllm:generation_tokens_total 6", 2)
        await asyncio.sleep(121)
        with pytest.raises(EngineError, match="it has 2 calls, and no token for 120 s"):
            progress.look("vllm:generation_tokens_total 6", 2)

    in_virtual_time(go())


# -- how many replicas there should be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running", "waiting", "seconds", "replicas", "expected"),
    [
        (0, 0, 0.0, 1, 1),  # Nothing to do, and the last one stays.
        (8, 0, 5.0, 2, 2),  # Full, and nobody waits.
        (8, 8, 5.0, 2, 2),  # The last waits for 5 s, which is let be.
        (8, 24, 5.0, 2, 3),  # For 15 s.
        (8, 400, 5.0, 2, 4),  # For 250 s: twice as many, and looked at again.
        (8, 24, 60.0, 2, 4),  # As many calls, of a model that thinks for long.
        (8, 24, 0.1, 2, 2),  # As many, of a quick one.
        (8, 8, 0.0, 2, 2),  # Nobody knows yet how long one takes: one round of calls is let be,
        (8, 9, 0.0, 2, 3),  # and no more.
        (2, 0, 5.0, 4, 1),  # Few have anything to do.
        (3, 0, 5.0, 4, 2),  # One would be too full for what may come.
    ],
)
def test_replicas_follow_seconds_of_backlog(
    running: int, waiting: int, seconds: float, replicas: int, expected: int
) -> None:
    demand = Demand(running, waiting, seconds)
    assert wanted(demand, replicas, places=4, seconds=10.0) == expected


def test_calls_that_wait_at_the_servers_are_counted_once() -> None:
    """Each replica is told of all of them."""
    told = {RUNNING: {"a": 4.0, "b": 2.0}, WAITING: {"a": 1.0, "b": 0.0}, OUTSIDE: {"a": 9.0, "b": 8.0}}
    assert Demand.of(told | {SECONDS: {"a": 2.0, "b": 3.0}}) == Demand(6.0, 10.0, 3.0)
    assert Demand.of({}) is None


def test_replicas_that_are_being_started_count_as_there() -> None:
    busy = {RUNNING: {"a": 4.0}, WAITING: {"a": 0.0}, OUTSIDE: {"a": 32.0}, SECONDS: {"a": 5.0}}
    policy = BacklogPolicy(places=4, seconds=10.0)
    for told in (busy, {}):
        series = {
            name: {
                replica: [SimpleNamespace(value=99.0), SimpleNamespace(value=value)] for replica, value in by.items()
            }
            for name, by in told.items()
        }
        assert policy(SimpleNamespace(target_num_replicas=4, raw_metrics=series)) == (4, {})


# -- reward models -----------------------------------------------------------------------------------------------------


class Judge:
    """Reads, or has gone."""

    context = 512

    def __init__(self) -> None:
        self.gone, self.closed, self.reads = False, False, 0

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None, name: str = "check") -> Reading:
        await asyncio.sleep(0)
        if self.gone:
            raise EngineError("the reward model cannot be reached")
        self.reads += 1
        return Reading([[0.5]] * len(ids))

    async def close(self) -> None:
        self.closed = True


def test_a_reading_goes_to_another_replica_where_one_has_gone() -> None:
    async def go() -> None:
        judges, there = {A.url: Judge(), B.url: Judge()}, [A, B]

        async def meet(told: Told) -> Sequence[object]:
            return there

        async def reach(url: str, access: Access) -> Judge:
            return judges[url]

        readers = Readers("judge", meet, reach)
        async with readers.serving():
            while len(judges) > sum(one.reads > 0 for one in judges.values()):
                async with asyncio.TaskGroup() as group:
                    for _ in range(2):
                        group.create_task(readers.read([1, 2], [], None))
            assert readers.context == 512
            judges[A.url].gone = True
            for _ in range(3):
                assert len((await readers.read([1, 2, 3], [], None)).rows) == 3
            judges[B.url].gone = True
            with pytest.raises(EngineError, match="cannot be reached"):
                await readers.read([1], [], None)
        assert all(one.closed for one in judges.values())

    asyncio.run(go())
