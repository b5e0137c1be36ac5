"""Questions asked of a server: again where that helps, once where it does not, and on from where a run was stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from ponder.clients.client import AskError, AsyncClient, CutOff, Refused
from ponder.evaluation.asking.ask import TRIES, Asked, Stopped, ask, seed_of, with_instruction
from ponder.evaluation.asking.journal import Journal, WrongJournal
from ponder.evaluation.asking.questions import read
from ponder.evaluation.comparing.compare import Answered, Comparison, answered, compare
from ponder.evaluation.comparing.plans import Plan
from ponder.evaluation.comparing.summary import rows
from ponder.testing.virtual_time import in_virtual_time
from tests.evaluation.asked import sums, write

# -- one question -----------------------------------------------------------------------------------------------------

CHUNK: dict[str, Any] = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {"content": "19"}}]}
STREAM = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"
GOOD = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=STREAM)
CUT = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=STREAM.replace("[DONE]", ""))


def refused(status: int, wait: str | None = None, **error: str) -> httpx.Response:
    headers = {} if wait is None else {"retry-after": wait}
    return httpx.Response(status, headers=headers, json={"error": {"message": "no", **error}})


def asked(*script: httpx.Response | Exception, patience: float = 600.0) -> tuple[Asked, list[float], int]:
    """What a server that answers so comes to, the waits between, and how often it was asked."""
    waits: list[float] = []
    left = list(script)

    def handle(request: httpx.Request) -> httpx.Response:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def go() -> Asked:
        async with AsyncClient("http://server", transport=httpx.MockTransport(handle)) as client:
            turns, fields = [{"role": "user", "content": "?"}], {"model": "m"}
            return await ask(client, turns, fields, patience=patience, on_wait=lambda _, seconds: waits.append(seconds))

    return in_virtual_time(go()), waits, len(script) - len(left)


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    got, waits, _ = asked(refused(429, "7"), refused(503, "30"), httpx.ConnectError("no"), GOOD)
    assert (got.reply.text, got.tries) == ("19", 4)
    assert waits[:2] == [7.0, 30.0]
    assert 0 < waits[2] <= 2.0


def test_a_server_that_fails_by_chance_is_asked_a_few_times() -> None:
    assert asked(refused(500), CUT, GOOD)[0].tries == TRIES
    with pytest.raises(Refused):
        asked(*[refused(500)] * TRIES)
    with pytest.raises(CutOff):
        asked(*[CUT] * TRIES)
    with pytest.raises(AskError, match="took too long"):
        asked(*[httpx.ReadTimeout("silent")] * TRIES)


def test_what_is_the_fault_of_the_question_is_asked_once() -> None:
    with pytest.raises(Refused, match="no"):
        asked(refused(400, code="context_length_exceeded"))


def test_a_run_stops_where_nobody_answers_in_time_or_the_key_is_refused() -> None:
    with pytest.raises(Stopped, match="and 86400 s more to come: no"):
        asked(refused(429, "86400"))
    with pytest.raises(Stopped, match=r"after \d+ s of waiting"):
        asked(*[httpx.ConnectError("no")] * 100, patience=30)
    for status in (401, 403):
        with pytest.raises(Stopped, match="refuses the key"):
            asked(refused(status))


# -- the journal ------------------------------------------------------------------------------------------------------


def opened(folder: Path, planned: dict[str, Any]) -> Journal:
    return Journal(folder / "answers.jsonl", folder / "run.json", planned)


def filled(folder: Path, planned: dict[str, Any], *lines: dict[str, Any]) -> list[dict[str, Any]]:
    """Adds lines to a folder's journal; what it had before."""
    with opened(folder, planned) as journal:
        for line in lines:
            asyncio.run(journal.add(line))
        return journal.lines


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    assert filled(tmp_path / "new" / "run", {"a": (1,)}, {"x": 1}, {"x": "\ud800"}) == []
    path = tmp_path / "new" / "run" / "answers.jsonl"
    whole = path.read_bytes()
    for part in range(1, 8):
        path.write_bytes(whole + b'{"x": 3}\n'[:part])
        assert filled(tmp_path / "new" / "run", {"a": [1]}) == [{"x": 1}, {"x": "\ud800"}]
        assert path.read_bytes() == whole


def test_another_plan_is_told_and_not_mixed(tmp_path: Path) -> None:
    filled(tmp_path, {"budgets": [1, 2], "seed": None, "model": "m"}, {"x": 1})
    with pytest.raises(WrongJournal, match=r"budgets was \[1, 2\], now it is \[1\]; seed was nothing, now it is 3"):
        filled(tmp_path, {"budgets": [1], "seed": 3, "model": "m"})


def test_a_folder_that_is_in_use_or_holds_something_else_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "a", {}), pytest.raises(WrongJournal, match="in use"):
        opened(tmp_path / "a", {})
    with opened(tmp_path / "a", {}):
        """The one before let go of it."""
    (tmp_path / "a" / "run.json").unlink()
    (tmp_path / "a" / "answers.jsonl").write_text("{}\n")
    with pytest.raises(WrongJournal, match=r"answers.jsonl is there, and no run.json beside it"):
        opened(tmp_path / "a", {})
    (tmp_path / "b").write_text("a file")
    with pytest.raises(WrongJournal, match="cannot be written to"):
        opened(tmp_path / "b", {})
    filled(tmp_path / "c", {}, {"x": 1})
    (tmp_path / "c" / "answers.jsonl").write_text("{}\nnot\n{}\n")
    with pytest.raises(WrongJournal, match="line 2 is no JSON"):
        opened(tmp_path / "c", {})
    (tmp_path / "c" / "answers.jsonl").write_text("{}\n3\n")
    with pytest.raises(WrongJournal, match="line 2 is no JSON object"):
        opened(tmp_path / "c", {})
    (tmp_path / "c" / "answers.jsonl").write_text("{}\n")
    with opened(tmp_path / "c", {}) as journal, pytest.raises(WrongJournal, match="is no answer"):
        answered(journal)


# -- all of them ------------------------------------------------------------------------------------------------------


def comparison(
    tmp_path: Path, plans: Sequence[Plan], *, questions: int = 4, wrong: int = 0, repeat: int = 1
) -> Comparison:
    path = write(tmp_path / "questions.jsonl", sums(questions, wrong))
    return Comparison(read(path), plans, "m", repeat=repeat, seed=1)


DIRECT, VOTES = Plan({"name": "direct"}, 64, "direct"), Plan({"name": "majority_vote"}, "auto", "majority_vote")


def compared(
    tmp_path: Path, what: Comparison, handle: Callable[[dict[str, Any]], httpx.Response], at_once: int = 1
) -> dict[tuple[str, str, int], Answered]:
    def handled(request: httpx.Request) -> httpx.Response:
        return handle(json.loads(request.content))

    async def go() -> dict[tuple[str, str, int], Answered]:
        with opened(tmp_path / "out", what.planned) as journal:
            async with AsyncClient("http://server", transport=httpx.MockTransport(handled)) as client:
                return await compare(
                    client,
                    what,
                    journal,
                    at_once=at_once,
                    patience=60,
                    on_answer=lambda _: None,
                    on_wait=lambda _, __: None,
                )

    return asyncio.run(go())


def echo(body: dict[str, Any]) -> httpx.Response:
    """A server's answer that repeats what was asked."""
    said = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {"content": body["messages"][-1]["content"]}}]}
    more = {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}, "prompt_tokens": 9}
    last: dict[str, Any] = {
        "id": "x",
        "model": "m",
        "choices": [],
        "usage": more,
        "thinking": {"cost_usd": 0.5, "verifier_tokens": 3},
    }
    text = f"data: {json.dumps(said)}\n\ndata: {json.dumps(last)}\n\ndata: [DONE]\n\n"
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)


def test_plans_take_turns_and_share_their_seeds(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        bodies.append(body)
        return echo(body)

    what = comparison(tmp_path, [DIRECT, VOTES], questions=2, repeat=2)
    known = compared(tmp_path, what, handle)
    assert [body["strategy"]["name"] for body in bodies] == ["direct", "majority_vote", "majority_vote", "direct"] * 2
    assert {body["thinking_budget"] for body in bodies} == {64, "auto"}
    seeds = {(one.question, one.draw): seed_of(1, one.question, one.draw) for one in known.values()}
    assert sorted(body["seed"] for body in bodies) == sorted([*seeds.values()] * 2)
    assert len(set(seeds.values())) == 4
    assert all(one.right and one.tokens == 40 and one.cost_usd == 0.5 for one in known.values())


def test_errors_are_kept_counted_as_wrong_and_asked_again(tmp_path: Path) -> None:
    def refuses_one(body: dict[str, Any]) -> httpx.Response:
        return refused(400, code="x") if "What is 2" in body["messages"][0]["content"] else echo(body)

    what = comparison(tmp_path, [DIRECT])
    known = compared(tmp_path, what, refuses_one)
    (row,) = rows(what, known)
    assert (row.answers, row.errors, row.right.mean) == (3, 1, 0.75)
    assert row.tokens is not None
    assert row.tokens.mean == 40
    assert known["direct @ 64", "q2", 0].error == "400: no"
    again: list[str] = []

    def counts(body: dict[str, Any]) -> httpx.Response:
        again.append(body["messages"][0]["content"])
        return echo(body)

    (row,) = rows(what, compared(tmp_path, what, counts))
    assert again == ["What is 2 + 1? The answer is \\boxed{3}."]
    assert (row.answers, row.errors, row.right.mean) == (4, 0, 1.0)


def test_what_is_wrong_with_a_plan_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"direct @ 64: no \(strategy\.n\)"):
        compared(tmp_path, comparison(tmp_path, [DIRECT]), lambda _: refused(400, param="strategy.n"), at_once=3)


def test_an_instruction_stands_behind_the_last_turn() -> None:
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert with_instruction(turns, None) == turns
    assert with_instruction(turns, "c") == [turns[0], {"role": "user", "content": "b\n\nc"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "b"}]}]
    assert with_instruction(parts, "c")[0]["content"][1] == {"type": "text", "text": "c"}


# -- intervals --------------------------------------------------------------------------------------------------------


def known(what: Comparison, right: Callable[[str, int, int], bool]) -> dict[tuple[str, str, int], Answered]:
    """Answers to all: `right` of a plan's strategy, the question's place and the draw."""
    lines = [
        Answered(
            plan=plan.name,
            question=question.id,
            draw=draw,
            at="",
            right=right(plan.called, place, draw),
            thinking_tokens=10 * place,
            visible_tokens=5,
            seconds=float(place),
        )
        for plan in what.plans
        for place, question in enumerate(what.questions.all)
        for draw in range(what.repeat)
    ]
    return {line.key: line for line in lines}


def test_intervals_are_over_questions_and_not_over_their_draws(tmp_path: Path) -> None:
    once = comparison(tmp_path, [DIRECT], questions=100)
    (one,) = rows(once, known(once, lambda _, place, __: place % 2 == 0))
    often = comparison(tmp_path, [DIRECT], questions=100, repeat=20)
    (many,) = rows(often, known(often, lambda _, place, __: place % 2 == 0))
    assert one.right == many.right
    # 1.96 standard errors of a share of one half in a hundred.
    assert one.right.mean == 0.5
    assert one.right.low == pytest.approx(0.402, abs=0.015)
    assert one.right.high == pytest.approx(0.598, abs=0.015)
    assert (one.p50, one.p90) == (pytest.approx(49.5), pytest.approx(89.1))


def test_differences_are_paired(tmp_path: Path) -> None:
    what = comparison(tmp_path, [DIRECT, VOTES], questions=100)
    # The second is right wherever the first is, and in five more.
    first, second = rows(what, known(what, lambda plan, place, _: place < (50 if plan == "direct" else 55)))
    assert first.better is None
    assert second.better is not None
    assert second.better.mean == pytest.approx(0.05)
    assert 0 < second.better.low < second.better.high <= 0.11
    assert second.right.low < first.right.high


def test_where_nothing_varies_an_interval_is_no_point(tmp_path: Path) -> None:
    what = comparison(tmp_path, [DIRECT, VOTES], questions=20)
    first, second = rows(what, known(what, lambda _, __, ___: True))
    assert (first.right.mean, first.right.high) == (1.0, 1.0)
    assert first.right.low == pytest.approx(0.025 ** (1 / 20))
    assert second.better is not None
    assert second.better.low < 0 < second.better.high
