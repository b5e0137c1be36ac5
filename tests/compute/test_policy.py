"""The file of a policy: what is written is read again, and what is wrong is said by its place."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from ponder.compute.full_vote import Urn
from ponder.compute.policy import BUILT_IN, Pace, Policy, WrongPolicy, read, written

LEARNED = Policy(
    chains=24,
    lead=0.8,
    slope=0.1,
    latency=Pace(first=4, abreast=6, spare=2.0, doubt=0.1),
    urns=(Urn(0.7, 0.6, -0.5), Urn(0.3, 0.0, 2.0)),
    model="mine",
)


def test_what_is_written_is_read_again() -> None:
    for policy in (BUILT_IN, LEARNED):
        assert read(written(policy)) == policy
    told = json.loads(written(LEARNED, {"questions": 30}))
    assert told["learned"] == {"questions": 30}
    assert told["numbers"].keys() == {"chains", "lead", "slope", "latency", "urns"}
    assert read(json.dumps(told)) == LEARNED


def test_what_a_file_leaves_out_is_the_servers_own() -> None:
    assert read('{"version": 1}') == BUILT_IN
    assert read(b'{"version": 1, "model": "mine", "numbers": {"lead": 0.8}}') == Policy(lead=0.8, model="mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ('{"numbers": {}}', "version: it is None, and this server reads version 1"),
        ('{"version": 2}', "version: it is 2"),
        ('{"version": 1, "modle": "x"}', "modle: there is no such field; did you mean model?"),
        ('{"version": 1, "model": 7}', "model: it is no text"),
        ('{"version": 1, "numbers": []}', "numbers: it is no object"),
        ('{"version": 1, "numbers": {"led": 1}}', "numbers.led: there is no such number; did you mean lead?"),
        ('{"version": 1, "numbers": {"model": "x"}}', "numbers.model: there is no such number"),
        (
            '{"version": 1, "numbers": {"lead": 1.7}}',
            "numbers.lead: input should be less than or equal to 1 (it",
        ),
        ('{"version": 1, "numbers": {"lead": NaN}}', "numbers.lead: input should be"),
        ('{"version": 1, "numbers": {"start": "3"}}', "numbers.start: input should be a valid integer"),
        ('{"version": 1, "numbers": {"start": 40}}', "numbers: start is 40, and there are 32 chains at most"),
        ('{"version": 1, "numbers": {"tokens": {"first": 3}}}', "numbers.tokens.abreast: field required"),
        ('{"version": 1, "numbers": {"urns": []}}', "numbers.urns: "),
        (
            '{"version": 1, "numbers": {"urns": [{"weight": 1, "discount": 0.3, "strength": -0.5}]}}',
            "numbers.urns.0: strength must be above -discount",
        ),
    ],
)
def test_what_is_wrong_is_said_by_its_place(text: str, words: str) -> None:
    with pytest.raises(WrongPolicy) as raised:
        read(text)
    assert words in str(raised.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(WrongPolicy) as raised:
        read('{"version": 1, "numbers": {"lead": 2, "slope": -1, "strat": 1}}')
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize("name", [field.name for field in fields(Policy) if field.name not in ("model", "urns")])
def test_every_number_has_a_range(name: str) -> None:
    for value in (-1, 1e9):
        number: Any = {"first": value, "abreast": 1, "spare": 1, "doubt": 0} if name in ("tokens", "latency") else value
        with pytest.raises(WrongPolicy):
            read(json.dumps({"version": 1, "numbers": {name: number}}))
