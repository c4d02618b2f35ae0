"""What `make database-certificate` finds at a server that runs here, and pins."""

import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from forged_database import certificate, forged_database

PROJECT = Path(__file__).parents[2]


def pin(folder: Path, port: int) -> tuple[int, str]:
    """Pin the certificate of a server, in `pinned.txt`.

    Args:
        folder: Where to work.
        port: Of the server.

    Returns:
        The status, and what was said.
    """
    values = {
        "ansible_connection": "local",
        "airflow_database_host": "127.0.0.1",
        "airflow_database_port": port,
        "lvao_database_certificate": str(folder / "pinned.txt"),
    }
    groups = {"scheduler": {"hosts": {"a-host": values}}}
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    command = ["ansible-playbook", "-i", folder / "hosts.json", "playbooks/database_certificate.yml"]
    ended = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=False)
    return ended.returncode, " ".join(ended.stdout.split())


def test_the_last_certificate_is_pinned_and_shown(tmp_path: Path) -> None:
    certificate(tmp_path / "server", "127.0.0.1")
    authority = certificate(tmp_path / "authority", "db.lvao.test", "10.0.0.9")
    with (tmp_path / "server/both.pem").open("a") as chain:
        chain.write(authority)
    with forged_database(tmp_path / "server/both.pem") as server:
        status, said = pin(tmp_path, server.port)
    assert status == 0, said
    assert (tmp_path / "pinned.txt").read_text() == authority
    print_of_it = x509.load_pem_x509_certificate(authority.encode()).fingerprint(hashes.SHA256()).hex(":")
    assert f"SHA-256: {print_of_it}" in said
    assert "Names: DNS:db.lvao.test, IP:10.0.0.9" in said
    assert server.sessions == 0


@pytest.mark.parametrize("encrypted", [True, False])
def test_what_cannot_be_pinned_is_refused(tmp_path: Path, *, encrypted: bool) -> None:
    certificate(tmp_path, "127.0.0.1", issuer="somebody else")
    with forged_database(tmp_path / "both.pem" if encrypted else None) as server:
        status, said = pin(tmp_path, server.port)
    assert status == 2
    expected = "does not show the certificate of its authority, commonName=somebody else."
    assert (expected if encrypted else f"at 127.0.0.1, port {server.port}: it has no TLS.") in said
    assert not (tmp_path / "pinned.txt").exists()
