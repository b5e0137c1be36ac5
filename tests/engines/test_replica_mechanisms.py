"""Every family's way to think over HTTP: the checks of `test_mechanisms`, against a server elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ponder.engines.profiles import find
from tests.engines import test_mechanisms as mechanisms
from tests.engines.family_models import OWN, Family, every_family, tokenizer
from tests.engines.replies import Replies
from tests.engines.scripted_server import ScriptedServer, Served, replica

FAMILIES = every_family()
CHECKS: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (mechanisms.test_a_thought_is_hidden_and_its_answer_is_not, {}),
    (mechanisms.test_without_a_thought_all_is_answer, {}),
    (mechanisms.test_a_thought_is_closed_at_its_budget_and_answered, {"wish": {}}),
    (mechanisms.test_a_thought_is_closed_at_its_budget_and_answered, {"wish": {"logprobs": 0}}),
    (mechanisms.test_a_thought_is_closed_at_its_budget_and_answered, {"wish": {"until": "never there"}}),
    (mechanisms.test_every_budget_ends_outside_of_the_thought, {}),
    (mechanisms.test_an_answer_that_is_drawn_by_itself_begins_behind_the_thought, {"wish": {"logprobs": 0}}),
    (mechanisms.test_an_answer_that_is_drawn_by_itself_begins_behind_the_thought, {"wish": {"stop": ("nobody says",)}}),
    (mechanisms.test_an_answer_goes_on_from_any_place, {}),
    (mechanisms.test_a_thought_goes_on_from_any_place, {}),
    (mechanisms.test_a_call_is_read_as_it_is_written, {"thinking": 0}),
    (mechanisms.test_a_call_is_read_as_it_is_written, {"thinking": 1000}),
    (mechanisms.test_a_thought_that_has_ended_is_opened_again_with_words_that_are_no_markers, {}),
    (mechanisms.test_a_thought_that_was_closed_by_force_is_not_opened_again, {}),
    (mechanisms.test_a_call_begun_within_a_thought_ends_it, {}),
    (mechanisms.test_a_second_thought_is_hidden_too, {}),
]
"""Of those of a schema `test_replica` has its own."""
FOR_ALL = (mechanisms.test_without_a_thought_all_is_answer, mechanisms.test_a_call_is_read_as_it_is_written)


class OverHttp:
    """Fulfils `tests.engines.test_mechanisms.Place`: a server for each family, and one loop for all."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._stack = AsyncExitStack()
        self._made: dict[str, Served] = {}
        self._servers: dict[Served, ScriptedServer] = {}

    def engine(self, family: Family) -> Served:
        if (made := self._made.get(family.model)) is None:
            tokens = tokenizer(family)
            profile = find(family.model, family.config, family.chat_template, tokens)
            server = ScriptedServer(Replies(tokens, "", "", eos=family.eos), scale_out=True)
            made = self._runner.run(self._stack.enter_async_context(replica(server, profile)))
            self._made[family.model], self._servers[made] = made, server
        return made

    def told(self, made: Served, llm: Replies) -> None:
        made.llm = self._servers[made].llm = llm

    def run(self, work: Coroutine[Any, Any, mechanisms.Written]) -> mechanisms.Written:
        return self._runner.run(work)

    def close(self) -> None:
        self._runner.run(self._stack.aclose())


@pytest.fixture(scope="module")
def servers() -> Iterator[OverHttp]:
    with asyncio.Runner() as runner:
        place = OverHttp(runner)
        yield place
        place.close()


@pytest.fixture
def elsewhere(servers: OverHttp) -> Iterator[None]:
    before = mechanisms.PLACE.set(servers)
    yield
    mechanisms.PLACE.reset(before)


def named(told: Any) -> str:
    check, more = told
    return " ".join([check.__name__.removeprefix("test_"), *map(str, more.values())])


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("check", CHECKS, ids=named)
def test_each_mechanism_is_the_same_over_http(check: tuple[Callable[..., None], dict[str, Any]]) -> None:
    """Our own families, of which every mechanism has one, at some places."""
    before = mechanisms.SOME.set(11)
    try:
        _holds(check, [family for family in FAMILIES if family.folder == OWN])
    finally:
        mechanisms.SOME.reset(before)


@pytest.mark.soak
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("check", CHECKS, ids=named)
def test_each_family_is_the_same_over_http(check: tuple[Callable[..., None], dict[str, Any]]) -> None:
    _holds(check, FAMILIES)


def _holds(check: tuple[Callable[..., None], dict[str, Any]], families: list[Family]) -> None:
    function, more = check
    for family in families:
        if family.thinks or function in FOR_ALL:
            function(family, **more)
