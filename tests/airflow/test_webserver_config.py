"""Who has logged in, by what a provider says."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask_appbuilder.const import AUTH_DB, AUTH_OAUTH

CONFIG = Path(__file__).parents[2] / "roles/airflow_webserver/files/webserver_config.py"
SSO = {"name": "sso", "metadata_url": "https://sso/", "client_id": "airflow", "client_secret": "secret"}
Load = Callable[..., dict[str, Any]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the file, with some providers."""

    def load(*providers: dict[str, str]) -> dict[str, Any]:
        said = {"providers": providers, "role_mapping": {}, "registration_role": "Public", "roles_sync": True}
        monkeypatch.setenv("LVAO_OIDC", json.dumps(said))
        return runpy.run_path(str(CONFIG))

    return load


def ask(config: dict[str, Any], claims: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Tell who the provider `sso` says that has logged in.

    Args:
        config: What the file defines.
        claims: Those of the ID token.
        more: What the provider's userinfo endpoint answers, if it has one.
    """
    manager = object.__new__(config["SECURITY_MANAGER_CLASS"])
    metadata = {} if more is None else {"userinfo_endpoint": "https://sso/userinfo"}
    manager.oauth_remotes = {"sso": SimpleNamespace(server_metadata=metadata, userinfo=lambda token: more)}
    return manager.get_oauth_user_info("sso", {"userinfo": claims})


def test_without_providers_airflow_keeps_its_passwords(load: Load) -> None:
    config = load()
    assert config["AUTH_TYPE"] == AUTH_DB
    assert "SECURITY_MANAGER_CLASS" not in config


@pytest.mark.parametrize(
    ("address", "counted"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8:0:1::7", "2001:db8:0:1::/64"), ("2001:db8:0:1:8::9", "2001:db8:0:1::/64")],
)
def test_guesses_are_counted_for_a_whole_network_of_ipv6(load: Load, address: str, counted: str) -> None:
    with Flask(__name__).test_request_context(environ_base={"REMOTE_ADDR": address}):
        assert load()["RATELIMIT_KEY_FUNC"]() == counted


def test_with_providers_they_are_asked(load: Load) -> None:
    config = load(SSO, SSO | {"name": "other", "scope": "openid groups"})
    assert config["AUTH_TYPE"] == AUTH_OAUTH
    scopes = [provider["remote_app"]["client_kwargs"]["scope"] for provider in config["OAUTH_PROVIDERS"]]
    assert scopes == ["openid profile email", "openid groups"]


def test_claims_of_both_answers_count(load: Load) -> None:
    user = ask(load(SSO), {"sub": "1", "groups": ["a"]}, {"sub": "1", "name": "Ann", "email": "ann@lvao.test"})
    assert user == {
        "username": "sso_1",
        "first_name": "Ann",
        "last_name": "",
        "email": "ann@lvao.test",
        "role_keys": ["a"],
    }


def test_an_answer_about_another_person_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="another user"):
        ask(load(SSO), {"sub": "1"}, {"sub": "2", "groups": ["admins"]})


@pytest.mark.parametrize(("groups", "keys"), [("admins", ["admins"]), (None, []), (["a", "b"], ["a", "b"])])
def test_groups_are_a_list(load: Load, groups: str | list[str] | None, keys: list[str]) -> None:
    config = load(SSO | {"groups_claim": "roles", "username_claim": "preferred_username"})
    user = ask(config, {"sub": "1", "preferred_username": "ann", "roles": groups})
    assert (user["username"], user["role_keys"]) == ("sso_ann", keys)


def test_who_has_no_name_is_refused(load: Load) -> None:
    with pytest.raises(KeyError):
        ask(load(SSO | {"username_claim": "preferred_username"}), {"sub": "1"})
