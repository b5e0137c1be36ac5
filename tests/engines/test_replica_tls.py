"""TLS to a vLLM server: a certificate authority of one's own, and a certificate that is shown to the server."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ponder.compute.errors import EngineError
from ponder.engines.replicas.connection import Access, context_of
from ponder.engines.replicas.membership import InDns, Listed, Together, certified
from ponder.engines.replicas.server import connect
from ponder.server.replicas import membership_of, reaching
from ponder.server.settings.replicas import ReplicaSettings
from tests.engines.scripted_server import ScriptedServer, known_of
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm

Signed = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificate(folder: Path, name: str, by: Signed | None = None, host: str | None = None) -> Signed:
    """Writes `name.pem`, the certificate and its key, for 127.0.0.1, or for the name of a host alone; signed by itself
    where nobody else does it."""
    whose = x509.IPAddress(ipaddress.ip_address("127.0.0.1")) if host is None else x509.DNSName(host)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, key) if by is None else (by[0].subject, by[1])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([whose]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return made, key


def test_only_a_server_that_is_vouched_for_is_used_and_it_is_shown_a_certificate(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "ca")
    certificate(tmp_path, "server", authority)
    certificate(tmp_path, "client", authority)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    tls.load_cert_chain(tmp_path / "server.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    both = Access(ca=tmp_path / "ca.pem", certificate=tmp_path / "client.pem")

    async def go() -> None:
        server = ScriptedServer(ScriptedVllm(FAMILIES["ids"], Nature()))
        known = known_of(server.llm, FAMILIES["ids"])
        async with server.serving(tls) as url:
            engine = await connect(url, known, access=both)
            await engine.health()
            await engine.close()
            with pytest.raises(EngineError, match="nothing here vouches for"):
                await connect(url, known)
            with pytest.raises(EngineError):
                await connect(url, known, access=Access(ca=tmp_path / "ca.pem"))
            with pytest.raises(EngineError):
                await connect(url.replace("https", "http"), known)

    asyncio.run(go())


def test_the_certificate_of_an_address_that_dns_has_is_checked_against_the_name(tmp_path: Path) -> None:
    certificate(tmp_path, "server", certificate(tmp_path, "ca"), host="localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "server.pem")

    async def go() -> None:
        server = ScriptedServer(ScriptedVllm(FAMILIES["ids"], Nature()))
        known = known_of(server.llm, FAMILIES["ids"])
        async with server.serving(tls) as url:
            port = url.rpartition(":")[2]
            settings = ReplicaSettings(dns=f"https://localhost:{port}", ca=tmp_path / "ca.pem")
            membership = membership_of(settings)
            found = await membership.read()
            assert found is not None
            assert url in found
            engine = await reaching(known, settings, lambda: membership)(url)
            await engine.health()
            await engine.close()
            # The number alone is in no certificate, and neither is another name.
            for name in (None, "other.test"):
                with pytest.raises(EngineError, match="nothing here vouches for"):
                    await connect(url, known, access=Access(ca=tmp_path / "ca.pem", name=name))

    asyncio.run(go())


def test_only_addresses_of_a_name_with_tls_are_certified_by_it() -> None:
    async def go() -> None:
        listed = Listed(["https://127.0.0.2:1"])
        for scheme, name in (("https", "localhost"), ("http", None)):
            both = Together([listed, InDns(f"{scheme}://localhost:1")])
            assert await both.read()
            assert certified(both, f"{scheme}://127.0.0.1:1") == name
            assert certified(both, "https://127.0.0.2:1") is None

    asyncio.run(go())


def test_a_file_of_certificates_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    for access in (
        Access(ca=tmp_path / "away.pem"),
        Access(ca=tmp_path / "no.pem"),
        Access(certificate=tmp_path / "no.pem"),
    ):
        with pytest.raises(EngineError, match=r"(away|no)\.pem"):
            context_of(access)
