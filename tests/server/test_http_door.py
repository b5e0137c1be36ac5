"""Who gets a connection and what it may carry, over real sockets: addresses, names, unread bodies, hang-ups."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from ponder.server.http.server import run
from ponder.server.http.sockets import CannotListen, bind, check_tls, listen, url_of
from ponder.server.settings import KeySettings, Limits, Settings
from ponder.testing import Chain, ScriptedEngine
from tests.needs import tool
from tests.server.serving import ASK, ask, door, its_door, refused, scripted
from tests.server.test_listen import code_of, hello, nothing, say, streamed

KEYS = [KeySettings(name="ann", hash="sha256:" + "0" * 64)]
GET = b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n"

Talk = Callable[[str, int], Awaitable[None]]


def served(
    talk: Talk,
    app: Any = hello,
    settings: Settings | None = None,
    drain: Callable[[], Awaitable[None]] = nothing,
    hurry: Callable[[], None] = lambda: None,
) -> None:
    """Runs the server around `talk`, and ends it by a signal."""

    async def all_of_it() -> None:
        sock = bind("127.0.0.1", 0)
        listen(sock)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            server = group.create_task(run(app, settings or Settings(), sock, drain, lambda _: None, hurry))
            await asyncio.sleep(0.05)
            try:
                await talk(*sock.getsockname())
            finally:
                if not server.done():
                    os.kill(os.getpid(), signal.SIGTERM)

    asyncio.run(all_of_it())


async def pieces(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers in two pieces, without a length."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})


async def true(fact: Callable[[], object]) -> None:
    """Waits for what comes about in the server."""
    async with asyncio.timeout(50):
        while not fact():  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(0.02)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "keys", "status"),
    [
        (b"GET / HTTP/1.1\r\n", False, 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n", False, 400),
        (b"GET / HTTP/1.1\r\nhost: localhost,evil.example\r\n", False, 400),
        (b"GET / HTTP/1.1\r\nhost: localhost@evil.example\r\n", False, 400),
        (b"GET / HTTP/1.0\r\nhost: a\r\nhost: a\r\n", True, 400),
        (b"GET / HTTP/1.1\r\n", True, 400),
        (b"GET / HTTP/1.1\r\nhost: evil.example\r\n", False, 403),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1.evil.example:80\r\n", False, 403),
        (b"GET / HTTP/1.1\r\nhost:\r\n", False, 403),
        (b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\n", False, 403),
        (b"GET / HTTP/1.1\r\nhost: evil.example\r\n", True, 200),
        (b"GET / HTTP/1.0\r\n", False, 200),
        (b"GET / HTTP/1.1\r\nhost: LocalHost:8000\r\n", False, 200),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n", False, 200),
        (b"GET / HTTP/1.1\r\nhost: [::1]:8000\r\n", False, 200),
        (b"GET / HTTP/1.1\r\nhost: ponder.lan\r\n", False, 200),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\ncontent-length: 0\r\n", False, 403),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\norigin: null\r\ncontent-length: 0\r\n", False, 403),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\norigin: https://good.example\r\ncontent-length: 0\r\n", False, 200),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost:3000\r\ncontent-length: 0\r\n", False, 200),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\ncontent-length: 0\r\n", True, 200),
    ],
)
def test_a_request_names_its_server_once_and_without_keys_by_a_name_of_this_machine(
    head: bytes, keys: bool, status: int
) -> None:
    async def talk(host: str, port: int) -> None:
        got, _, body = await say(host, port, head + b"\r\n")
        assert got == status
        if status != 200:
            assert code_of(body) in ("invalid_host", "host_not_allowed", "origin_not_allowed")

    more: dict[str, Any] = {"hosts": ["ponder.lan"], "cors_origins": ["https://good.example"]}
    served(talk, settings=Settings(keys=KEYS if keys else [], **more))


def test_a_body_without_a_type_as_a_page_of_another_site_can_send_it_is_refused() -> None:
    refused(ask(door(scripted()), content=b"{}"), 415, "unsupported_media_type")


def test_pages_of_the_sites_that_are_listed_may_ask_and_read_what_they_are_told() -> None:
    app = door(scripted(), Settings(cors_origins=["https://good.example"]))
    good, evil = {"origin": "https://good.example"}, {"origin": "https://evil.example"}
    wish = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    asked = ask(app, "OPTIONS", headers=good | wish)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://good.example"
    assert asked.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "access-control-allow-credentials" not in asked.headers
    # A kept response is deleted by its client.
    deletes = good | wish | {"access-control-request-method": "DELETE"}
    assert ask(app, "OPTIONS", url="/v1/responses/resp_1", headers=deletes).status_code == 200
    told = ask(app, headers=good, json=ASK)
    assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert "x-request-id" in told.headers["access-control-expose-headers"]
    assert ask(app, headers=good, json={}).headers["access-control-allow-origin"] == "https://good.example"
    refused(ask(app, "OPTIONS", headers=evil | wish), 400, "origin_not_allowed")
    assert "access-control-allow-origin" not in ask(app, headers=evil, json=ASK).headers
    assert "access-control-allow-origin" not in ask(door(scripted()), headers=good, json=ASK).headers


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"])
def test_a_caller_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection(head: bytes) -> None:
    async def talk(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(head)
        told = await asyncio.wait_for(reader.read(), 50)
        assert b"transfer-encoding" not in told
        assert told.endswith(b"\r\n\r\none two")
        writer.close()

    served(talk, pieces)


def test_a_connection_is_kept_longer_than_load_balancers_keep_theirs() -> None:
    assert Limits().idle_timeout > 60

    async def talk(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(GET % b"/")
        assert (await streamed(reader))[0] == 200
        assert await asyncio.wait_for(reader.read(), 50) == b""
        writer.close()

    served(talk, settings=Settings(limits=Limits(idle_timeout=0.2)))


# -- places ------------------------------------------------------------------------------------------------------------


async def kept(host: str, port: int, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from one of this machine's addresses, with a request answered."""
    reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
    writer.write(GET % b"/")
    assert (await streamed(reader))[0] == 200
    return reader, writer


async def from_(host: str, port: int, source: str, path: bytes = b"/") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
    writer.write(GET % path)
    status, _, body = await streamed(reader)
    writer.close()
    return status, body


def test_connections_of_one_address_are_bounded_and_others_get_in() -> None:
    async def talk(host: str, port: int) -> None:
        ones = [await kept(host, port, "127.0.0.1") for _ in range(2)]
        status, body = await from_(host, port, "127.0.0.1")
        assert (status, code_of(body)) == (503, "too_many_connections")
        assert b"from this address" in body
        assert (await from_(host, port, "127.0.0.2"))[0] == 200
        ones.pop()[1].close()
        await asyncio.sleep(0.05)
        assert (await from_(host, port, "127.0.0.1"))[0] == 200
        ones[0][1].close()

    served(talk, settings=Settings(limits=Limits(connections_per_address=2)))


def test_probes_are_answered_while_the_door_is_full_however_many_silent_callers_wait_before_it() -> None:
    async def talk(host: str, port: int) -> None:
        inside = [await kept(host, port, "127.0.0.1") for _ in range(3)]
        silent = [await asyncio.open_connection(host, port) for _ in range(100)]
        for path in (b"/livez", b"/readyz", b"/readyz?verbose"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(GET % path)
            status, headers, _ = await streamed(reader)
            assert (status, headers["connection"]) == (200, "close")
            writer.close()
        assert (await from_(host, port, "127.0.0.1"))[0] == 503
        assert await asyncio.wait_for(silent[0][0].read(), 50) == b""
        for _, writer in (*inside, *silent):
            writer.close()

    served(talk, settings=Settings(limits=Limits(connections=3)))


def test_where_file_descriptors_run_out_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(host: str, port: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft >= min(hard, Limits().connections)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
        taken: list[int] = []
        try:
            while True:
                try:
                    taken.append(os.dup(0))
                except OSError:
                    break
            await true(lambda: "out of file descriptors" in caplog.text)
        finally:
            for one in taken:
                os.close(one)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    served(talk)


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_a_refusal_reaches_a_caller_who_is_still_sending() -> None:
    app = door(scripted())
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

    def send_all(host: str, port: int, framing: bytes, body: bytes) -> bytes:
        with socket.create_connection((host, port), 20) as sock:
            sock.sendall(head + framing + b"\r\n\r\n")
            for at in range(0, len(body), 1 << 16):
                sock.sendall(body[at : at + (1 << 16)])
            told = b""
            while more := sock.recv(1 << 16):
                told += more
        return told

    async def talk(host: str, port: int) -> None:
        size = 24 << 20
        told = await asyncio.to_thread(send_all, host, port, b"content-length: %d" % size, b"x" * size)
        assert told.startswith(b"HTTP/1.1 413 ")
        assert b"body_too_large" in told
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        told = await asyncio.to_thread(send_all, host, port, b"transfer-encoding: chunked", chunk * 256)
        assert told.startswith(b"HTTP/1.1 413 ")
        told = await asyncio.to_thread(send_all, host, port, b"x: " + b"y" * (8 << 20), b"")
        assert told.startswith(b"HTTP/1.1 431 ")

    served(talk, app)


@pytest.mark.parametrize("behind", [b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", b"junk\r\n\r\n", b"POST"])
def test_a_hang_up_behind_pipelined_bytes_is_noticed(behind: bytes) -> None:
    gone = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["path"] == "/first"
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

    async def talk(host: str, port: int) -> None:
        for _ in range(2):
            gone.clear()
            _, writer = await asyncio.open_connection(host, port)
            body = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999\r\n\r\n" + b"x" * 999_999
            writer.write(GET % b"/first" + (body if behind == b"POST" else behind * 5000))
            await asyncio.sleep(0.2)
            writer.close()
            await asyncio.wait_for(gone.wait(), 50)

    served(talk, waits)


# -- the log -----------------------------------------------------------------------------------------------------------


def test_the_access_log_has_the_requests_id_and_its_route_and_nothing_else_of_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids: list[str] = []

    async def talk(host: str, port: int) -> None:
        good, forged = GET % b"/v1/models?api_key=sk-secret&a=b", GET % b"/a%0Aforged?sk-secret"
        model, trace = GET % b"/v1/models/sk-secret", GET % b"/v1/traces/sk-secret?a"
        for head in (good, forged, b"GET /?sk-secret\r\n\r\n", model, trace):
            _, headers, _ = await say(host, port, head)
            ids.append(headers["x-request-id"])

    with caplog.at_level(logging.DEBUG):
        served(talk, door(scripted()), Settings(access_log=True))
    assert "secret" not in caplog.text
    assert "\nforged" not in caplog.text
    lines = [record.getMessage() for record in caplog.records if record.name == "ponder.access"]
    assert [line.split()[0] for line in lines] == ids
    assert lines[0].endswith('"GET /v1/models HTTP/1.1" 200')
    assert lines[1].endswith('"GET - HTTP/1.1" 404')
    assert lines[3].endswith('"GET /v1/models/{id:path} HTTP/1.1" 404')
    assert lines[4].endswith('"GET /v1/traces/{id} HTTP/1.1" 404')
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        served(talk, door(scripted()))
    assert not [record for record in caplog.records if record.name.endswith("access")]


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_the_door_speaks_tls_and_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    openssl = tool("openssl", "openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = [openssl, *made.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    check_tls(cert, key)

    async def talk(host: str, port: int) -> None:
        context = ssl.create_default_context(cafile=str(cert))
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="localhost")
        writer.write(GET % b"/")
        assert (await streamed(reader))[0] == 200
        writer.close()

    served(talk, settings=Settings(tls_cert=cert, tls_key=key))
    with bind("127.0.0.1", 0) as sock:
        assert url_of(sock, "https").startswith("https://127.0.0.1:")
    with pytest.raises(CannotListen, match=r"--tls-cert .*nowhere"):
        check_tls(tmp_path / "nowhere", key)
    with pytest.raises(CannotListen, match="no certificate chain and its private key"):
        check_tls(key, cert)
    secret = tmp_path / "secret.pem"
    command = [openssl, "rsa", "-aes128", "-passout", "pass:secret", "-in", str(key), "-out", str(secret)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with pytest.raises(CannotListen, match="without a password"):
        check_tls(cert, secret)


# -- going down --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_more_signals_end_it_sooner_and_callers_are_told_in_openais_shape(stream: bool, stuck: bool) -> None:
    """After the second each answers with its best; a third does not wait for that."""
    engine = ScriptedEngine(lambda p, t, c: Chain("t" * 10, "a" * 100_000), delay=100 if stuck else 0.001)
    app = door(engine)
    handle = its_door(app)

    async def talk(host: str, port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://localhost:{port}", timeout=50) as client:
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(client.post("/v1/chat/completions", json=ASK | {"stream": stream}))
                await true(lambda: engine.running)
                for _ in range(3 if stuck else 2):
                    os.kill(os.getpid(), signal.SIGTERM)
                    await asyncio.sleep(0.2)
            told = asked.result()
        if not stuck:
            assert told.status_code == 200
            assert '"stopped_by":"draining"' in told.text.replace(": ", ":")
        elif stream:
            assert told.text.rstrip().endswith("}}")
            assert '"code":"draining"' in told.text.replace(": ", ":")
            assert "[DONE]" not in told.text
        else:
            refused(told, 503, "draining")
            assert int(told.headers["retry-after"]) > 0
        assert engine.running == 0

    served(talk, app, drain=handle.drain, hurry=handle.hurry)
