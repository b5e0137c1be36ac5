"""HTTP to one server: its addresses, keys and certificates, every wait with a limit, nothing read without a bound.

It is aiohttp and not httpx, which Ponder uses elsewhere: of a stream of tokens httpx costs 0.1 ms a token, five times
as much (`bench/replicas.py`). A redirect is not followed, a proxy of the environment's is not asked, and what a server
says of an error is not read: it may quote the chain.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from pydantic import SecretStr

from ponder.compute.errors import EngineError, Lost, PonderError, RequestError
from ponder.compute.groups import TaskGroup
from ponder.engines.replicas.replica import NotTaken

CONNECT_SECONDS = 10.0
"""To be connected."""
HEAD_SECONDS = 60.0
"""From a call to the first byte of its answer, which vLLM sends before it has made a token."""
LOOK_SECONDS = 5.0
"""For a short answer, whole: health, metrics, what is served."""
CONNECTIONS = 4096
"""At a time. How many calls there are is bounded by `Slots`, not here."""
IDLE_SECONDS = 2.0
"""After which a connection is not used again: vLLM's server closes one after 5 s."""
BUFFER = 1 << 14
"""Bytes of an answer that are kept at a time, for who is slow to read it: twice as many at most."""
SHORT = 1 << 22
"""Bytes of a short answer at most; vLLM's metrics have 100 KB."""
AGAIN = 1.0
"""Seconds after which a server that takes no call now is asked again, where it does not say."""
LATEST = 120.0
"""The most that it may say."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached beside its address."""

    key: SecretStr | None = None
    """What it was started with as `--api-key`."""
    ca: Path | None = None
    """A file of certificates that vouch for its own, in the place of the machine's."""
    certificate: Path | None = None
    """A file with the certificate that is shown to it."""
    certificate_key: Path | None = None
    """The file with the key of that; None: it is in the same file."""
    name: str | None = None
    """What its certificate is for and what it is asked by, where its address is a number that DNS has for a name."""


def address(url: str) -> str:
    """The address as it is used: without a slash at its end. Raises `EngineError` for one that is none."""
    parts = urlsplit(url.strip())
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise EngineError("the address of a vLLM server is like http://host:8000")
    if parts.username or parts.password:
        raise EngineError(f"the key of the server at {parts.hostname} is set apart from its address, as its key")
    if parts.query or parts.fragment:
        raise EngineError(f"the address of the server at {parts.hostname} has something behind its path")
    return url.strip().rstrip("/").removesuffix("/v1")


def context_of(access: Access) -> ssl.SSLContext | bool:
    """How TLS is spoken. Raises `EngineError` for a file that cannot be used."""
    if access.ca is None and access.certificate is None:
        return True
    try:
        made = ssl.create_default_context(cafile=None if access.ca is None else str(access.ca))
    except (OSError, ssl.SSLError) as error:
        raise EngineError(f"the certificates in {access.ca} cannot be used ({error})") from None
    if access.certificate is not None:
        try:
            made.load_cert_chain(access.certificate, access.certificate_key)
        except (OSError, ssl.SSLError) as error:
            raise EngineError(f"the certificate in {access.certificate} cannot be used ({error})") from None
    return made


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer that has begun."""

    response: aiohttp.ClientResponse
    cancelled: asyncio.CancelledError | None = None
    """Nobody waits for it any more; to be raised."""


class Connection:
    """All connections to one server, for one event loop."""

    def __init__(self, url: str, access: Access, who: str) -> None:
        """`who` it is, for errors. Raises `EngineError` for an address or a file that cannot be used."""
        self.url, self.who = address(url), who
        headers = {"Accept-Encoding": "identity"}
        self._name = access.name
        if self._name is not None:
            headers["Host"] = f"{self._name}:{urlsplit(self.url).port or 443}"
        if access.key is not None:
            headers["Authorization"] = f"Bearer {access.key.get_secret_value()}"
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS, keepalive_timeout=IDLE_SECONDS, ssl=context_of(access), ttl_dns_cache=10
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=BUFFER,
        )

    @property
    def closed(self) -> bool:
        return self._session.closed

    async def close(self) -> None:
        """Ends all exchanges. Idempotent."""
        await self._session.close()

    async def short(self, path: str, asked: Mapping[str, Any] | None = None) -> bytes:
        """A short answer, whole. Raises `EngineError`."""
        try:
            async with asyncio.timeout(LOOK_SECONDS), self.call(path, asked, {}) as exchange:
                body = bytearray()
                while part := await self.part(exchange.response):
                    body += part
                    if len(body) > SHORT:
                        raise EngineError(f"{self.who} answers {path} with more than {SHORT} bytes")
                return bytes(body)
        except TimeoutError:
            raise Lost(f"{self.who} has not answered {path} within {LOOK_SECONDS:.0f} s") from None

    async def part(self, response: aiohttp.ClientResponse) -> bytes:
        """What has come of an answer, at least a byte; none at its end. Raises `Lost` where it is broken off."""
        try:
            return await response.content.readany()
        except aiohttp.ClientError as error:
            raise Lost(f"{self.who} broke off its answer ({type(error).__name__})") from None

    @asynccontextmanager
    async def call(
        self, path: str, asked: Mapping[str, Any] | None, headers: Mapping[str, str], *, patience: float = 0.0
    ) -> AsyncGenerator[Exchange]:
        """One exchange, whose answer can be read within the block; where it was not read to its end, the connection is
        closed, by which vLLM stops. Who is cancelled before there is an answer waits `patience` seconds for it, and is
        told in `Exchange.cancelled`. Raises `NotTaken` where the server took no call, `RequestError` where it refuses
        this one, `EngineError` where it is not what it should be."""
        cancelled: asyncio.CancelledError | None = None
        if patience:
            begun, cancelled = await self._begun_patiently(path, asked, headers, patience)
        else:
            begun = await self._tried(path, asked, headers)
        if isinstance(begun, PonderError):
            raise begun if cancelled is None else cancelled
        response = begun
        try:
            self._check(response, path)
            yield Exchange(response, cancelled)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _begun_patiently(
        self, path: str, asked: Mapping[str, Any] | None, headers: Mapping[str, str], patience: float
    ) -> tuple[aiohttp.ClientResponse | PonderError, asyncio.CancelledError | None]:
        """What became of a request, also for who is cancelled meanwhile, and that."""
        async with TaskGroup() as group:
            begun = group.create_task(self._tried(path, asked, headers))
            try:
                return await asyncio.shield(begun), None
            except asyncio.CancelledError as cancelled:
                try:
                    return await asyncio.wait_for(begun, patience), cancelled
                except TimeoutError:
                    raise cancelled from None

    async def _tried(
        self, path: str, asked: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse | PonderError:
        try:
            return await self._begun(path, asked, headers)
        except PonderError as error:
            return error

    async def _begun(
        self, path: str, asked: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self.closed:
            raise Lost(f"{self.who} is closed")
        method, sent = "GET" if asked is None else "POST", False
        for again in (True, False):
            try:
                async with asyncio.timeout(HEAD_SECONDS):
                    return await self._session.request(
                        method,
                        self.url + path,
                        json=asked,
                        headers=headers,
                        allow_redirects=False,
                        server_hostname=self._name,
                    )
            except aiohttp.ServerDisconnectedError:
                # It has just closed a connection that was idle; nothing of the call was answered.
                sent = True
                if not again:
                    raise NotTaken(f"{self.who} closes the connection", retry_after=AGAIN, sent=True) from None
            except aiohttp.ClientConnectorCertificateError:
                raise EngineError(f"{self.who} shows a certificate that nothing here vouches for: set its ca") from None
            except aiohttp.ClientSSLError as error:
                raise EngineError(f"{self.who} does not speak TLS as it should ({type(error).__name__})") from None
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                words = f"{self.who} cannot be reached ({type(error).__name__})"
                raise NotTaken(words, retry_after=AGAIN, sent=sent) from None
            except TimeoutError as error:
                words = f"{self.who} cannot be reached ({type(error).__name__})"
                raise NotTaken(words, retry_after=AGAIN, sent=True) from None
            except aiohttp.ClientOSError as error:
                words = f"{self.who} broke the connection ({type(error).__name__})"
                raise NotTaken(words, retry_after=AGAIN, sent=True) from None
            except aiohttp.ClientError as error:
                raise EngineError(f"{self.who} does not speak HTTP as it should ({type(error).__name__})") from None
        raise AssertionError

    def _check(self, response: aiohttp.ClientResponse, path: str) -> None:
        """Raises unless an answer follows that can be read."""
        status, where = response.status, f"{self.who} answers {path} with status {response.status}"
        if status == 200:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                # A few bytes may stand for any number of them.
                raise EngineError(f"{self.who} answers {path} compressed: is there a proxy that does it?")
            return
        if status in (401, 403):
            raise EngineError(f"{where}: it wants another key")
        if status == 400:
            raise RequestError("the engine refuses the sampling parameters of this request")
        if 300 <= status < 400:
            raise EngineError(f"{where}, which leads elsewhere: give the address that it leads to")
        if status in (429, 503):
            wait = seconds(response.headers.get("retry-after"))
            raise NotTaken(where, retry_after=wait, answered=True)
        if status >= 500:
            raise Lost(where)
        raise EngineError(f"{where}: is it a vLLM server, and does it serve this model?")


def seconds(said: str | None) -> float:
    """What `Retry-After` says, within bounds; a date counts as nothing."""
    text = (said or "").strip()
    return min(LATEST, float(text)) if text.isascii() and text.isdecimal() and len(text) < 10 else AGAIN
