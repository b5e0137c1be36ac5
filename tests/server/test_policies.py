"""The policy of a model is read at the start and by a reload; one that is none is said before anything starts."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from ponder.compute.policy import BUILT_IN, Policy, written
from ponder.server.commands import doctor
from ponder.server.policies import LARGEST, other_model, policies_of, policy_of
from ponder.server.settings import ModelSettings, Settings, WrongSettings
from ponder.testing import Chain
from tests.server.keyed import keyed
from tests.server.serving import answered, door, scripted
from tests.server.test_reload import BEFORE, load, rewrite

SURE = Policy(model="demo")


def kept(file: Path, policy: Policy) -> Path:
    file.write_text(written(policy))
    return file


def test_requests_go_by_the_policy_of_their_model(tmp_path: Path) -> None:
    file = kept(tmp_path / "policy.json", SURE)
    engine = scripted(Chain("hm", "It is 7."))
    plain, learned = (
        answered(door(engine, settings), strategy="direct")["thinking"]
        for settings in (Settings(), Settings(policy=file))
    )
    assert "confidence" not in plain
    assert 0.5 < learned["confidence"] < 1
    # Three chains are as many as it may draw.
    few = kept(tmp_path / "few.json", Policy(chains=3, model="demo"))
    told = answered(door(engine, Settings(policy=few)), strategy="auto", thinking_budget=20_000)["thinking"]
    assert told["samples_requested"] == 3


def test_adapters_have_the_policy_of_their_model_and_tables_go_before_what_is_said_for_all(tmp_path: Path) -> None:
    one, two = kept(tmp_path / "one.json", Policy(lead=0.8)), kept(tmp_path / "two.json", Policy(lead=0.7))
    models = {"a": {"path": "a", "adapters": {"law": "x"}}, "b": {"path": "b", "policy": str(two)}}
    found = policies_of(Settings.model_validate({"models": models, "policy": one}).served())
    assert {name: policy.lead for name, policy in found.items()} == {"a": 0.8, "law": 0.8, "b": 0.7}
    assert policies_of(Settings.model_validate({"models": models}).served())["law"] == BUILT_IN


def test_what_is_no_file_is_said_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("~no-such-user/policy.json"), Path("a\0b"), tmp_path / "none"):
        with pytest.raises(WrongSettings, match=r"of model demo\): it (is no file|cannot be read)"):
            policy_of("demo", ModelSettings(path="x", policy=path))


def test_a_broken_policy_is_said_by_file_model_and_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    model = ModelSettings(path="x", policy=file)
    for text, words in (
        ('{"version": 1, "numbers": {"led": 1}}', "numbers.led: there is no such number"),
        ("\xff", "it is no JSON"),
        (" " * (LARGEST + 1), "more than"),
    ):
        file.write_text(text, "latin-1")
        with pytest.raises(WrongSettings, match=words) as raised:
            policy_of("mine", model)
        assert f"policy {file} (of model mine)" in raised.value.message
        (finding,) = doctor.policies(Settings(models={"mine": model}))
        assert (finding.ok, words in finding.words) == (False, True)
    file.unlink()
    with pytest.raises(WrongSettings, match="No such file"):
        policy_of("mine", model)


def test_a_policy_of_another_model_is_used_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = kept(tmp_path / "policy.json", Policy(model="Qwen/Other-8B"))
    settings = Settings(policy=file)
    door(scripted(), settings)
    assert "policy.json) was learned for Qwen/Other-8B" in caplog.text
    (finding,) = doctor.policies(settings)
    assert (finding.ok, "learned for Qwen/Other-8B" in finding.words) == (None, True)
    for name, path in (("mine", "Qwen/Other-8B"), ("Qwen/Other-8B", "/models/x")):
        model = ModelSettings(path=path, policy=file)
        assert other_model(name, model, policy_of(name, model)) is None
    assert doctor.policies(Settings()) == []


def test_a_reload_reads_policies_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config, file = tmp_path / "ponder.toml", kept(tmp_path / "policy.json", SURE)
    line = f'policy = "{file}"\n'
    rewrite(config, line + BEFORE)

    async def go() -> None:
        async with keyed(f"sqlite:///{tmp_path}/ledger.db", load(config), source=lambda: load(config)) as on:

            async def reloaded() -> tuple[dict[str, list[str]], float | None]:
                told = (await on.root("POST", "/v1/reload")).json()
                answer = (await on.chat("pk-alice", strategy="direct")).json()
                return told, answer["thinking"].get("confidence")

            told, sure = await reloaded()
            assert (told["changed"], told["kept"]) == ([], [])
            kept(file, Policy(model="demo", urns=BUILT_IN.urns[:1]))
            told, surer = await reloaded()
            assert (told["changed"], told["kept"]) == (["policy of demo"], [])
            assert sure is not None
            assert surer is not None
            assert sure < surer
            file.write_text('{"version": 7}')
            told, same = await reloaded()
            assert "version: it is 7" in str(told)
            assert same == surer
            rewrite(config, BEFORE)
            told, none = await reloaded()
            assert (told["changed"], told["kept"], none) == (["policy of demo"], [], None)

    asyncio.run(go())
