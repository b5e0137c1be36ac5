"""Many replicas as one engine: what was in flight on one that went away goes on on another, and each token is billed
once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from ponder.compute.budget import Budget
from ponder.compute.errors import DeadlinePassed, EngineError, Lost, RequestError, Unavailable
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.engines.replicas.pool import ReplicaPool
from ponder.strategies import STRATEGIES
from ponder.testing import Case, Setting, always, in_virtual_time
from ponder.testing.case import CHAINS
from tests.engines.replica_fakes import Cluster, other_model
from tests.engines.test_restarts import DOCUMENT, Asked, long_chains, plan

T = TypeVar("T")


def over(cluster: Cluster, work: Callable[[ReplicaPool], Awaitable[T]], **options: Any) -> T:
    """`work(pool)` over replicas, in virtual time."""

    async def go() -> T:
        async with cluster.pool(**options) as pool:
            return await work(pool)

    return in_virtual_time(go())


def asked(form: Plan, dies_at: tuple[int, ...] = (), size: int = 3) -> tuple[Asked, Any, Cluster]:
    cluster, one = Cluster.of(size, dies_at=dies_at), Asked(form)
    outcome = over(cluster, one.on)
    assert one.spending.held == 0
    assert one.spending.spent.hidden <= form.budget.thinking
    assert not one.spending.overdrawn
    assert cluster.produced == one.spending.generated + one.wasted
    assert one.spending.spent.wasted == one.wasted
    assert cluster.running == 0
    return one, one.seen(outcome), cluster


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_seeded_answer_does_not_depend_on_which_replicas_died(name: str) -> None:
    for form in (plan(name), plan(name, stream=True), plan(name, question="As JSON.", grammar=DOCUMENT)):
        _, undisturbed, whole = asked(form)
        moments = range(0, whole.produced * 9 // 10, max(1, whole.produced // 6))
        for at in moments:
            one, seen, cluster = asked(form, (at, at + 5, whole.produced // 2 + at))
            assert sum(replica.lives for replica in cluster.all) > len(cluster.all)
            assert one.resumed
            assert seen == undisturbed, at


def test_death_at_every_token_leaves_the_answer_as_it_was() -> None:
    for form in (plan("direct"), plan("direct", stream=True), plan("direct", budget=Budget(10, 7))):
        _, undisturbed, whole = asked(form)
        for at in range(whole.produced):
            one, seen, _ = asked(form, (at,), size=2)
            assert seen == undisturbed, at
            assert one.resumed == 1


class Pooled(ReplicaPool):
    """A pool that says as a scripted engine does what was made."""

    cluster: Cluster

    @property
    def produced(self) -> int:
        return self.cluster.produced

    @property
    def running(self) -> int:
        return self.cluster.running


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_promises_hold_over_replicas_that_die(name: str) -> None:
    """Budgets, counts, no thought in what comes out: whoever has written what."""

    async def go(thinking: int, dies_at: tuple[int, ...], allowed: float | None) -> None:
        cluster = Cluster.of(3, script=always(*CHAINS), dies_at=dies_at, seeded=False)
        pool: Any = Pooled("scripted", cluster.connect, cluster.members)
        pool.cluster = cluster
        async with pool.serving():
            case = Case(Setting(STRATEGIES[name], name=name), Budget(thinking, 40), pool, timeout=allowed)
            try:
                outcome = await case.run()
            except DeadlinePassed:
                assert allowed is not None
                outcome = None
            case.check(outcome)

    for thinking in (0, 34, 700):
        for dies_at in ((), (3,), (20, 25, 60)):
            in_virtual_time(go(thinking, dies_at, None))
    in_virtual_time(go(700, (10,), 0.6))


def now() -> float:
    return asyncio.get_running_loop().time()


async def several(pool: ReplicaPool, names: list[str], form: Plan | None = None) -> list[Outcome | BaseException]:
    asking = [Asked(form or plan("direct", question=f"{name}?"), name) for name in names]
    return await asyncio.gather(*(one.on(pool) for one in asking), return_exceptions=True)


def long_form(question: str = "Long?", **more: Any) -> Plan:
    return plan("direct", question=question, budget=Budget(4000, 60), **more)


async def busiest(cluster: Cluster) -> Any:
    while not any(one.running for one in cluster.all):  # noqa: ASYNC110 (of virtual time there is enough)
        await asyncio.sleep(0.01)
    return max(cluster.all, key=lambda one: one.running)


@pytest.mark.parametrize("way", ["killed", "stopped", "crashed"])
def test_a_chain_is_written_on_within_two_seconds(way: str) -> None:
    cluster = Cluster.of(2, script=long_chains)
    gaps: list[float] = []

    async def work(pool: ReplicaPool) -> str:
        one, last = Asked(long_form(stream=True)), now()
        going = asyncio.create_task(one.on(pool))
        await asyncio.sleep(1)
        struck = await busiest(cluster)
        if way == "killed":
            struck.kill()
        elif way == "stopped":
            struck.stop(600)
        else:
            struck.crashed = True
        made, last = cluster.produced, now()
        while not going.done():
            await asyncio.sleep(0.05)
            if cluster.produced != made:
                gaps.append(now() - last)
                made, last = cluster.produced, now()
        assert one.resumed == 1
        assert pool.state == "up"
        return (await going).answer.text

    assert over(cluster, work) == "Done."
    assert max(gaps) <= 2.0


def test_what_a_library_says_of_connections_that_were_closed_under_a_call_is_no_error_of_the_call() -> None:
    cluster = Cluster.of(2, script=long_chains)

    async def work(pool: ReplicaPool) -> None:
        going = asyncio.create_task(several(pool, [f"req{n}" for n in range(6)], long_form()))
        await asyncio.sleep(1)
        (await busiest(cluster)).deaf = True
        for outcome in await going:
            assert isinstance(outcome, Outcome), outcome
        assert sum(fact.falls for fact in pool.replicas) == 1

    over(cluster, work)


def test_a_replica_that_hangs_is_seen_by_its_silence_though_it_says_that_it_lives() -> None:
    cluster = Cluster.of(2, script=long_chains)

    async def work(pool: ReplicaPool) -> str:
        one = Asked(long_form())
        going = asyncio.create_task(one.on(pool))
        await asyncio.sleep(1)
        (await busiest(cluster)).hangs = True
        outcome = await going
        assert one.resumed == 1
        assert [fact.falls for fact in pool.replicas if fact.falls] == [1]
        return outcome.answer.text

    assert over(cluster, work, stall=20.0) == "Done."


def test_the_last_replica_is_not_given_up_at_its_first_silence() -> None:
    cluster = Cluster.of(1, script=long_chains)

    async def work(pool: ReplicaPool) -> None:
        one = Asked(long_form())
        going = asyncio.create_task(one.on(pool))
        await asyncio.sleep(1)
        cluster.all[0].stop(5)
        await asyncio.sleep(4)
        assert pool.state == "up"
        assert (await going).answer.text == "Done."
        assert one.resumed == 0

    over(cluster, work)


def test_a_stopped_server_does_not_take_its_own_pause_for_that_of_its_replicas() -> None:
    """Its clock jumps by an hour between two looks."""
    cluster = Cluster.of(2, script=long_chains)

    async def work(pool: ReplicaPool) -> None:
        going = asyncio.create_task(Asked(long_form()).on(pool))
        await asyncio.sleep(1)
        loop: Any = asyncio.get_running_loop()
        loop._jumping.now += 3600
        assert (await going).answer.text == "Done."
        assert not any(fact.falls for fact in pool.replicas)

    over(cluster, work)


def test_a_call_that_one_replica_fails_is_made_by_another() -> None:
    cluster = Cluster.of(3)
    for one in cluster.all[:2]:
        one.fails = lambda transcript: transcript.gained == 5

    async def work(pool: ReplicaPool) -> None:
        for outcome in await several(pool, [f"req{n}" for n in range(20)]):
            assert isinstance(outcome, Outcome)

    over(cluster, work)


def test_who_takes_no_call_for_a_while_is_given_none_and_has_not_failed() -> None:
    cluster = Cluster.of(2)
    cluster.all[0].too_busy = 4.0

    async def work(pool: ReplicaPool) -> None:
        for n in range(20):
            assert isinstance((await several(pool, [f"req{n}"]))[0], Outcome)
        cluster.all[1].too_busy = 1.0
        going = asyncio.create_task(several(pool, ["late"]))
        await asyncio.sleep(10)
        assert not going.done()
        cluster.all[1].too_busy = 0.0
        assert isinstance((await going)[0], Outcome)
        assert [fact.state for fact in pool.replicas] == ["up", "up"]

    over(cluster, work)
    assert cluster.all[0].calls < 12


def test_what_all_replicas_fail_fails() -> None:
    cluster = Cluster.of(5, fails=lambda transcript: transcript.call.request == "bad")

    async def work(pool: ReplicaPool) -> None:
        bad, good = Asked(plan("direct"), "bad"), Asked(plan("direct"), "good")
        with pytest.raises(EngineError) as failed:
            await bad.on(pool)
        assert not isinstance(failed.value, Lost)
        assert "500" in failed.value.message
        assert (await good.on(pool)).answer.text
        assert sum(fact.lost for fact in pool.replicas) == 3

    over(cluster, work)


def test_a_replica_that_fails_whatever_it_is_given_costs_ever_fewer_calls() -> None:
    cluster = Cluster.of(2)
    bad = cluster.all[0]
    bad.fails = lambda _: True

    async def work(pool: ReplicaPool) -> None:
        for n in range(200):
            await Asked(plan("direct", question=f"{n}?"), f"req{n}").on(pool)
        assert pool.replicas[0].state in ("away", "trial")

    over(cluster, work)
    assert bad.calls < 30


def test_where_all_are_away_requests_wait_for_the_first_that_comes_back() -> None:
    cluster = Cluster.of(2, takes=20.0)

    async def work(pool: ReplicaPool) -> None:
        going = asyncio.create_task(several(pool, ["a", "b", "c"]))
        await asyncio.sleep(0.1)
        for one in cluster.all:
            one.kill()
        await asyncio.sleep(5)
        assert pool.state == "restarting"
        assert 1 <= pool.wait <= 60
        with pytest.raises(Unavailable) as refused:
            await pool.check()
        assert refused.value.retry_after >= 1
        with pytest.raises(DeadlinePassed):
            await Asked(plan("direct", timeout=3.0), "impatient").on(pool)
        late = asyncio.create_task(several(pool, ["d", "e"]))
        for outcome in [*await going, *await late]:
            assert isinstance(outcome, Outcome)
        assert now() < 28
        assert pool.state == "up"
        assert pool.restarts == 1

    over(cluster, work)


def test_one_that_comes_back_is_used_again_and_one_that_keeps_going_away_is_asked_ever_later() -> None:
    cluster = Cluster.of(2, takes=3.0)
    flapping = cluster.all[0]

    async def work(pool: ReplicaPool) -> None:
        for n in range(12):
            flapping.kill()
            await asyncio.sleep(4)
            await several(pool, [f"{n} {i}" for i in range(8)])
        assert flapping.connected < 40
        asked, begun = flapping.asked, flapping.calls
        await asyncio.sleep(120)
        assert flapping.asked > asked
        await several(pool, [f"late {i}" for i in range(16)])
        assert flapping.calls > begun

    over(cluster, work)


# -- requests that end replicas ---------------------------------------------------------------------------------------


def test_a_request_that_kills_two_replicas_is_refused_and_the_others_are_answered() -> None:
    cluster = Cluster.of(4, poison=lambda transcript: transcript.call.request == "bad" and transcript.gained == 9)

    async def work(pool: ReplicaPool) -> list[Outcome | BaseException]:
        return await several(pool, ["good0", "good1", "bad", "good2", "good3", "good4"])

    outcomes = over(cluster, work)
    refused = outcomes.pop(2)
    assert isinstance(refused, RequestError)
    assert refused.code == "request_quarantined"
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert sum(one.lives - 1 for one in cluster.all) == 2


def test_who_was_in_flight_at_many_deaths_from_outside_is_not_to_blame() -> None:
    one, _, cluster = asked(plan("direct"), tuple(range(3, 33, 3)), size=2)
    assert one.resumed == 10
    assert cluster.running == 0


# -- which replica ----------------------------------------------------------------------------------------------------


def test_all_chains_of_a_request_are_at_one_replica_and_requests_at_all() -> None:
    cluster = Cluster.of(4)

    async def work(pool: ReplicaPool) -> None:
        for n in range(20):
            before = [one.calls for one in cluster.all]
            await Asked(plan("majority_vote", question=f"{n}?"), f"req{n}").on(pool)
            assert sum(one.calls != was for one, was in zip(cluster.all, before, strict=True)) == 1

    over(cluster, work)
    assert all(one.calls for one in cluster.all)


def test_what_is_more_than_a_replica_has_places_for_spills_to_the_next() -> None:
    cluster = Cluster.of(3, at_once=4)

    async def work(pool: ReplicaPool) -> None:
        slots = pool.slots
        assert slots is not None
        assert slots.places == 12

        async def one(n: int) -> None:
            form, asked = plan("majority_vote", seed=n), Asked(plan("majority_vote", seed=n), f"req{n}")
            resources = Resources(pool, Lengths(20, 40), writing=slots.share("ann"))
            await execute(form, resources, asked.spending, asked.on_delta)

        async with asyncio.TaskGroup() as group:
            for n in range(8):
                group.create_task(one(n))
        assert sum(fact.spilled for fact in pool.replicas) >= 4

    over(cluster, work, places=4)
    assert [one.most_running for one in cluster.all] == [4, 4, 4]


def test_a_replica_that_others_keep_busy_has_less_of_what_is_new() -> None:
    cluster = Cluster.of(2)
    cluster.all[0].others = 200

    async def work(pool: ReplicaPool) -> None:
        await asyncio.sleep(2)
        for n in range(200):
            await Asked(plan("direct", question=f"{n}?"), f"req{n}").on(pool)

    over(cluster, work)
    assert 5 < cluster.all[0].calls < 80


def test_a_replica_where_calls_wait_is_given_no_more() -> None:
    cluster = Cluster.of(2)
    cluster.all[0].waiting = 3

    async def work(pool: ReplicaPool) -> None:
        await asyncio.sleep(2)
        for n in range(50):
            await Asked(plan("direct", question=f"{n}?"), f"req{n}").on(pool)

    over(cluster, work)
    assert cluster.all[0].calls == 0


def test_without_metrics_what_is_in_flight_here_tells_the_load() -> None:
    cluster = Cluster.of(2, silent=True, script=long_chains)

    async def work(pool: ReplicaPool) -> None:
        outcomes = await several(pool, [f"req{n}" for n in range(12)], long_form())
        assert all(isinstance(outcome, Outcome) for outcome in outcomes)
        assert all(fact.running is None for fact in pool.replicas)

    over(cluster, work, places=8)
    assert min(one.most_running for one in cluster.all) >= 4, "all begin alike, and no replica has more than its share"


def test_a_slow_replica_has_less_of_what_is_new() -> None:
    cluster = Cluster.of(2)
    cluster.all[0].delay = 0.1

    async def work(pool: ReplicaPool) -> None:
        for n in range(40):
            await several(pool, [f"{n} {i}" for i in range(5)])

    over(cluster, work)
    assert cluster.all[0].calls < cluster.all[1].calls / 2


# -- who belongs to it ------------------------------------------------------------------------------------------------


def test_one_that_is_taken_out_ends_what_it_has_and_is_given_nothing_more() -> None:
    cluster = Cluster.of(2, script=long_chains)

    async def work(pool: ReplicaPool) -> None:
        assert pool.slots is not None
        both = pool.slots.places
        one = Asked(long_form())
        going = asyncio.create_task(one.on(pool))
        await asyncio.sleep(1)
        leaving = await busiest(cluster)
        cluster.members.urls = [url for url in cluster.members.urls if url != leaving.url]
        await asyncio.sleep(1)
        assert pool.slots.places == both // 2
        assert {fact.url: fact.state for fact in pool.replicas}[leaving.url] == "draining"
        calls = leaving.calls
        await several(pool, [f"req{n}" for n in range(8)])
        assert leaving.calls == calls
        assert (await going).answer.text == "Done."
        assert one.resumed == 0
        await asyncio.sleep(1)
        assert [fact.url for fact in pool.replicas] == cluster.members.urls

    over(cluster, work)


def test_one_that_is_put_in_is_proved_and_used() -> None:
    cluster = Cluster.of(3)
    whole = list(cluster.members.urls)
    cluster.members.urls = whole[:1]

    async def work(pool: ReplicaPool) -> None:
        assert pool.slots is not None
        before = pool.slots.places
        cluster.members.urls = whole
        await asyncio.sleep(2)
        assert pool.slots.places == 3 * before
        await several(pool, [f"req{n}" for n in range(30)])

    over(cluster, work)
    assert all(one.calls for one in cluster.all)


def test_one_that_is_taken_out_and_put_in_again_while_it_drains_stays() -> None:
    cluster = Cluster.of(2, script=long_chains)
    whole = list(cluster.members.urls)

    async def work(pool: ReplicaPool) -> None:
        going = asyncio.create_task(several(pool, [f"req{n}" for n in range(16)], long_form()))
        for _ in range(3):
            await asyncio.sleep(0.8)
            cluster.members.urls = whole[1:]
            await asyncio.sleep(0.8)
            cluster.members.urls = whole
        outcomes = await going
        assert all(isinstance(outcome, Outcome) for outcome in outcomes)
        assert [fact.state for fact in pool.replicas] == ["up", "up"]

    over(cluster, work)


def test_one_that_is_put_in_again_while_it_is_being_closed_is_reached_anew() -> None:
    cluster = Cluster.of(2, closes=2.0)
    whole = list(cluster.members.urls)

    async def work(pool: ReplicaPool) -> None:
        cluster.members.urls = whole[1:]
        await asyncio.sleep(1)
        cluster.members.urls = whole
        await asyncio.sleep(3)
        outcomes = await several(pool, [f"req{n}" for n in range(16)])
        assert all(isinstance(outcome, Outcome) for outcome in outcomes)
        assert {fact.url: fact.state for fact in pool.replicas} == dict.fromkeys(whole, "up")
        cluster.all[0].kill()
        await asyncio.sleep(2)
        assert {fact.url: fact.state for fact in pool.replicas}[whole[0]] == "away"

    over(cluster, work)


def test_one_that_is_away_is_not_used_because_it_was_taken_out_and_put_in_again() -> None:
    cluster = Cluster.of(2, closes=0.01)
    whole = list(cluster.members.urls)

    async def work(pool: ReplicaPool) -> None:
        cluster.all[0].stop(10.0)
        await asyncio.sleep(5)
        assert {fact.url: fact.state for fact in pool.replicas}[whole[0]] == "away"
        cluster.members.urls = whole[1:]
        await asyncio.sleep(1)
        cluster.members.urls = whole
        await asyncio.sleep(1)
        outcomes = await several(pool, [f"req{n}" for n in range(16)])
        assert all(isinstance(outcome, Outcome) for outcome in outcomes)
        assert {fact.url: fact.state for fact in pool.replicas}[whole[0]] == "joining"
        await asyncio.sleep(10)
        assert {fact.url: fact.state for fact in pool.replicas} == dict.fromkeys(whole, "up")

    over(cluster, work)


def test_one_that_is_taken_out_while_it_is_reached_is_closed() -> None:
    cluster = Cluster.of(2)
    whole = list(cluster.members.urls)
    cluster.members.urls = whole[:1]

    async def work(pool: ReplicaPool) -> None:
        cluster.all[1].stop(2.0)
        cluster.members.urls = whole
        await asyncio.sleep(1)
        cluster.members.urls = whole[:1]
        await asyncio.sleep(3)
        assert (cluster.all[1].connected, cluster.all[1].closings) == (1, 1)

    over(cluster, work)


def test_another_model_is_refused_by_name() -> None:
    cluster = Cluster.of(1)
    cluster.replicas["http://z:1"] = other_model("http://z:1")

    async def work(pool: ReplicaPool) -> None:
        cluster.members.urls = [*cluster.members.urls, "http://z:1"]
        await asyncio.sleep(3)
        found = {fact.url: fact for fact in pool.replicas}["http://z:1"]
        assert found.state == "joining"
        assert "another for scripted" in found.why
        await several(pool, [f"req{n}" for n in range(8)])

    over(cluster, work)
    assert cluster.replicas["http://z:1"].calls == 0


def test_one_that_comes_back_with_another_model_is_refused() -> None:
    cluster = Cluster.of(2)

    async def work(pool: ReplicaPool) -> None:
        changed = cluster.all[0]
        changed.kill()
        changed.card = replace(changed.card, name="another")
        await asyncio.sleep(10)
        assert pool.replicas[0].state == "away"
        assert "another model" in pool.replicas[0].why
        changed.card = cluster.all[1].card
        await asyncio.sleep(10)
        assert pool.replicas[0].state == "up"

    over(cluster, work)


def test_a_server_none_of_whose_replicas_can_be_used_says_why() -> None:
    class Refuses(Cluster):
        async def connect(self, url: str) -> Any:
            raise EngineError("it serves vLLM 0.1, and 0.9 is wanted")

    cluster = Refuses(*vars(Cluster.of(2)).values())
    with pytest.raises(EngineError, match="none of its replicas can be used") as failed:
        over(cluster, lambda pool: asyncio.sleep(0))
    assert "http://b:1: it serves vLLM 0.1" in failed.value.message


def test_a_server_waits_for_the_first_of_its_replicas() -> None:
    cluster = Cluster.of(2, takes=40.0)

    async def go() -> float:
        for one in cluster.all:
            one.kill()
        async with cluster.pool() as pool:
            await several(pool, ["a"])
        return now()

    assert 40 <= in_virtual_time(go()) < 50


def test_requests_come_and_go_while_replicas_die_join_and_leave() -> None:
    cluster = Cluster.of(4)
    whole = list(cluster.members.urls)

    async def work(pool: ReplicaPool) -> None:
        going = [asyncio.create_task(several(pool, ["first"]))]
        for n in range(25):
            going.append(asyncio.create_task(several(pool, [f"{n} {i}" for i in range(4)], plan("majority_vote"))))
            struck = cluster.all[n % 4]
            if n % 3 == 0 and not struck.dead:
                struck.kill()
            if n % 7 == 0:
                struck.stop(5)
            cluster.members.urls = [url for i, url in enumerate(whole) if (n // 5) % 4 != i]
            await asyncio.sleep(0.7)
        for task in going:
            for outcome in await task:
                assert isinstance(outcome, Outcome), outcome
        assert cluster.running == 0
        assert not any(fact.in_flight for fact in pool.replicas)

    over(cluster, work)
