"""`ponder ledger` as it is typed."""

from __future__ import annotations

import csv
import json
import sqlite3
from io import StringIO
from pathlib import Path

import pytest

from ponder.__main__ import main
from ponder.metering.ledger import NoLedger
from tests.metering.ledgers import rows
from tests.metering.test_upkeep import filled


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger that the configuration names, with three rows."""
    monkeypatch.chdir(tmp_path)
    found = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("PONDER_LEDGER__URL", found)
    return found


def ponder(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr()
    assert ended.value.code == status, told
    return told.out if status == 0 else told.err


def test_a_ledger_is_looked_after_from_the_command_line(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no ledger at" in ponder(capsys, "ledger", "status", status=1)
    assert "before: empty" in ponder(capsys, "ledger", "migrate")
    assert "already" in ponder(capsys, "ledger", "migrate")
    filled(address)
    told = ponder(capsys, "ledger", "status")
    assert f"ledger    {tmp_path}/ledger.db" in told
    assert "requests  3, from 20" in told
    assert "3 requests are in copy.db" in ponder(capsys, "ledger", "backup", "copy.db")
    assert "there already" in ponder(capsys, "ledger", "backup", "copy.db", status=1)
    assert "1 requests are erased" in ponder(capsys, "ledger", "erase", "u-1")
    assert "no longer name" in ponder(capsys, "ledger", "erase", "u-2", "--keep-counts")
    assert "1 requests are put into" in ponder(capsys, "ledger", "restore", "copy.db")
    assert len(rows(address)) == 3
    assert "0 requests older than 9 days" in ponder(capsys, "ledger", "expire", "--days", "9")


@pytest.mark.parametrize("days", ["-1", "0", "36501", "9" * 30, "x"])
def test_a_slip_of_the_sign_deletes_nothing(days: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    filled(address, users=1)
    assert "from 1 to 36500" in ponder(capsys, "ledger", "expire", f"--days={days}", status=2)
    assert len(rows(address)) == 1


def test_a_place_that_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PONDER_LEDGER__URL", f"sqlite:///{tmp_path}/file/ledger.db")
    assert "file" in ponder(capsys, "ledger", "migrate", status=1)
    with pytest.raises(NoLedger, match="names another place"):
        filled(f"sqlite:///{tmp_path}/file/ledger.db")


def test_rows_are_written_as_text_that_a_spreadsheet_does_not_run(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(address)
    with sqlite3.connect(address.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE requests SET user = '=cmd()' WHERE id = 'req_1'")
    connection.close()
    table = list(csv.DictReader(StringIO(ponder(capsys, "ledger", "export"))))
    assert [row["id"] for row in table] == ["req_0", "req_1", "req_2"]
    assert table[1]["user"] == "'=cmd()"
    assert json.loads(table[0]["metadata"]) == {"secret": "word-0"}
    lines = [json.loads(line) for line in ponder(capsys, "ledger", "export", "--format", "json").splitlines()]
    assert [line["thinking"] for line in lines] == [300, 300, 300]
    assert lines[1]["user"] == "=cmd()"
    assert ponder(capsys, "ledger", "export", "--format", "json", "--start", "2100-01-01") == ""
    assert "a time is" in ponder(capsys, "ledger", "export", "--start", "yesterday", status=1)


def test_a_ledger_that_is_switched_off_or_cannot_be_meant_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PONDER_LEDGER__URL", "none")
    assert "switches the ledger off" in ponder(capsys, "ledger", "status", status=1)
    monkeypatch.setenv("PONDER_LEDGER__URL", "mysql://me:secret@host/db")
    told = ponder(capsys, "ledger", "status", status=2)
    assert "a ledger is kept in PostgreSQL" in told
    assert "secret" not in told
