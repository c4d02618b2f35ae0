"""A server that says it is PostgreSQL, and asks for passwords in clear."""

import datetime
import ipaddress
import socketserver
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
SUBJECT = "a database"
NOW = datetime.datetime.now(datetime.UTC)
YESTERDAY, TOMORROW = (NOW + datetime.timedelta(days=days) for days in (-1, 1))


def certificate(folder: Path, *names: str, until: datetime.datetime = TOMORROW, issuer: str = SUBJECT) -> str:
    """Make a key and a certificate that is signed by itself, as Scaleway's databases have them.

    Args:
        folder: Where to write both, as `both.pem`.
        names: Names and addresses that it is for; none, as an authority's.
        until: When it ends.
        issuer: Who is said to have signed it.

    Returns:
        The certificate, in PEM.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    by, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]) for common in (issuer, SUBJECT))
    builder = x509.CertificateBuilder(by, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(until - datetime.timedelta(days=9)).not_valid_after(until)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([*map(general_name, names)]), critical=False)
    made = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "both.pem").write_bytes(private + made)
    return made.decode()


def general_name(name: str) -> x509.GeneralName:
    """Spell a name or an address as a certificate has it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Session(socketserver.StreamRequestHandler):
    """Asks for the password in clear, and refuses it."""

    server: "ForgedDatabase"

    def handle(self) -> None:
        """Go on until the client is gone."""
        # A client that trusts nobody ends the handshake.
        with suppress(OSError):
            self._talk()

    def _talk(self) -> None:
        code = self._code()
        if code == GSS_REQUEST:
            self.request.sendall(b"N")
            code = self._code()
        if code == SSL_REQUEST:
            self.request.sendall(b"S" if self.server.context else b"N")
            if not self.server.context:
                return
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
            self._code()
        self.server.sessions += 1
        self.request.sendall(b"R" + struct.pack("!ii", 8, 3))
        if self._read(1) == b"p":
            self.server.passwords.append(self._read(self._number() - 4).rstrip(b"\0").decode())
        said = b"SFATAL\0C28P01\0Mforged\0\0"
        self.request.sendall(b"E" + struct.pack("!i", len(said) + 4) + said)

    def _read(self, size: int) -> bytes:
        read = b""
        while len(read) < size and (more := self.request.recv(size - len(read))):
            read += more
        return read

    def _number(self) -> int:
        return struct.unpack("!i", self._read(4).rjust(4, b"\0"))[0]

    def _code(self) -> int:
        """Read a message without a type, and tell what it begins with."""
        return struct.unpack("!i", self._read(self._number() - 4)[:4])[0]


class ForgedDatabase(socketserver.ThreadingTCPServer):
    """Listens on the loopback.

    Attributes:
        port: Where.
        sessions: How many clients have begun to log in.
        passwords: What they handed over.
    """

    daemon_threads = True

    def __init__(self, both: Path | None) -> None:
        """Listen.

        Args:
            both: File with its key and certificate; none, for a server without TLS.
        """
        super().__init__(("127.0.0.1", 0), Session)
        self.port = self.server_address[1]
        self.sessions = 0
        self.passwords: list[str] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if both else None
        if self.context:
            self.context.load_cert_chain(both)

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client may end at any time."""


@contextmanager
def forged_database(both: Path | None) -> Iterator[ForgedDatabase]:
    """Run a server for a while.

    Args:
        both: As of `ForgedDatabase`.
    """
    with ForgedDatabase(both) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
