"""The certificate that the data port shows, replaceable while it serves.

Rules:
1. A handshake sees the certificate and the key of one moment: both are read into memory first, tried together on a
   context of their own, and only then put into the one that serves. So a pair of which one file is still the old one,
   or a broken file, changes nothing.
2. Connections that are open keep what they were shown.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path


class CertificateError(Exception):
    """The files are no certificate with its key; the text names them."""


class Certificate:
    """What `create_server` is given, and the files behind it."""

    def __init__(self) -> None:
        self.context = _context()

    def load(self, cert: Path, key: Path) -> None:
        """Show this certificate from the next handshake on. Blocking. Raises `CertificateError`."""
        try:
            with _in_memory(cert) as shown, _in_memory(key) as held:
                for context in (_context(), self.context):
                    context.load_cert_chain(shown, held, password=lambda: b"")  # else OpenSSL asks at a terminal
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            raise CertificateError(f"{cert} and {key} can't be used: {reason}") from error


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextlib.contextmanager
def _in_memory(path: Path) -> Iterator[str]:
    """A path to a copy of the file that nobody changes: OpenSSL reads paths only."""
    content = path.read_bytes()
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
