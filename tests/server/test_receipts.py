"""Receipts of a server: who is given one, what it is checked with, and what becomes of one that was changed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from argparse import Namespace
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ponder.compute.lengths import Lengths
from ponder.metering.receipt_keys import NoKey, remember
from ponder.metering.receipts import Signer, as_text, key_id, read, read_keys, verify
from ponder.server.auth.keys import digest
from ponder.server.commands.receipt import run
from ponder.server.receipts import signing
from ponder.server.registry import Registry
from ponder.server.settings import KeySettings, ReceiptSettings, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine, ScriptedRewards, always
from tests.metering.ledgers import rows
from tests.server.ledgered import Ledgered, ledgered, options, told
from tests.server.serving import refused

SCOPES = {
    "mine": ["infer", "usage", "trace"],
    "other": ["infer", "usage"],
    "boss": ["infer", "usage", "trace", "admin", "reveal"],
    "plain": ["infer"],
}
CHAINS = (Chain(f"{MARKER} three\nand four\n", "It is 7."), Chain(f"{MARKER} or\nnine\n", "It is 9."))


def a_signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def on_a_server(folder: Path, signer: Signer | None, **more: Any) -> AsyncGenerator[Ledgered]:
    keys = [KeySettings.model_validate({"name": k, "hash": digest(k), "scopes": s}) for k, s in SCOPES.items()]
    coarse = {"name": "coarse", "hash": digest("coarse"), "scopes": ["infer"], "coarse_tokens": 64}
    settings = Settings(keys=[*keys, KeySettings.model_validate(coarse)], **more)
    engine, rewards = ScriptedEngine(always(*CHAINS)), ScriptedRewards(lambda line: len(line) / 100)
    address = f"sqlite:///{folder}/ledger.db"
    parts: dict[str, Any] = {"reward_model": rewards, "lengths": Lengths(20, 40), "signer": signer}
    async with ledgered(engine, address, settings, **parts) as on:
        yield on


async def got(on: Ledgered, url: str, key: str) -> Any:
    response = await on.get(url, headers=bearer(key))
    assert response.status_code == 200, response.text
    return response.json()


def receipt_of(response: httpx.Response, stream: bool = False) -> str:
    return told(response, stream)["thinking"]["receipt"]


def checked(folder: Path, what: Any, key: Any = None, trace: Any = None) -> tuple[int, str]:
    """What the command says of a file."""
    out, errors = io.StringIO(), io.StringIO()
    for name, content in (("file", what), ("key", key), ("trace", trace)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    given = Namespace(
        file=str(folder / "file"), key=str(folder / "key"), trace=None if trace is None else str(folder / "trace")
    )
    status = run(given, out, errors)
    assert bool(out.getvalue()) != bool(errors.getvalue())
    return status, out.getvalue() + errors.getvalue()


@pytest.mark.parametrize("stream", [False, True])
def test_a_receipt_comes_with_the_answer_and_again_later(stream: bool, tmp_path: Path) -> None:
    async def go() -> None:
        signer = a_signer()
        async with on_a_server(tmp_path, signer) as on:
            response = await on.chat(bearer("mine"), strategy="best_of_n", thinking_budget=400, **options(stream))
            receipt, request = receipt_of(response, stream), response.headers["x-request-id"]
            claims = verify(receipt, [signer.public])
            assert (claims["id"], claims["key"], claims["strategy"]) == (request, "mine", "best_of_n")
            assert await got(on, f"/v1/receipts/{request}", "mine") == {
                "id": request,
                "object": "receipt",
                "receipt": receipt,
                "claims": claims,
            }
            assert (await got(on, f"/v1/usage/{request}", "mine"))["receipt"] == receipt
            # The salt, and with it a way to try short thoughts, is for those alone who may see thoughts.
            shown = await got(on, f"/v1/receipts/{request}", "boss")
            assert shown["salt"] == signer.salt(request).hex()
            for url in (f"/v1/receipts/{request}", f"/v1/usage/{request}", "/v1/receipts/key"):
                said = await on.get(url, headers=bearer("mine"))
                assert shown["salt"] not in said.text
            assert shown["salt"] not in response.text
            for key, status in (("other", 404), ("plain", 403)):
                refused(await on.get(f"/v1/receipts/{request}", headers=bearer(key)), status)
            refused(await on.get("/v1/receipts/req_no", headers=bearer("boss")), 404, code="request_not_found")
            assert MARKER not in receipt + str(claims) + str(on.rows)

    asyncio.run(go())


def test_who_sees_coarse_numbers_has_no_receipt_and_no_server_without_a_key_makes_one(tmp_path: Path) -> None:
    async def go(signer: Signer | None, key: str) -> None:
        (tmp_path / key).mkdir()
        async with on_a_server(tmp_path / key, signer) as on:
            for stream in (False, True):
                response = await on.chat(bearer(key), thinking_budget=640, **options(stream))
                assert "receipt" not in told(response, stream)["thinking"]
                request = response.headers["x-request-id"]
                assert on.rows[request]["receipt"] is None
                late = await on.get(f"/v1/receipts/{request}", headers=bearer("boss"))
                refused(late, 404, code="receipt_not_found")

    asyncio.run(go(a_signer(), "coarse"))
    asyncio.run(go(None, "mine"))


def test_old_keys_and_those_of_other_servers_stay_listed(tmp_path: Path) -> None:
    async def go() -> None:
        old, new = a_signer(), a_signer()
        async with on_a_server(tmp_path, old) as on:
            remember(on.ledger.place, old.public)
            response = await on.chat(bearer("mine"))
        async with on_a_server(tmp_path, new) as on:
            remember(on.ledger.place, new.public)
            remember(on.ledger.place, new.public)
            listed = await on.get("/v1/receipts/key", headers=bearer("plain"))
            refused(await on.get("/v1/receipts/key"), 401)
            assert [key["kid"] for key in listed.json()["keys"]] == [new.id, old.id]
            status, words = checked(tmp_path, response.json(), listed.text)
            assert status == 0, words
            request = response.headers["x-request-id"]
            # Its salt went with the key that is no longer here.
            assert "salt" not in await got(on, f"/v1/receipts/{request}", "boss")
            pems = "".join(key["pem"] for key in listed.json()["keys"])
            assert checked(tmp_path, receipt_of(response), pems)[0] == 0

    asyncio.run(go())


def test_an_answer_that_says_something_else_than_its_receipt_is_refused(tmp_path: Path) -> None:
    async def go() -> tuple[Any, Any, str, str]:
        signer = a_signer()
        async with on_a_server(tmp_path, signer) as on:
            response = await on.chat(bearer("mine"), strategy="best_of_n", thinking_budget=400)
            streamed = await on.chat(bearer("mine"), **options(True))
            row = await got(on, f"/v1/usage/{response.headers['x-request-id']}", "mine")
            keys = (await on.get("/v1/receipts/key", headers=bearer("mine"))).text
            return response.json(), row, streamed.text, keys

    answer, row, stream, keys = asyncio.run(go())
    for genuine in (answer, row, stream, answer["thinking"]["receipt"]):
        status, words = checked(tmp_path, genuine, keys)
        assert status == 0, words
        assert "not that they were needed" in words

    def changed(whole: Any, *path: str) -> tuple[Any, str]:
        whole = json.loads(json.dumps(whole))
        place = whole
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] += 1
        return whole, path[-1]

    for whole, name in (
        changed(answer, "usage", "prompt_tokens"),
        changed(answer, "usage", "completion_tokens"),
        changed(answer, "usage", "completion_tokens_details", "reasoning_tokens"),
        changed(answer, "usage", "prompt_tokens_details", "cached_tokens"),
        changed(answer, "thinking", "verifier_tokens"),
        changed(answer, "thinking", "discarded_tokens"),
        changed(answer, "thinking", "cost_usd"),
        changed(row, "thinking"),
        changed(row, "wasted"),
        changed(row, "cost_nano_usd"),
    ):
        status, words = checked(tmp_path, whole, keys)
        assert (status, name in words) == (1, True), words
    # The receipt itself was changed: what it says now is not what the answer says.
    head, _, signature = answer["thinking"]["receipt"].split(".")
    dear = read(answer["thinking"]["receipt"])[1] | {"cost_nano_usd": 10**9, "price_version": "dear"}
    forged = json.loads(json.dumps(answer))
    forged["thinking"]["receipt"] = f"{head}.{as_text(json.dumps(dear).encode())}.{signature}"
    status, words = checked(tmp_path, forged, keys)
    assert (status, "was changed" in words, "cost_usd in nano-USD: it says" in words) == (1, True, True)
    assert "completion_tokens" not in words
    status, words = checked(tmp_path, answer, json.dumps({"keys": []}))
    assert (status, "no public key" in words) == (2, True)
    status, words = checked(tmp_path, answer["thinking"]["receipt"][:-1], keys)
    assert (status, "changed" in words) == (1, True)
    for nothing in ("", "no receipt", "{}", "{", "data: {}", "a.b.c", "[" * 9999):
        assert checked(tmp_path, nothing, keys)[0] == 2


def head_in_plain_words(salt: bytes, trace: Mapping[str, Any]) -> str:
    """The chain as `docs/metering.md` tells it, once more."""
    head = sha256(salt).digest()
    for i, answer in enumerate(trace["choices"]):
        for call in answer["calls"]:
            ids = sha256(salt + b"".join(number.to_bytes(4, "little") for number in call["ids"])).hexdigest()
            parent = -1 if call["parent"] is None else call["parent"]
            made = call["tokens"]
            link = f"call {i} {call['number']} {parent} {made['hidden']} {made['visible']} {made['wasted']} {ids}"
            head = sha256(head + link.encode()).digest()
        for number, asked in enumerate(answer["reads"]):
            chains = ",".join(str(chain) for chain in asked["chains"])
            link = f"read {i} {number} {asked['tokens']} {asked['cached']} {chains}"
            head = sha256(head + link.encode()).digest()
    return base64.urlsafe_b64encode(head).decode().rstrip("=")


def test_with_the_tokens_of_its_trace_a_receipt_is_checked_to_the_token(tmp_path: Path) -> None:
    async def go() -> None:
        signer = a_signer()
        async with on_a_server(tmp_path, signer, retain_text=True) as on:
            keys = (await on.get("/v1/receipts/key", headers=bearer("mine"))).text
            for strategy in sorted(Registry().strategies):
                wish = {"strategy": strategy, "verifier": "prm", "thinking_budget": 300, "n": 2}
                response = await on.chat(bearer("mine"), **wish)
                assert response.status_code == 200, response.text
                trace = await got(on, f"/v1/traces/{response.headers['x-request-id']}", "boss")
                status, words = checked(tmp_path, response.json(), keys, trace)
                assert (status, "are those that were signed" in words) == (0, True), (strategy, words)
                claims = read(receipt_of(response))[1]
                assert claims["chain"] == head_in_plain_words(bytes.fromhex(trace["salt"]), trace)
                for answer in trace["choices"]:
                    for call in answer["calls"]:
                        assert len(call["ids"]) == sum(call["tokens"][kind] for kind in ("hidden", "visible", "wasted"))
                # One token is another, one is hidden that is not, a call is another, and nobody is told the ids.
                call = next(call for call in trace["choices"][0]["calls"] if call["ids"])
                call["ids"][0] ^= 1
                status, words = checked(tmp_path, response.json(), keys, trace)
                assert (status, "token ids" in words) == (1, True)
                call["ids"][0] ^= 1
                call["tokens"]["hidden"] += 1
                assert checked(tmp_path, response.json(), keys, trace)[0] == 1
                call["tokens"]["hidden"] -= 1
                assert checked(tmp_path, response.json(), keys, trace)[0] == 0
                call["number"] += 1
                assert checked(tmp_path, response.json(), keys, trace)[0] == 1
                silent = await got(on, f"/v1/traces/{response.headers['x-request-id']}", "mine")
                assert "ids" not in str(silent)
                assert "salt" not in silent
                status, words = checked(tmp_path, response.json(), keys, silent)
                assert (status, "scope reveal" in words) == (2, True)
            assert MARKER not in str(rows(on.address))

    asyncio.run(go())


def test_nothing_that_is_kept_lets_a_short_thought_be_guessed(tmp_path: Path) -> None:
    """Whoever has the whole ledger, and guesses the thought, cannot tell that it was right."""

    async def go() -> None:
        signer = a_signer()
        async with on_a_server(tmp_path, signer) as on:
            response = await on.chat(bearer("mine"), thinking_budget=1)
            file = Path(on.address.removeprefix("sqlite:///"))
            salt = signer.salt(response.headers["x-request-id"])
            kept = b"".join(path.read_bytes() for path in file.parent.glob("ledger.db*"))
            assert receipt_of(response).encode() in kept
            assert salt not in kept
            assert salt.hex().encode() not in kept
            assert a_signer().salt(response.headers["x-request-id"]) != salt

    asyncio.run(go())


def test_the_public_keys_are_a_jwk_set_that_libraries_read(tmp_path: Path) -> None:
    async def go() -> str:
        async with on_a_server(tmp_path, signer) as on:
            return (await on.get("/v1/receipts/key", headers=bearer("plain"))).text

    signer = a_signer()
    (key,) = json.loads(asyncio.run(go()))["keys"]
    assert (key["kty"], key["crv"], key["alg"], key["kid"]) == ("OKP", "Ed25519", "EdDSA", signer.id)
    for text in (json.dumps(key), key["pem"]):
        assert [key_id(one) for one in read_keys(text)] == [signer.id]


def test_a_server_signs_with_the_key_of_its_settings_or_says_why_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    caplog.set_level("INFO")

    def started(**settings: Any) -> Signer | None:
        return asyncio.run(signing(ReceiptSettings(**settings), None))

    usual = started()
    assert usual is not None
    assert (tmp_path / "state/ponder/receipts.key").is_file()
    assert "a key for receipts is made" in caplog.text
    again, named = started(), started(key=tmp_path / "mine.pem")
    assert again is not None
    assert named is not None
    assert again.id == usual.id != named.id
    assert started(enabled=False) is None
    (tmp_path / "mine.pem").chmod(0o644)
    assert started(key=tmp_path / "mine.pem") is not None
    assert "others can read the key" in caplog.text
    # Where nobody names a file, a server without receipts is better than none.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert started() is None
    assert "no receipts" in caplog.text
    with pytest.raises(NoKey):
        started(key=tmp_path / "file" / "key")


def test_the_command_says_what_it_cannot_read(tmp_path: Path) -> None:
    """And a server that is not there is such a thing."""
    (tmp_path / "answer").write_text(a_signer().sign({}))
    for place, word in (
        (str(tmp_path / "nothing"), "No such file"),
        ("http://127.0.0.1:9", "does not answer"),
        (str(tmp_path / "answer"), "no public key"),
    ):
        errors = io.StringIO()
        assert run(Namespace(file=str(tmp_path / "answer"), key=place, trace=None), io.StringIO(), errors) == 2
        assert word in errors.getvalue()
