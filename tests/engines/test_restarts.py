"""An engine that dies is started again, and what was in flight goes on: the same answers, no token billed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Checked, Delta, Engine, Grammar, Reward, RewardModel, Sampling, State
from ponder.compute.errors import DeadlinePassed, Lost, RequestError, Unavailable
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.slots import Slots
from ponder.compute.stop import StopSignal
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.quarantine import Quarantine
from ponder.engines.supervised import TRIES, SupervisedEngine, SupervisedRewardModel
from ponder.engines.supervisor import Death
from ponder.strategies import STRATEGIES
from ponder.testing import Chain, ScriptedRewards, in_virtual_time, question
from ponder.verifiers import VERIFIERS
from tests.engines.mortal import ABORTED, KILLED, Mortal, MortalProcess, drawn, supervised

T = TypeVar("T")
BUDGET = Budget(700, 60)
DOCUMENT = Grammar()
PROMPT = Prompt((Message("user", "?"),))


def plan(name: str, *, seed: int | None = 5, question: str = "What is it?", **more: Any) -> Plan:
    sampling = Sampling(0, 0, seed=seed, grammar=more.pop("grammar", None))
    return Plan(
        Prompt((Message("user", question),)),
        Selection(name, STRATEGIES[name]()),
        more.pop("budget", BUDGET),
        sampling,
        Selection("prm", VERIFIERS["prm"]()),
        Selection("agreement", VERIFIERS["agreement"]()),
        stream=more.pop("stream", False),
        **more,
    )


def by_characters(line: str) -> float:
    return sum(map(ord, line)) % 100 / 100


@dataclass
class BreaksOff(ScriptedRewards):
    """Breaks off judgements, by the number of the call, though it lives."""

    judge: Callable[[str], float] = by_characters
    at: tuple[int, ...] = ()

    async def reward(self, *args: Any, **more: Any) -> Sequence[Reward]:
        if self.calls in self.at:
            self.calls += 1
            raise Lost("a judgement was broken off")
        return await super().reward(*args, **more)


class Asked:
    """One request on an engine that dies, and what came of it."""

    def __init__(self, plan: Plan, request: str = "req_1") -> None:
        self.plan = plan
        self.spending = Spending(plan.budget, request)
        self.told: list[str] = []

    async def on_delta(self, delta: Delta) -> None:
        self.told.append(delta.text)

    async def on(self, engine: Engine, rewards: RewardModel | None = None) -> Outcome:
        resources = Resources(engine, Lengths(20, 40), rewards or ScriptedRewards(by_characters))
        outcome = await execute(self.plan, resources, self.spending, self.on_delta)
        if self.plan.stream:
            assert "".join(self.told) == outcome.answer.text
        return outcome

    @property
    def wasted(self) -> int:
        return sum(one.wasted for one in self.spending.reservations)

    @property
    def resumed(self) -> int:
        return sum(one.resumed for one in self.spending.reservations)

    def seen(self, outcome: Outcome) -> Any:
        """All that must not depend on whether an engine died. How often what was read is another matter, and so is how
        far chains had come that were stopped because the others had settled it."""
        spent = replace(outcome.spent, prompt_read=0, cached=0, wasted=0, unseen_calls=0)
        chains = [(one.tokens, one.visible, one.ending) for one in self.spending.reservations]
        if self.plan.strategy.name == "auto":
            spent, chains = replace(spent, hidden=0, discarded=0), chains[: outcome.samples]
        return outcome.answer, spent, outcome.samples, outcome.stopped_by, outcome.score, chains


def on(engine: Mortal, work: Callable[[SupervisedEngine], Awaitable[T]], **more: Any) -> T:
    """`work(engine)` on a supervised engine, in virtual time."""

    async def go() -> T:
        async with supervised(engine, **more) as one:
            return await work(one)

    return in_virtual_time(go())


async def state(engine: SupervisedEngine, wanted: State) -> None:
    while engine.supervision.state != wanted:  # noqa: ASYNC110 (of virtual time there is enough)
        await asyncio.sleep(0.01)


def asked(plan: Plan, dies_at: tuple[int, ...] = (), breaks_at: tuple[int, ...] = ()) -> tuple[Asked, Any, Mortal]:
    engine, one = Mortal(dies_at=dies_at, breaks_at=breaks_at), Asked(plan)
    outcome = on(engine, one.on)
    assert one.spending.held == 0
    assert one.spending.spent.hidden <= plan.budget.thinking
    assert not one.spending.overdrawn
    assert engine.produced == one.spending.generated + one.wasted
    assert one.spending.spent.wasted == one.wasted
    assert engine.running == 0
    return one, one.seen(outcome), engine


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_seeded_answer_does_not_depend_on_whether_the_engine_died(name: str) -> None:
    for form in (plan(name), plan(name, stream=True), plan(name, question="As JSON.", grammar=DOCUMENT)):
        _, undisturbed, whole = asked(form)
        # Not with its last tokens: chains that `auto` is about to stop would have been all that was lost.
        moments = range(0, whole.produced * 9 // 10, max(1, whole.produced // 6))
        for at in moments:
            one, seen, engine = asked(form, (at, at + 5, whole.produced // 2 + at))
            assert engine.process.lives > 1
            assert one.resumed
            assert seen == undisturbed, at


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_seeded_answer_does_not_depend_on_whether_a_living_engine_broke_off_a_chain(name: str) -> None:
    """It is gone on with there, as it is where the engine died."""
    for form in (plan(name), plan(name, stream=True), plan(name, budget=Budget(100, 60))):
        _, undisturbed, whole = asked(form)
        for at in range(0, whole.produced * 9 // 10, max(1, whole.produced // 4)):
            one, seen, engine = asked(form, breaks_at=(at, at, at + 5))
            assert (engine.process.lives, engine.breaks_at) == (1, [])
            assert one.resumed == 3
            assert seen == undisturbed, at


@pytest.mark.parametrize("grammar", [None, DOCUMENT])
def test_a_chain_that_a_living_engine_breaks_off_again_and_again_is_given_up(grammar: Grammar | None) -> None:
    """Also where its answer is begun anew each time, and its tokens do not get fewer."""
    form = plan("direct", question="As JSON.", grammar=grammar)
    _, _, whole = asked(form)
    engine, one = Mortal(), Asked(form)

    async def break_off(transcript: Transcript) -> None:
        await asyncio.sleep(0.01)
        if transcript.visible == 4:
            raise Lost("a chain was broken off")
        engine.process.progress += 1

    engine.make = break_off
    with pytest.raises(Lost, match="again and again"):
        on(engine, one.on)
    assert one.resumed == TRIES
    assert engine.produced == one.spending.generated + one.wasted
    assert engine.produced <= TRIES * whole.produced


def test_a_judgement_that_a_living_model_breaks_off_is_asked_for_again_and_given_up_the_second_time_in_a_row() -> None:
    def judged(*at: int) -> tuple[Any, Outcome, int]:
        rewards, one = BreaksOff(at=at), Asked(plan("best_of_n"))
        outcome = on(Mortal(), lambda engine: one.on(engine, SupervisedRewardModel(rewards, engine.supervision)))
        assert one.spending.verifier == rewards.read
        return one.seen(outcome), outcome, rewards.calls

    undisturbed, _, calls = judged()
    assert judged(0)[::2] == (undisturbed, calls + 1)
    _, outcome, _ = judged(0, 1)
    assert outcome.degraded


def test_an_answer_without_a_chain_that_was_lost_does_not_say_that_it_has_ended_for_its_budget() -> None:
    """With it, the budget would have bought another."""
    form = plan("majority_vote", budget=Budget(100, 60))
    (_, undisturbed, _) = asked(form)
    engine, one = Mortal(breaks_at=(20, 20, 20)), Asked(form)
    outcome = on(engine, one.on)
    assert undisturbed[3] == "budget"
    assert [chain.ending for chain in one.spending.reservations].count("lost") == 1
    assert outcome.stopped_by == "engine_error"


def test_a_constrained_answer_is_begun_anew_and_its_first_tokens_are_wasted() -> None:
    form = plan("direct", question="As JSON.", grammar=DOCUMENT)
    whole, seen, engine = asked(form)
    said = whole.spending.spent.visible
    for part in range(1, said):
        one, again, _ = asked(form, (engine.produced - said + part,))
        assert again == seen
        assert (one.wasted, one.resumed) == (part, 1)
    one, _, _ = asked(replace(form, stream=True), (engine.produced - 2,))
    assert (one.wasted, one.resumed) == (0, 1), "what the caller has read stands"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chain_goes_on_with_what_is_left_of_its_budget(stream: bool) -> None:
    """Of a thought that is closed by force, and an answer that is cut."""
    form = plan("direct", budget=Budget(10, 7), stream=stream)
    _, seen, engine = asked(form)
    assert engine.produced == 17
    for at in range(17):
        one, again, disturbed = asked(form, (at, 8))
        assert again == seen
        assert disturbed.produced == 17
        assert one.wasted == 0


def test_a_request_that_comes_meanwhile_waits() -> None:
    engine = Mortal()

    async def work(one: SupervisedEngine) -> float:
        engine.process.die(KILLED)
        await asyncio.sleep(1)
        assert one.supervision.state == "restarting"
        assert 1 <= one.supervision.wait <= engine.process.takes
        with pytest.raises(Unavailable):
            await one.check()
        await Asked(plan("direct")).on(one)
        return asyncio.get_running_loop().time()

    assert on(engine, work) < 1 + engine.process.takes + 3


def test_a_deadline_that_passes_meanwhile_gives_the_best_so_far() -> None:
    engine = Mortal(dies_at=(12,), process=MortalProcess(takes=1000.0))
    with pytest.raises(DeadlinePassed):
        on(engine, Asked(plan("direct", timeout=20.0)).on)


def test_one_that_does_not_start_is_tried_again_ever_later() -> None:
    engine = Mortal(dies_at=(12,), process=MortalProcess(broken=4))
    states: list[str] = []

    async def work(one: SupervisedEngine) -> None:
        with pytest.raises(Lost):
            await Asked(plan("direct")).on(one)
        states.append(one.supervision.state)
        with pytest.raises(Unavailable) as refused:
            await one.supervision.ready()
        assert 1 <= refused.value.retry_after <= 60
        await state(one, "up")
        states.append(one.supervision.state)
        await Asked(plan("direct")).on(one)
        assert one.supervision.restarts == 5

    on(engine, work)
    assert states == ["failed", "up"]
    begun = engine.process.starts
    assert [round(later - earlier - 3) for earlier, later in pairwise(begun)] == [1, 2, 4, 8]


class Faulty(MortalProcess):
    """What is around it raises what nobody thought of, so many times each."""

    faults: int = 2
    ends: int = 0

    async def start(self) -> None:
        await super().start()
        self._fault()

    async def end(self) -> None:
        self.ends += 1
        await super().end()
        self._fault()

    def _fault(self) -> None:
        if self.faults:
            self.faults -= 1
            self.status = KILLED
            raise RuntimeError("can't start new thread")


def test_whatever_a_start_or_an_end_raises_the_server_goes_on_and_tries_again() -> None:
    engine = Mortal(dies_at=(12,), process=Faulty())
    outcome = on(engine, Asked(plan("direct")).on)
    assert outcome.answer.text
    assert engine.process.lives == 3


def test_whatever_asking_for_a_token_raises_the_server_goes_on() -> None:
    engine = Mortal()

    async def work(one: SupervisedEngine) -> None:
        async def raises() -> None:
            raise RequestError("the engine refuses the sampling parameters of this request")

        one.supervision._probe = raises  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(40)
        assert one.supervision.state == "up"
        engine.process.progress += 1
        await Asked(plan("direct")).on(one)

    on(engine, work)


def test_a_start_that_hangs_is_a_failed_one() -> None:
    class Hangs(MortalProcess):
        async def start(self) -> None:
            if len(self.starts) < 1:
                self.starts.append(0)
                await asyncio.Event().wait()
            await super().start()

    engine = Mortal(dies_at=(12,), process=Hangs())
    assert on(engine, Asked(plan("direct", timeout=3000.0)).on).answer.text


def test_what_is_being_started_is_ended_with_the_server_also_after_starts_that_failed() -> None:
    engine = Mortal(process=Faulty(broken=9, takes=100.0))

    async def work(one: SupervisedEngine) -> int:
        process = one.supervision.process
        assert isinstance(process, Faulty)
        process.faults = 0
        process.die(KILLED)
        await state(one, "failed")
        while len(process.starts) < 4:  # noqa: ASYNC110 (of virtual time there is enough)
            await asyncio.sleep(1)
        return process.ends

    before = on(engine, work)
    assert isinstance(engine.process, Faulty)
    assert engine.process.ends == before + 1


def test_an_engine_that_dies_of_itself_in_its_youth_is_given_ever_longer_pauses() -> None:
    engine = Mortal()

    async def work(one: SupervisedEngine) -> None:
        await asyncio.sleep(10)
        for status in (ABORTED, ABORTED, ABORTED, KILLED, ABORTED):
            await state(one, "up")
            engine.process.die(status)
            await state(one, "restarting")

    on(engine, work)
    ended = [after - before - 3 for before, after in pairwise(engine.process.starts)]
    assert [round(pause) for pause in ended] == [1, 2, 0], "old age, and who was killed, needs no pause"


def test_one_that_makes_no_token_is_noticed_though_nobody_asks() -> None:
    engine = Mortal()

    async def work(one: SupervisedEngine) -> None:
        probed = 0

        async def silent() -> None:
            nonlocal probed
            probed += 1

        supervisor = one.supervision
        supervisor._probe = silent  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(40)
        engine.process.progress += 1
        await asyncio.sleep(40)
        assert supervisor.state == "up"
        await asyncio.sleep(30)
        assert [death.cause for death in supervisor.deaths] == ["stalled"]
        assert probed

    on(engine, work)


def test_a_long_prompt_is_given_the_time_it_takes_to_be_read() -> None:
    """As the model reads so many tokens a second, by its own pace where that was measured."""
    engine = Mortal()
    process = engine.process

    async def probe() -> Checked:
        await asyncio.sleep(0.32)
        process.progress += 1
        return Checked(32, 0, 1)

    async def hung() -> None:
        await asyncio.Event().wait()

    async def lasts(one: SupervisedEngine) -> float:
        """Seconds without a token until it is started again."""
        deaths, began = len(one.supervision.deaths), asyncio.get_running_loop().time()
        while len(one.supervision.deaths) == deaths:  # noqa: ASYNC110 (of virtual time there is enough)
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time() - began

    async def work(one: SupervisedEngine) -> None:
        supervisor = one.supervision
        supervisor._probe = hung  # pyright: ignore[reportPrivateUsage]
        process.reading = 2000
        assert 300 < await lasts(one) < 400
        # The start of the next life measures how quickly it reads.
        supervisor._probe = probe  # pyright: ignore[reportPrivateUsage]
        process.reading = 0
        await state(one, "up")
        supervisor._probe = hung  # pyright: ignore[reportPrivateUsage]
        process.reading = 2000
        assert 115 < await lasts(one) < 125
        process.reading = 0
        supervisor._probe = probe  # pyright: ignore[reportPrivateUsage]
        await state(one, "up")
        supervisor._probe = hung  # pyright: ignore[reportPrivateUsage]
        assert 55 < await lasts(one) < 65

    on(engine, work)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dies_at", [12, 40])
def test_a_drain_does_not_wait_for_an_engine_that_is_away(dies_at: int, stream: bool) -> None:
    """Also where it is away already when the answer is to be completed."""
    engine = Mortal(dies_at=(dies_at,), process=MortalProcess(takes=1000.0))
    form = plan("direct", timeout=3000.0, stream=stream)

    async def work(one: SupervisedEngine) -> Outcome | Unavailable:
        asking, signal = Asked(form), StopSignal()
        going = asyncio.create_task(
            execute(form, Resources(one, Lengths(20, 40)), asking.spending, asking.on_delta, signal)
        )
        await asyncio.sleep(5)
        assert one.supervision.state == "restarting"
        signal.set("draining", 3)
        await asyncio.wait([going], timeout=10)
        assert asyncio.get_running_loop().time() < 9
        error = going.exception()
        assert error is None or isinstance(error, Unavailable)
        return error or going.result()

    ended = on(engine, work)
    if dies_at == 12:
        assert isinstance(ended, Unavailable)
        assert ended.code == "draining"
    else:
        assert isinstance(ended, Outcome)
        assert ended.stopped_by == "draining"
        assert ended.answer.text


def test_a_restart_makes_no_model_slower_than_it_is() -> None:
    """Of how quick it is, it is reckoned who is refused because he has too little time."""
    engine, slots = Mortal(process=MortalProcess(takes=100.0)), Slots(4, 10.0)

    async def work(one: SupervisedEngine) -> list[float]:
        rates: list[float] = []
        for at in (-1, engine.produced + 12, None):
            if at is None:
                # The next one comes while it is away, and waits.
                engine.process.die(KILLED)
                await state(one, "restarting")
            engine.dies_at = [engine.produced + (at or 0)] if at is not None else []
            resources = Resources(one, Lengths(20, 40), writing=slots.share("ann"))
            asked = Asked(plan("direct"))
            await execute(asked.plan, resources, asked.spending, asked.on_delta)
            rates.append(slots.rate)
        return rates

    undisturbed, disturbed, waited = on(engine, work)
    assert engine.process.lives == 3
    assert waited == disturbed == undisturbed > 0
    assert slots.held == 0


# -- requests that end the engine -------------------------------------------------------------------------------------


def test_a_request_that_kills_two_engines_is_refused_and_the_others_are_answered() -> None:
    engine = Mortal(poison=lambda transcript: transcript.call.request == "bad" and transcript.gained == 9)

    async def work(one: SupervisedEngine) -> list[Outcome | BaseException]:
        asking = [Asked(plan("direct", seed=n), f"good{n}") for n in range(6)]
        asking.insert(2, Asked(plan("majority_vote", question="Kill?"), "bad"))
        return await asyncio.gather(*(each.on(one) for each in asking), return_exceptions=True)

    outcomes = on(engine, work)
    refused = outcomes.pop(2)
    assert isinstance(refused, RequestError)
    assert refused.code == "request_quarantined"
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert engine.process.lives == 3


def test_however_many_suspects_wait_for_their_turn_one_of_them_looks() -> None:
    looks = 0

    class Watched(Transcript):
        @property
        def over(self) -> bool:
            nonlocal looks
            looks += 1
            return super().over

    def suspect(number: int) -> Transcript:
        spending = Spending(BUDGET, f"req_{number}")
        return Watched(spending.reserve("test", thinking=40, answer=20), PROMPT)

    async def go(waiting: int) -> int:
        nonlocal looks
        death, quarantine = Death(0, "crashed"), Quarantine()
        chains = [suspect(number) for number in range(waiting + 1)]
        for chain in chains:
            quarantine.lost(chain, death)
        async with asyncio.TaskGroup() as group:
            assert await quarantine.admit(PROMPT, Sampling(0, 0), chains[0], death)
            going = [group.create_task(quarantine.admit(PROMPT, Sampling(0, 0), chain, death)) for chain in chains[1:]]
            looks = 0
            await asyncio.sleep(20)
            seen = looks
            assert not any(task.done() for task in going)
            going[0].cancel()
            for chain in chains:
                chain.think([1] * 32)
        return seen

    few, many = in_virtual_time(go(8)), in_virtual_time(go(64))
    assert many < 2 * few


def test_requests_that_kill_engines_one_after_the_other_leave_another_in_peace() -> None:
    engine = Mortal(poison=lambda transcript: transcript.call.request.startswith("bad") and transcript.gained == 9)

    async def work(one: SupervisedEngine) -> Outcome:
        long = Asked(plan("direct", budget=Budget(4000, 60), question="Long?"), "good")
        going = asyncio.create_task(long.on(one))
        for number in range(5):
            await asyncio.sleep(1)
            with pytest.raises(RequestError):
                await Asked(plan("direct", question=f"Kill {number}?"), f"bad{number}").on(one)
        assert not going.done()
        return await going

    engine.script = lambda prompt, thought, seed: (
        Chain("a" * 3000, "Done.") if question(prompt) == "Long?" else drawn(prompt, thought, seed)
    )
    assert on(engine, work).answer.text == "Done."
    assert engine.process.lives == 11


def long_chains(prompt: Prompt, thought: str, seed: int) -> Chain:
    return Chain("a" * 600, "Done.")


@pytest.mark.parametrize("after", [0, 9, 31, 33, 40, 80, 200])
@pytest.mark.parametrize("order", [("bad", "good"), ("good", "bad")])
def test_of_two_that_are_always_in_flight_together_the_right_one_is_refused(order: tuple[str, str], after: int) -> None:
    """The engine dies whenever one of them has so many tokens more, also when it has had its turn by then."""
    engine = Mortal(poison=lambda transcript: transcript.call.request == "bad" and transcript.gained == after)
    engine.script = long_chains

    async def work(one: SupervisedEngine) -> list[Outcome | BaseException]:
        asking = [Asked(plan("direct", budget=Budget(4000, 60), question=name), name) for name in order]
        return await asyncio.gather(*(each.on(one) for each in asking), return_exceptions=True)

    outcomes = dict(zip(order, on(engine, work), strict=True))
    assert isinstance(outcomes["good"], Outcome)
    assert isinstance(outcomes["bad"], RequestError)
    assert outcomes["bad"].code == "request_quarantined"
    assert engine.process.lives <= 4


@pytest.mark.parametrize("place", [0, 3, 7])
def test_among_many_the_one_that_kills_late_is_refused_alone(place: int) -> None:
    engine = Mortal(poison=lambda transcript: transcript.call.request == "bad" and transcript.gained == 50)
    engine.script = long_chains

    async def work(one: SupervisedEngine) -> list[Outcome | BaseException]:
        names = [f"good{n}" for n in range(7)]
        names.insert(place, "bad")
        asking = [Asked(plan("direct", budget=Budget(4000, 60), question=name), name) for name in names]
        return await asyncio.gather(*(each.on(one) for each in asking), return_exceptions=True)

    outcomes = on(engine, work)
    assert isinstance(outcomes.pop(place), RequestError)
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert engine.process.lives <= 5


def test_what_was_refused_is_refused_for_an_hour_when_the_same_key_sends_it_again() -> None:
    engine = Mortal(poison=lambda transcript: transcript.call.request.startswith("bad") and transcript.gained == 9)

    async def lives(one: SupervisedEngine, name: str, **more: Any) -> int:
        wishes = {"tenant": "ann"} | {key: more.pop(key) for key in ("tenant", "tells_thought") if key in more}
        before = engine.process.lives
        form = plan("direct", question=more.pop("question", "Kill?"), **more)
        form = replace(form, sampling=replace(form.sampling, **wishes))
        with pytest.raises(RequestError) as refused:
            await Asked(form, name).on(one)
        assert refused.value.code == "request_quarantined"
        return engine.process.lives - before

    async def work(one: SupervisedEngine) -> None:
        assert await lives(one, "bad1") == 2
        assert await lives(one, "bad2") == 0
        assert await lives(one, "bad3", seed=7, budget=Budget(300, 20)) == 0
        assert await lives(one, "bad3", stream=True, tells_thought=True) == 0
        assert await lives(one, "bad4", tenant="bob") == 2, "another key's is its own business"
        assert await lives(one, "bad5", question="Kill!") == 2
        await Asked(plan("direct", question="Kill?"), "good").on(one)
        await asyncio.sleep(3600)
        assert await lives(one, "bad6") == 2

    on(engine, work)


def test_what_was_sent_several_times_at_once_kills_no_more_engines_than_one_of_it() -> None:
    engine = Mortal(poison=lambda transcript: transcript.call.request.startswith("bad") and transcript.gained == 9)

    async def work(one: SupervisedEngine) -> list[Outcome | BaseException]:
        asking = [Asked(plan("direct", question="Kill?"), f"bad{n}") for n in range(5)]
        return await asyncio.gather(*(each.on(one) for each in asking), return_exceptions=True)

    assert all(isinstance(one, RequestError) for one in on(engine, work))
    assert engine.process.lives <= 4


def test_who_was_killed_from_outside_twice_is_not_to_blame() -> None:
    one, _, _ = asked(plan("direct"), tuple(range(0, 30, 3)))
    assert one.resumed == 10


def test_a_stream_that_ends_without_an_end_though_the_engine_goes_on_is_gone_on_with() -> None:
    engine, one = Mortal(vanish_at={0: 4}), Asked(plan("direct"))
    _, undisturbed, _ = asked(one.plan)
    assert one.seen(on(engine, one.on)) == undisturbed
    assert (engine.process.lives, one.resumed) == (1, 1)


def test_a_transcript_that_is_resumed_has_what_it_had() -> None:
    reservation = Spending(BUDGET).reserve("test", thinking=20, answer=20)
    transcript = Transcript(reservation, Prompt((Message("user", "?"),)))
    transcript.think([1, 2, 3])
    transcript.close_thought()
    transcript.put([9])
    transcript.say([4, 5], "ab")
    transcript.resume(anew=True)
    assert transcript.begun is not None
    assert transcript.begun.ids.unseal() == (1, 2, 3)
    assert (reservation.hidden, reservation.visible, reservation.wasted) == (3, 0, 2)
    transcript.say([4], "a")
    transcript.resume(anew=False)
    assert transcript.begun.ids.unseal() == (1, 2, 3, 4)
    assert (transcript.begun.text, reservation.wasted, transcript.got) == ("a", 2, 1)
    transcript.resume(anew=False)
    assert transcript.got == 0
