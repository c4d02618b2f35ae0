"""People log in through a provider of OpenID Connect, which runs here, and may do what their groups may."""

import json
import shlex
import threading
from collections.abc import Iterator

import flask
import oidc_provider_mock
import pytest
import requests
from conftest import Airflow, Public, journal, value, wait_for
from oidc_provider_mock._storage import Client, ClientAllowAny
from testinfra.host import Host
from werkzeug.serving import make_server

DATABASE = "lvao-molecule-airflow"
DOMAIN = "airflow.lvao.test"
# What a User may ask for, and a Viewer may not.
UNPAUSE = ("/dags/log_canary", "--request", "PATCH", "--json", '{"is_paused": false}')
UNIT = "lvao-airflow-webserver"
ROOT = "/root/root.crt"


@pytest.fixture(scope="module")
def secret(host: Host) -> str:
    """What Airflow proves with that it is itself."""
    return value(host, "airflow_webserver_oidc_providers[0].client_secret")


class Provider:
    """A provider of OpenID Connect, on port 9400 of the host's loopback."""

    def __init__(self, url: str) -> None:
        """Remember where it is.

        Args:
            url: Its address on this machine.
        """
        self.url = url

    def say(self, sub: str, **claims: str | list[str]) -> None:
        """Say of somebody what the provider is to say from now on."""
        requests.put(f"{self.url}/users/{sub}", json=claims, timeout=10).raise_for_status()


@pytest.fixture(scope="module")
def provider(host: Host, secret: str) -> Iterator[Provider]:
    """Run a provider that knows Airflow, where the host's containers reach this machine."""
    app = oidc_provider_mock.app(require_client_registration=True)
    client = Client(
        id="airflow",
        secret=secret,
        redirect_uris=[f"https://{DOMAIN}/auth/oauth-authorized/{name}" for name in ("sso", "slip")],
        allowed_scopes=Client.SCOPES_SUPPORTED,
        token_endpoint_auth_method=ClientAllowAny(),
    )
    with app.test_request_context():
        app.preprocess_request()
        flask.g.oidc_provider_mock_storage.store_client(client)
    # A provider before had another key, which Airflow remembers.
    host.check_output(f"[ ! -e /root/sso ] || systemctl restart {UNIT}; touch /root/sso")
    address = host.check_output("getent ahostsv4 host.docker.internal").split()[0]
    server = make_server(address, 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host.check_output(
        "systemctl stop lvao-test-sso.socket lvao-test-sso.service; systemd-run --quiet --unit=lvao-test-sso "
        "--socket-property=ListenStream=127.0.0.1:9400 "
        f"/usr/lib/systemd/systemd-socket-proxyd {address}:{server.server_port}"
    )
    yield Provider(f"http://{address}:{server.server_port}")
    host.check_output("systemctl stop lvao-test-sso.socket lvao-test-sso.service")
    server.shutdown()


class Person:
    """Somebody with a browser of their own."""

    def __init__(self, host: Host, name: str) -> None:
        """Begin without a session.

        Args:
            host: Where the browser runs.
            name: What the provider knows them by.
        """
        self.host, self.name = host, name
        self.jar = f"/root/{name}.cookies"
        host.check_output(f"rm --force {self.jar}")

    def ask(self, url: str, *arguments: str) -> tuple[int, str, str]:
        """Send a request, and go where it leads.

        Args:
            url: Its address, or a path of Airflow.
            arguments: Further arguments of curl.

        Returns:
            The status, address and text of the last answer.
        """
        command = ["curl", "--silent", "--show-error", "--location", "--max-redirs", "10", "--cacert", ROOT]
        command += ["--resolve", f"{DOMAIN}:443:127.0.0.1", "--cookie", self.jar, "--cookie-jar", self.jar]
        command += ["--write-out", "\n%{http_code} %{url_effective}", *arguments]
        url = f"https://{DOMAIN}{url}" if url.startswith("/") else url
        text, _, last = self.host.check_output(shlex.join([*command, url])).rpartition("\n")
        status, _, where = last.partition(" ")
        return int(status), where, text

    def log_in(self, provider: str = "sso") -> tuple[int, str, str]:
        """Follow a provider's button, and say there who it is."""
        status, form, text = self.ask(f"/auth/login/{provider}")
        assert (status, form.partition("?")[0]) == (200, "http://127.0.0.1:9400/oauth2/authorize"), text
        return self.ask(form, "--data-urlencode", f"sub={self.name}")

    def status(self, path: str, *arguments: str) -> int:
        """Call the API, and tell the status."""
        return self.ask(f"/api/v2{path}", *arguments)[0]


@pytest.fixture(scope="module", autouse=True)
def _trust(host: Host) -> None:
    """Have browsers trust the proxy's authority."""
    host.check_output(f"printf %s {shlex.quote(Public(host, DOMAIN).authority)} > {ROOT}")


@pytest.fixture(scope="module")
def first(host: Host, provider: Provider) -> Person:
    """Somebody who has logged in before all others."""
    provider.say("first", email="first@lvao.test", groups=["data-team"])
    person = Person(host, "first")
    person.log_in()
    assert is_logged_in(person)
    return person


def is_logged_in(person: Person) -> bool:
    """Tell whether a session is in force, and use it: the login page leads on who has one."""
    return person.ask("/auth/login/")[1] == f"https://{DOMAIN}/"


def account(airflow: Airflow, name: str) -> dict:
    """Ask Airflow for an account, as admin."""
    token = airflow.login(airflow.password)[1]
    answer = airflow.host.check_output(
        f"curl --silent --header 'Authorization: Bearer {token}' {airflow.url}/auth/fab/v1/users/{name}"
    )
    return json.loads(answer)


def roles(airflow: Airflow, name: str) -> set[str]:
    return {role["name"] for role in account(airflow, name)["roles"]}


@pytest.mark.usefixtures("first")
def test_a_person_has_the_roles_of_their_groups(host: Host, airflow: Airflow, provider: Provider) -> None:
    provider.say(
        "alice", email="alice@lvao.test", given_name="Alice", family_name="Liddell", groups=["data-team", "tea"]
    )
    alice = Person(host, "alice")
    status, where, _ = alice.log_in()
    assert (status, where) == (200, f"https://{DOMAIN}/"), journal(host, UNIT)
    assert alice.status("/connections") == 200
    assert alice.status("/pools", "--json", '{"name": "alice", "slots": 1}') == 201
    assert alice.status("/pools/alice", "--request", "DELETE") == 204
    found = account(airflow, "sso_alice")
    assert (found["email"], found["first_name"], found["last_name"]) == ("alice@lvao.test", "Alice", "Liddell")
    assert roles(airflow, "sso_alice") == {"Op", "User"}


def test_a_role_of_our_own_allows_what_it_says(host: Host, airflow: Airflow, provider: Provider) -> None:
    provider.say("dave", email="dave@lvao.test", groups=["reviewers"])
    dave = Person(host, "dave")
    dave.log_in()
    assert roles(airflow, "sso_dave") == {"Reviewer", "User"}
    assert dave.status("/connections") == 200
    assert dave.status("/connections", "--json", '{"connection_id": "dave", "conn_type": "http"}') == 403


def test_roles_follow_the_groups_at_the_next_login(host: Host, airflow: Airflow, provider: Provider) -> None:
    provider.say("carol", email="carol@lvao.test", groups=["data-team"])
    Person(host, "carol").log_in()
    assert roles(airflow, "sso_carol") == {"Op", "User"}
    provider.say("carol", email="carol@lvao.test", groups=["reviewers"])
    Person(host, "carol").log_in()
    assert roles(airflow, "sso_carol") == {"Reviewer", "User"}


def test_a_person_of_no_group_has_the_role_of_all(host: Host, airflow: Airflow, provider: Provider) -> None:
    provider.say("bob", email="bob@lvao.test")
    bob = Person(host, "bob")
    bob.log_in()
    assert roles(airflow, "sso_bob") == {"User"}
    # May, once Airflow knows the DAG.
    wait_for(lambda: bob.status(*UNPAUSE) == 200, 60, "the DAG")
    assert bob.status("/pools", "--json", '{"name": "bob", "slots": 1}') == 403


def test_nobody_becomes_the_admin_by_their_name(host: Host, airflow: Airflow, provider: Provider) -> None:
    provider.say("admin", preferred_username="admin", email="mallory@lvao.test")
    Person(host, "admin").log_in()
    assert roles(airflow, "sso_admin") == {"User"}
    assert roles(airflow, "admin") == {"Admin"}


@pytest.mark.usefixtures("provider")
def test_a_wrong_secret_lets_nobody_in(host: Host) -> None:
    since = host.check_output("date +%s")
    mallory = Person(host, "mallory")
    status, where, text = mallory.log_in("slip")
    assert (status, where) == (200, f"https://{DOMAIN}/auth/login/")
    assert "The request to sign in was denied" in text
    said = wait_for(lambda: host.run(f"journalctl --since=@{since} --unit={UNIT} | grep OAuth").stdout, 10, "a word")
    assert "Error authorizing OAuth access token" in said
    assert "Traceback" not in text + host.check_output(f"journalctl --since=@{since} --unit={UNIT}")
    assert mallory.status(*UNPAUSE) == 403


def test_without_login_one_has_the_public_role_alone(host: Host) -> None:
    stranger = Person(host, "stranger")
    assert stranger.status("/dags") == 200
    assert stranger.status(*UNPAUSE) == 403
    assert stranger.status("/connections") == 403


def test_a_logout_ends_copies_of_the_session_and_their_tokens(host: Host, provider: Provider) -> None:
    provider.say("erin", email="erin@lvao.test", groups=["data-team"])
    erin, thief = Person(host, "erin"), Person(host, "thief")
    erin.log_in()
    host.check_output(f"cp {erin.jar} {thief.jar}")
    # A token of the thief's own.
    assert is_logged_in(thief)
    assert thief.status("/connections") == 200
    status, where, text = erin.ask("/api/v2/auth/logout")
    assert (status, where) == (200, f"https://{DOMAIN}/auth/login/"), text
    assert thief.status("/connections") in {401, 403}
    assert not is_logged_in(thief)
    assert not is_logged_in(erin)


@pytest.mark.usefixtures("provider")
def test_who_does_not_log_in_leaves_nothing_in_the_database(host: Host) -> None:
    ask = f"runuser -u postgres -- psql -d {DATABASE} -Atc 'TABLE session ORDER BY id'"
    before = host.check_output(ask)
    for path in ("/auth/login/", "/auth/users/list/", "/auth/login/sso"):
        assert Person(host, "stranger").ask(path)[0] == 200
    assert host.check_output(ask) == before


def test_a_session_ends_however_busy_it_is(first: Person) -> None:
    wait_for(lambda: not is_logged_in(first), 130, "the session to end")
    # Airflow takes a token for ten seconds more, as clocks differ.
    wait_for(lambda: first.status("/connections") in {401, 403}, 30, "its last token to end")
    first.log_in()
    assert first.status("/connections") == 200


def test_the_secret_is_in_no_file_that_others_read(host: Host, secret: str) -> None:
    file = host.file("/opt/airflow/current/etc/webserver.env")
    assert (file.user, file.mode) == ("root", 0o600)
    # As the fragment has it, and as it is: its first 16 characters need no escapes.
    found = host.run(f"runuser -u airflow -- grep -rlF {secret[:16]} /etc /opt /var/lib /usr/local 2>&1")
    assert secret[:16] in file.content_string
    assert "Permission denied" in found.stdout
    assert not [line for line in found.stdout.splitlines() if line.startswith("/")]
