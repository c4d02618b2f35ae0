"""The public side of the reverse proxy: HTTPS, and nothing that is for the environment's own hosts."""

import json
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests
import yaml
from conftest import PROJECT, Public, apply_role, said, unit_property, wait_for
from test_reverse_proxy import UPSTREAM, run_upstream
from testinfra.host import Host

# Airflow's webserver is away meanwhile.
pytestmark = pytest.mark.last
DOMAIN = "airflow.lvao.test"
# Prints a password's hash, as `htpasswd` does.
HASH = "perl -e 'print crypt(q(fake-password), q($2b$10$abcdefghijklmnopqrstuu))'"


@pytest.fixture(scope="module", autouse=True)
def _upstream(host: Host) -> Iterator[None]:
    yield from run_upstream(host)


@pytest.fixture(scope="module")
def public(host: Host) -> Public:
    """The proxy's public side."""
    return Public(host, DOMAIN)


def test_plain_http_is_sent_to_https(public: Public) -> None:
    answer = requests.get(
        f"http://{public.address}/dags?x=1", headers={"Host": DOMAIN}, allow_redirects=False, timeout=30
    )
    assert (answer.status_code, answer.headers["Location"]) == (308, f"https://{DOMAIN}/dags?x=1")


def test_it_speaks_tls_1_2_and_newer(public: Public) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        connection = public.connect(minimum_version=version, maximum_version=version)
        assert connection.sock.version() == version.name.replace("_", ".")
        connection.close()
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        public.connect(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


def test_it_speaks_http_2_unless_strangers_could_wear_it_out(host: Host) -> None:
    ask = "curl --silent --insecure --output /dev/null --write-out '%{http_version}'"
    version = host.check_output(f"{ask} --resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/")
    assert version == ("1.1" if host.system_info.release.startswith("12") else "2")


def test_who_sends_no_request_is_not_waited_for(public: Public) -> None:
    with public.connect().sock as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {DOMAIN}\r\nX-Slow: ".encode())
        connection.settimeout(30)
        began = time.monotonic()
        with suppress(ConnectionError):
            while connection.recv(1000):
                pass
        assert time.monotonic() - began > 5, "a slow client should have its time"


def test_a_name_that_nobody_reaches_is_an_error(host: Host) -> None:
    wrong = {"reverse_proxy_domain": "elsewhere.lvao.test", "reverse_proxy_certificate_timeout": 5}
    ended = apply_role(host, "reverse_proxy", entry_point="public", **wrong)
    assert ended.returncode == 2, ended.stdout
    assert "does not speak HTTPS as elsewhere.lvao.test within 5 s" in said(ended)
    ended = apply_role(host, "reverse_proxy", entry_point="public")
    assert ended.returncode == 0, ended.stdout


def test_it_answers_to_its_own_name_alone(public: Public) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        public.connect("other.lvao.test")


def test_browsers_are_told_to_be_careful(public: Public) -> None:
    answer, _ = public.ask("GET", "/")
    assert answer.status == 200
    assert_that_it_is_careful(answer)


def assert_that_it_is_careful(answer: HTTPResponse) -> None:
    """Check the headers of an answer, which Caddy may have made."""
    assert answer.getheader("Strict-Transport-Security") == "max-age=31536000"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert "frame-ancestors 'self'" in answer.getheader("Content-Security-Policy")
    assert (answer.getheader("X-Site"), answer.getheader("Referrer-Policy")) == ("lvao", None)
    assert "Caddy" not in (answer.getheader("Server") or "")


@pytest.mark.parametrize(
    "path",
    [
        "/execution",
        "/execution/health",
        "//execution/health",
        "/%65xecution/health",
        "/x/../execution/health",
        # An upstream that does not resolve dots takes it for its own.
        "/execution/variables/../../x",
        "/execution/variables/..%2f..%2fx",
        "/%65xecution/../x",
    ],
)
def test_what_tasks_report_is_not_for_the_public(public: Public, path: str) -> None:
    answer = public.ask("GET", path)[0]
    assert answer.status == 404
    assert_that_it_is_careful(answer)
    assert requests.get(f"http://{public.address}:8080/execution/health", timeout=30).status_code == 200


@pytest.mark.parametrize("path", ["/auth/token", "/auth/token/cli", "/auth//token", "/auth/api/v1/security/login"])
def test_nobody_outside_guesses_passwords_where_airflow_counts_none(public: Public, path: str) -> None:
    assert public.ask("POST", path, b"{}")[0].status == 403
    assert requests.post(f"http://{public.address}:8080/auth/token", json={}, timeout=30).status_code == 200


@pytest.mark.parametrize("path", ["/execution/health", "/auth/token", "/"])
def test_a_target_whose_path_only_the_upstream_sees_is_refused(host: Host, path: str) -> None:
    # Over HTTP/2, curl sends no such target.
    ask = "curl --silent --insecure --http1.1 --output /dev/null --write-out '%{http_code}'"
    where = f"--resolve {DOMAIN}:443:127.0.0.1 --request-target x:http://{DOMAIN}{path} https://{DOMAIN}/"
    assert host.check_output(f"{ask} {where}") == "400"


def test_what_is_too_large_is_refused(host: Host, public: Public) -> None:
    body = os.urandom(900_000)
    answer, content = public.ask("POST", "/", body)
    assert (answer.status, content) == (200, body)
    # Unlike Python's client, curl listens while it sends.
    send = "head --bytes 2000000 /dev/zero | curl --silent --insecure --data-binary @- --write-out '%{http_code}'"
    assert host.check_output(f"{send} --resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/") == "413"


@pytest.mark.parametrize(("path", "status"), [("/auth/login/", 413), ("/api/v2/dags", 200)])
def test_a_login_is_short(host: Host, path: str, status: int) -> None:
    send = "head --bytes 70000 /dev/zero | curl --silent --insecure --data-binary @- --output /dev/null"
    for url in (f"--resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}", "http://127.0.0.1:8080"):
        assert host.check_output(f"{send} --write-out '%{{http_code}}' {url}{path}") == str(status)


def test_what_a_firewall_lets_one_source_open_is_a_small_part_of_its_memory(host: Host, public: Public) -> None:
    defaults = yaml.safe_load((PROJECT / "roles/firewall/defaults/main.yml").read_text())
    process, before = unit_property(host, "caddy", "MainPID"), int(unit_property(host, "caddy", "MemoryCurrent"))
    slow = []
    # A fifth of them, for the time that they take.
    for _ in range(defaults["firewall_connections_per_source"] // 5):
        connection = public.connect()
        connection.sock.sendall(f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: 9\r\n\r\nx".encode())
        slow.append(connection)
    # It has 256 MB at least.
    assert int(unit_property(host, "caddy", "MemoryCurrent")) - before < 20 * 2**20
    assert public.ask("GET", "/")[0].status == 200
    assert unit_property(host, "caddy", "MainPID") == process
    for connection in slow:
        connection.close()


def test_the_upstream_knows_of_https_and_who_asks(public: Public) -> None:
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}
    told = dict(json.loads(line) for line in public.ask("GET", "/", headers=forged)[1].splitlines())
    assert (told["Host"], told["X-Forwarded-Proto"]) == (DOMAIN, "https")
    assert "192.0.2.1" not in told["X-Forwarded-For"]


def test_it_holds_requests_while_the_upstream_restarts(host: Host, public: Public) -> None:
    for method, body in (("GET", None), ("POST", b"held")):
        host.check_output(f"systemctl restart --no-block {UPSTREAM}")
        wait_for(lambda: unit_property(host, UPSTREAM, "SubState") == "start-pre", 10, "the upstream to be away")
        answer, content = public.ask(method, "/", body)
        assert answer.status == 200
        assert body in (None, content)


def test_each_request_is_logged_without_what_is_secret(host: Host, public: Public) -> None:
    secret = {"Authorization": "Bearer marked-secret", "Cookie": "_token=marked-secret"}
    public.ask("GET", "/marked-path", headers=secret)

    def logged() -> list[dict]:
        lines = host.check_output("journalctl --unit=caddy --output=cat --lines=50").splitlines()
        return [json.loads(line) for line in lines if "marked-path" in line]

    entry = wait_for(logged, 10, "the request in the journal")[0]
    assert (entry["status"], entry["request"]["method"], entry["request"]["host"]) == (200, "GET", DOMAIN)
    assert host.run("journalctl --unit=caddy | grep marked-secret").rc == 1


def test_the_private_side_speaks_tls_to_other_hosts(host: Host) -> None:
    own = "/var/lib/caddy-private/caddy/pki/authorities/local/root.crt"
    ask = f"curl --silent --output /dev/null --write-out '%{{http_code}}' --cacert {own}"
    address, other = host.check_output("hostname --ip-address"), "other.lvao.test:8443"
    assert host.check_output(f"{ask} https://{address}:8443/execution/health") == "200"
    for path in ("/", "/auth/token", "/execution/../auth/token", "/api/v2/version"):
        assert host.check_output(f"{ask} --path-as-is https://{address}:8443{path}") == "404"
    # Who comes with another name, or without TLS, learns nothing.
    assert host.check_output(f"{ask} http://{address}:8443/") == "400"
    assert host.run(f"{ask} --resolve {other}:{address} https://{other}/").rc == 35
    assert host.run(f"runuser -u nobody -- cat {own}").failed
    # Nor may the process that strangers reach read its key, though both have one user.
    hidden = unit_property(host, "caddy", "InaccessiblePaths").split()
    assert {"/etc/caddy-private", "-/var/lib/caddy-private"} <= {*hidden}


@pytest.fixture(scope="module")
def _restored(host: Host) -> Iterator[None]:
    """Bring back in the end what the tests before have looked at."""
    yield
    ended = apply_role(host, "reverse_proxy")
    assert ended.returncode == 0, ended.stdout


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Make certificates that are their own authorities."""

    def make(name: str, side: str = "") -> dict[str, str]:
        files = [tmp_path / f"{name}.pem", tmp_path / f"{name}.key"]
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        kind = "IP" if side else "DNS"
        command += ["-days", "30", "-subj", f"/CN={name}", "-addext", f"subjectAltName={kind}:{name}"]
        subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
        brought = f"reverse_proxy_{side}certificate"
        pair = {brought: files[0].read_text(), f"{brought}_key": files[1].read_text()}
        return pair if side else pair | {"reverse_proxy_tls": "files"}

    return make


@pytest.mark.usefixtures("_restored")
def test_a_site_brings_its_certificate_its_accounts_and_who_may_ask(
    host: Host, public: Public, certificate: Callable[..., dict[str, str]]
) -> None:
    brought, address = certificate(DOMAIN), host.check_output("hostname --ip-address")
    private = certificate(address, "private_")
    private["airflow_execution_api_ca_certificate"] = private["reverse_proxy_private_certificate"]
    ended = apply_role(
        host,
        "reverse_proxy",
        **brought,
        **private,
        reverse_proxy_sources=["127.0.0.0/8", "2001:db8::/32"],
        reverse_proxy_token_sources=["127.0.0.0/8"],
        reverse_proxy_accounts={"lvao": host.check_output(HASH)},
    )
    assert ended.returncode == 0, ended.stdout
    public.authority = brought["reverse_proxy_certificate"]
    answer, content = public.ask("GET", "/")
    assert (answer.status, content) == (403, b"")
    host.check_output(f"cat > /root/authority.pem <<'EOF'\n{public.authority}EOF")
    local = (
        f"curl --silent --cacert /root/authority.pem --resolve {DOMAIN}:443:127.0.0.1 --write-out '\\n%{{http_code}}'"
    )
    unknown = host.check_output(f"{local} --include https://{DOMAIN}/")
    assert unknown.endswith("401")
    assert "strict-transport-security: max-age=31536000" in unknown.lower()
    assert "server: caddy" not in unknown.lower()
    assert host.check_output(f"{local} --user lvao:wrong https://{DOMAIN}/").endswith("401")
    said = host.check_output(f"{local} --user lvao:fake-password https://{DOMAIN}/auth/token")
    assert said.endswith("200")
    assert "Authorization" not in said
    host.check_output(f"cat > /root/private.pem <<'EOF'\n{private['reverse_proxy_private_certificate']}EOF")
    assert host.check_output(f"curl --silent --cacert /root/private.pem https://{address}:8443/execution/health")
    for secret in ("/etc/caddy/Caddyfile", "/etc/caddy/tls/key.pem", "/etc/caddy-private/tls/key.pem"):
        assert host.run(f"runuser -u nobody -- cat {secret}").failed


def test_a_certificate_that_does_not_fit_is_refused_and_changes_nothing(
    host: Host, certificate: Callable[..., dict[str, str]]
) -> None:
    before = host.file("/etc/caddy/Caddyfile").content
    values = certificate("other.lvao.test")
    values["reverse_proxy_certificate_key"] = certificate(DOMAIN)["reverse_proxy_certificate_key"]
    values |= certificate("192.0.2.9", "private_") | {"airflow_execution_api_ca_certificate": "its authority"}
    ended = apply_role(host, "reverse_proxy", **values)
    assert ended.returncode == 2
    said = " ".join(ended.stdout.split())
    assert f"reverse_proxy_certificate is for other.lvao.test and not for reverse_proxy_domain, {DOMAIN}" in said
    assert "does not belong to reverse_proxy_certificate_key" in said
    assert "reverse_proxy_private_certificate is for 192.0.2.9 and not for reverse_proxy_private_address," in said
    assert host.file("/etc/caddy/Caddyfile").content == before


AUTHORITY = """{
	admin off
	storage file_system /root/authority
	http_port 9080
	https_port 9443
	skip_install_trust
}
https://authority.lvao.test:9443 {
	tls internal
	acme_server
}
"""


@pytest.mark.usefixtures("_restored")
def test_an_authority_issues_its_certificate(host: Host, public: Public) -> None:
    root = "/root/authority/pki/authorities/local/root.crt"
    # Docker mounts the file, which so cannot be replaced by another.
    host.check_output(f"echo '127.0.0.1 authority.lvao.test {DOMAIN}' >> /etc/hosts")
    host.check_output(f"cat > /root/authority.conf <<'EOF'\n{AUTHORITY}EOF")
    run = "caddy run --adapter caddyfile --config /root/authority.conf"
    host.check_output(f"systemd-run --unit=lvao-test-authority --setenv=HOME=/root {run}")
    wait_for(lambda: host.file(root).exists, 15, "the authority's certificate")
    host.check_output(f"cp {root} /usr/local/share/ca-certificates/authority.crt && update-ca-certificates")
    host.check_output("systemctl restart caddy")
    ended = apply_role(
        host,
        "reverse_proxy",
        reverse_proxy_tls="acme",
        reverse_proxy_acme_email="ops@lvao.test",
        reverse_proxy_acme_directory="https://authority.lvao.test:9443/acme/local/directory",
    )
    assert ended.returncode == 0, ended.stdout
    public.authority = host.file(root).content_string

    def answers() -> bool:
        try:
            return public.ask("GET", "/")[0].status == 200
        except ssl.SSLError:
            return False

    wait_for(answers, 60, "the certificate")
    host.check_output("systemctl stop lvao-test-authority")
