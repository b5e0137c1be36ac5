"""The settings of replicas: how they may be written, what is wrong with others, and that they may move."""

from __future__ import annotations

from pathlib import Path

import pytest

from ponder.server.load_settings import load
from ponder.server.reload import changes_of
from ponder.server.settings import Settings, WrongSettings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_a_list_is_that_of_the_addresses_and_a_key_may_come_from_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[models.far]\npath = "demo"\nreplicas = ["http://a:1/v1/", "https://b:2"]\n')
    replicas = load(file).served()["far"].replicas
    assert replicas is not None
    assert replicas.urls == ["http://a:1", "https://b:2"]
    file.write_text('model = "demo"\n')
    monkeypatch.setenv("PONDER_REPLICAS__KEY", "secret-1")
    replicas = load(file, replicas={"urls": ["http://a:1"]}).served()["demo"].replicas
    assert replicas is not None
    assert replicas.key is not None
    assert replicas.key.get_secret_value() == "secret-1"
    assert replicas.urls == ["http://a:1"]
    assert "secret-1" not in repr(replicas)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("replicas = []", "name the replicas: urls, a file, or dns"),
        ('replicas = ["a:8001"]', "the address of a replica is http://host:port or https://host:port"),
        ('replicas = ["http://me:pk-secret@a:8001"]', "the key of a replica is set beside its address, not in it"),
        ('replicas = {urls = ["http://a:1"], key = "pk-secret", key_file = "x"}', "key and key_file: set one of them"),
        ('replicas = {urls = ["http://a:1"], key = "pk secret"}', "a key has no spaces"),
        ('replicas = {url = ["http://a:1"]}', "there is no such setting; did you mean urls?"),
        ('replicas = ["http://a:1"]\nadapters = {law = "x"}', "adapters: those of demo are loaded by its replicas"),
        ('replicas = ["http://a:1"]\n[models.far]\npath = "demo"', "they stand in the table of their model"),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(file: Path, toml: str, words: str) -> None:
    file.write_text(toml)
    with pytest.raises(WrongSettings) as wrong:
        load(file)
    assert words in wrong.value.message
    assert "settings.toml" in wrong.value.message
    assert "pk-secret" not in wrong.value.message
    assert "pk secret" not in wrong.value.message


def test_where_replicas_are_changes_while_the_server_serves_and_how_they_are_reached_does_not(file: Path) -> None:
    def settings(replicas: str) -> Settings:
        file.write_text(f'[models.far]\npath = "demo"\nreplicas = {replicas}\n')
        return load(file)

    before = settings('{urls = ["http://a:1"], key = "one"}')
    moved = changes_of(before, settings('{urls = ["http://b:1"], file = "x", key = "one"}'))
    assert moved.told.changed == ["replicas of far"]
    assert moved.told.kept == []
    now = moved.settings.served()["far"].replicas
    assert now is not None
    assert (now.urls, now.file) == (["http://b:1"], Path("x"))
    other = changes_of(before, settings('{urls = ["http://b:1"], key = "two"}'))
    assert other.told.changed == ["replicas of far"]
    assert other.told.kept == ["models"]
    assert other.settings.served()["far"].replicas.key == before.served()["far"].replicas.key  # type: ignore[union-attr]
    assert changes_of(before, before).told.changed == []
