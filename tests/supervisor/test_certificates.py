"""Certificates and keys that change while it serves: the server's own, an upstream's key, a trusted authority."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import ssl
from pathlib import Path

import pytest

from proxy.simulator.certificates import Authority
from proxy.wire.certificate import Certificate, CertificateError
from proxy.wire.connect import Connector, Resolver
from tests.patience import PATIENCE_S
from tests.supervisor.conftest import until
from tests.supervisor.test_real_workers import Serve, Upstream, cards, serve, upstream

__all__ = ["cards", "serve", "upstream"]


def put(pair: tuple[Path, Path], cert: Path, key: Path) -> None:
    shutil.copy(pair[0], cert)
    shutil.copy(pair[1], key)


def shown(address: str, trusting: ssl.SSLContext) -> bytes | None:
    """The certificate that a new connection is shown, in DER."""
    connection = http.client.HTTPSConnection(address, timeout=PATIENCE_S, context=trusting)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    found: bytes | None = connection.sock.getpeercert(binary_form=True)
    connection.close()
    return found


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(
        path.read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    )


async def test_a_renewed_certificate_is_shown_to_new_connections(serve: Serve, tmp_path: Path) -> None:
    """Without a restart; the connection of before goes on; a pair that doesn't fit changes nothing and is told."""
    authority = Authority(tmp_path)
    first, second = authority.issue(), authority.issue()
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"
    put(first, cert, key)
    async with serve(workers=2, tls={"cert": str(cert), "key": str(key)}) as here:
        trusting = authority.trusting()
        assert await asyncio.to_thread(shown, here.address, trusting) == der(first[0])
        kept = http.client.HTTPSConnection(here.address, timeout=PATIENCE_S, context=trusting)
        await asyncio.to_thread(kept.request, "GET", "/healthz")  # who says nothing isn't kept for long
        kept.getresponse().read()
        shutil.copy(second[0], cert)  # its key isn't there yet
        await until(lambda: not here.supervisor.status().config_valid)
        assert {await asyncio.to_thread(shown, here.address, trusting) for _ in range(6)} == {der(first[0])}
        assert any("can't be used" in line["problem"] for line in here.log("configuration"))
        shutil.copy(second[1], key)
        await until(lambda: here.supervisor.status().config_valid)  # said once all workers have it
        assert {await asyncio.to_thread(shown, here.address, trusting) for _ in range(6)} == {der(second[0])}
        await asyncio.to_thread(kept.request, "GET", "/healthz")
        assert kept.getresponse().status == 200
        kept.close()


async def test_an_upstreams_key_file_is_followed(serve: Serve, upstream: tuple[Upstream, str], tmp_path: Path) -> None:
    """The next call shows the new key; a file that holds none keeps the old one."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    file = tmp_path / "key"
    file.write_text("sk-first\n")
    async with serve(upstreams={"up": {"url": url, "key": {"file": str(file)}}}) as here:

        async def key() -> bytes:
            def ask() -> None:
                connection = http.client.HTTPConnection(here.address, timeout=PATIENCE_S)
                body = '{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
                connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                connection.getresponse().read()
                connection.close()

            await asyncio.to_thread(ask)
            return heads[-1].lower().partition(b"authorization: bearer ")[2].split(b"\r")[0]

        async def shows(wanted: bytes) -> bool:
            return await key() == wanted

        assert await key() == b"sk-first"
        file.write_text("sk-second\n")
        await until(lambda: shows(b"sk-second"))
        file.write_text("\n")
        await until(lambda: not here.supervisor.status().config_valid)
        assert await key() == b"sk-second"
    server.close()


def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    """Neither one that is no certificate, nor one whose key is encrypted, nor one that isn't there."""
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    certificate = Certificate()
    certificate.load(cert, key)
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for pair in ((junk, key), (cert, junk), (tmp_path / "absent", key)):
        with pytest.raises(CertificateError, match="can't be used"):
            certificate.load(*pair)


async def test_another_authority_is_trusted_from_the_next_connection_on(tmp_path: Path) -> None:
    """What a CA file holds is read again when it has changed; a broken one keeps the old."""
    old, new = Authority(tmp_path, "Old"), Authority(tmp_path, "New")
    ca = tmp_path / "ca.pem"
    shutil.copy(old.path, ca)
    connector = Connector(Resolver())
    before = connector.context(str(ca))
    connector.reread()
    assert connector.context(str(ca)) is before
    ca.write_text("nonsense")
    with pytest.raises(ValueError, match="can't be used"):
        connector.reread()
    assert connector.context(str(ca)) is before
    shutil.copy(new.path, ca)
    connector.reread()
    names = {
        dict(pair[0] for pair in one["subject"])["commonName"] for one in connector.context(str(ca)).get_ca_certs()
    }
    assert names == {"New"}
