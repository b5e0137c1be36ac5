"""What the doctor says of a model of which only the tokenizer and the chat template are here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from ponder.server.commands import doctor
from ponder.server.commands.doctor import Finding
from ponder.server.settings import ModelSettings
from tests.engines.family_models import OWN, Family, families, save


def own(name: str) -> Family:
    return next(one for one in families(OWN) if one.model == f"own/{name}")


def told(name: str, folder: Path, **settings: object) -> list[Finding]:
    save(own(name), folder)
    return doctor.family(name, ModelSettings.model_validate({"path": str(folder), **settings}))


@pytest.mark.parametrize("family", families(OWN), ids=str)
def test_every_mechanism_is_told_and_proven_without_weights(family: Family, tmp_path: Path) -> None:
    save(family, tmp_path)
    findings = doctor.family("mine", ModelSettings(path=str(tmp_path)))
    assert [finding for finding in findings if finding.ok is False] == []
    first = findings[0]
    assert first.facts is not None
    assert first.facts["profile"]["thinks"] == family.thinks
    assert (": thinks" in first.words) == family.thinks
    assert {one["of"] for one in first.facts["proofs"]} >= {"markers", "side", "silent"}


def test_how_it_is_switched_is_said_in_words(tmp_path: Path) -> None:
    ways = {
        "single-tokens": "the template's variable enable_thinking",
        "other-switch": "on: deliberation = 'deep'; off: deliberation = 'none'",
        "sentence": "a sentence in the system message (on: ''; off: 'pondering off, thinking off')",
        "word": "a word in the message (on: ''; off: '/no_think')",
        "interleaved": "off by '<think>\\n\\n</think>\\n\\n' behind the prompt, reads its thoughts of a tool loop",
        "channels": "in a channel of its own (harmony)",
        "no-thinking": "answers at once",
    }
    for name, words in ways.items():
        assert words in told(name, tmp_path / name)[0].words


def test_a_profile_that_leaks_is_a_finding_with_the_configuration_that_mends_it(tmp_path: Path) -> None:
    findings = told("interleaved", tmp_path, profile="instruct")
    (wrong,) = [finding for finding in findings if finding.ok is False]
    assert "ends within a thought" in wrong.words
    assert wrong.mend.startswith("in ponder.toml:\n[models.mine.profile]\n")
    out = io.StringIO()
    assert doctor.tell(findings, out) == 1
    assert "         mend: in ponder.toml:\n               [models.mine.profile]\n" in out.getvalue()


def test_the_makers_sampling_is_told(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.9}')
    facts = told("single-tokens", tmp_path)[0].facts
    assert facts is not None
    assert facts["sampling_of_its_makers"] == {"temperature": 0.9}
    assert facts["profile"]["temperature"] == 0.9


def test_a_tokenizer_that_cannot_be_loaded_is_told_in_words(tmp_path: Path) -> None:
    save(own("word"), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    (wrong,) = doctor.family("mine", ModelSettings(path=str(tmp_path)))
    assert wrong.ok is False
    assert "its tokenizer cannot be loaded" in wrong.words


def test_nothing_is_said_of_a_model_that_is_not_here(tmp_path: Path) -> None:
    assert doctor.family("mine", ModelSettings(path=str(tmp_path))) == []
    assert doctor.family("mine", ModelSettings(path="nobody/nothing")) == []


def test_all_of_it_is_one_json_object(tmp_path: Path) -> None:
    findings = [Finding(None, "a note"), *told("word", tmp_path)]
    out = io.StringIO()
    assert doctor.tell_json(findings, out) == 0
    read = json.loads(out.getvalue())
    assert (read["ok"], read["missing"]) == (True, 0)
    assert read["findings"][0] == {"ok": None, "words": "a note", "mend": ""}
    assert read["findings"][1]["model"]["profile"]["word"] == ["", "/no_think"]
    assert all(proof["ok"] for proof in read["findings"][1]["model"]["proofs"])


def test_how_a_model_writes_calls_is_told_or_that_it_is_not_known(tmp_path: Path) -> None:
    known = told("single-tokens", tmp_path / "known")[-1]
    assert (known.ok, known.words) == (True, "single-tokens: writes calls of tools as `hermes` does")
    assert told("channels", tmp_path / "channels")[-1].words.endswith("as `harmony` does")
    save(own("single-tokens"), tmp_path / "odd")
    template = (
        "{% for tool in tools or [] %}{{ tool }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    )
    for file in (tmp_path / "odd").glob("chat_template.jinja"):
        file.write_text(template)
    settings = {"path": str(tmp_path / "odd"), "profile": {"name": "mine"}}
    odd = doctor.family("odd", ModelSettings.model_validate(settings))[-1]
    assert odd.ok is None
    assert "requests with tools are refused" in odd.words
    assert odd.mend.startswith("tools = ")
