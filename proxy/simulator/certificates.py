"""Certificates for tests: an authority of one's own, and leaves that are right or wrong in one way.

Needs `cryptography`, which only tests install.
"""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """A self-signed certificate authority whose files lie in `directory`."""

    def __init__(self, directory: Path, name: str = "Weir test authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        built = self._builder(self._name, self._key.public_key(), datetime.now(UTC) + _DAY)
        built = built.add_extension(constraints, critical=True).add_extension(usage, critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = built.add_extension(identifier, critical=False).sign(self._key, hashes.SHA256())
        self.path = directory / f"authority-{self._certificate.serial_number:x}.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(until - 365 * _DAY).not_valid_after(until)

    def issue(self, *names: str, expired: bool = False) -> tuple[Path, Path]:
        """(certificate chain, key) files of a leaf for `names` (default: localhost and 127.0.0.1)."""
        names = names or ("localhost", "127.0.0.1")
        key = ec.generate_private_key(ec.SECP256R1())
        until = datetime.now(UTC) + (-_DAY if expired else _DAY)
        built = self._builder(_named(names[0]), key.public_key(), until)
        built = built.add_extension(x509.SubjectAlternativeName([*map(_alternative, names)]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        leaf = built.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        stem = f"leaf-{leaf.serial_number:x}"
        certificate, private = self._directory / f"{stem}.pem", self._directory / f"{stem}.key"
        pem = serialization.Encoding.PEM
        certificate.write_bytes(leaf.public_bytes(pem) + self._certificate.public_bytes(pem))
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        private.write_bytes(key.private_bytes(pem, form, plain))
        return certificate, private

    def serving(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """A server's TLS with a leaf of its own: `Simulator(tls=authority.serving())`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(*names, expired=expired))
        return context

    def trusting(self) -> ssl.SSLContext:
        """A client's TLS that trusts this authority."""
        return ssl.create_default_context(cafile=str(self.path))
