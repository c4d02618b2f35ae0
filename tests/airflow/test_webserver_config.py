"""Who has logged in, by what a provider says, what ends with a logout, and which passwords are refused."""

import json
import runpy
import secrets
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from airflow.models.revoked_token import RevokedToken
from airflow.providers.fab.auth_manager.api_fastapi.routes.login import auth_router
from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride
from airflow.providers.fab.www.extensions import init_session
from fastapi import HTTPException
from flask import Flask, Response, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_appbuilder.const import AUTH_DB, AUTH_OAUTH
from flask_appbuilder.exceptions import PasswordComplexityValidationError
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from werkzeug.test import Client

CONFIG = Path(__file__).parents[2] / "roles/airflow_webserver/files/webserver_config.py"
SSO = {"name": "sso", "metadata_url": "https://sso/", "client_id": "airflow", "client_secret": "secret"}
Load = Callable[..., dict[str, Any]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the file, with some providers."""

    def load(*providers: dict[str, str]) -> dict[str, Any]:
        said = {"providers": providers, "role_mapping": {}, "registration_role": "Public", "roles_sync": True}
        monkeypatch.setenv("LVAO_OIDC", json.dumps(said))
        monkeypatch.setenv("LVAO_PASSWORD_MIN_LENGTH", "12")
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
    assert "OAUTH_PROVIDERS" not in config


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


@pytest.fixture
def app(load: Load, tmp_path: Path) -> Flask:
    """Make an application with the sessions of the webserver, which somebody may log in to."""
    config = load()
    app = Flask(__name__)
    app.secret_key = secrets.token_hex()
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/sessions.db"
    app.session_interface = config["_Sessions"](
        app=app, client=SQLAlchemy(app), permanent=True, table="session", key_prefix="", use_signer=True
    )
    somebody = UserMixin()
    somebody.id = "1"
    LoginManager(app).user_loader({"1": somebody}.get)

    @app.get("/form")
    def form() -> str:
        return session.setdefault("csrf_token", secrets.token_hex())

    @app.get("/login/<jti>")
    def login(jti: str) -> Response:
        login_user(somebody)
        response = Response("welcome")
        response.set_cookie("_token", jwt.encode({"jti": jti, "exp": 2**32}, "x" * 32), httponly=True)
        return response

    @app.get("/begin/<int:at>")
    def begin(at: int) -> list[str]:
        session[f"_state_sso_{at}"] = {"data": {"nonce": secrets.token_hex(200)}, "exp": at}
        return list(session)

    @app.get("/during-a-logout")
    def request_during_a_logout() -> str:
        with_cookie(app, request.cookies["session"]).get("/logout/")
        session["seen"] = True
        return "too late"

    @app.get("/who")
    def who() -> str:
        return str(current_user.is_authenticated)

    @app.get("/logout/")
    def logout() -> str:
        logout_user()
        session["_flashes"] = ["goodbye"]
        return "goodbye"

    return app


def rows(app: Flask) -> int:
    """Count the sessions that the database has."""
    with app.app_context():
        return app.session_interface.client.session.scalar(text("SELECT count(*) FROM session"))


def with_cookie(app: Flask, cookie: str) -> Client:
    """Make a browser that has a cookie of a session."""
    browser = app.test_client()
    browser.set_cookie("session", cookie)
    return browser


def test_a_request_that_overlaps_a_logout_does_not_bring_the_session_back(app: Flask) -> None:
    browser = app.test_client()
    browser.get("/login/a")
    cookie = browser.get_cookie("session").value
    assert with_cookie(app, cookie).get("/during-a-logout").text == "too late"
    assert with_cookie(app, cookie).get("/who").text == "False"
    assert rows(app) == 0


def test_strangers_keep_their_sessions_themselves(app: Flask) -> None:
    for _ in range(3):
        browser = app.test_client()
        assert browser.get("/form").text == browser.get("/form").text
        assert browser.get("/who").text == "False"
    assert rows(app) == 0
    browser.get("/login/a")
    assert (browser.get("/who").text, rows(app)) == ("True", 1)


def test_logins_that_a_stranger_begins_do_not_outgrow_a_cookie(app: Flask) -> None:
    browser = app.test_client()
    for at in range(20):
        browser.get(f"/begin/{at}")
    assert "_state_sso_19" in browser.get("/begin/7").json
    assert len(browser.get_cookie("session").value) < 1000


def test_a_logout_ends_the_session_and_its_tokens(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    revoked = []
    monkeypatch.setattr(RevokedToken, "revoke", lambda jti, exp: revoked.append(jti))
    browser = app.test_client()
    browser.get("/login/a")
    kept = with_cookie(app, browser.get_cookie("session").value)
    kept.get("/login/b")
    assert kept.get("/who").text == "True"
    browser.get("/logout/")
    assert sorted(set(revoked)) == ["a", "b"]
    assert kept.get("/who").text == browser.get("/who").text == "False"
    assert rows(app) == 0


def test_a_stranger_is_nobody_whatever_airflow_has_signed(app: Flask) -> None:
    others = SecureCookieSessionInterface().get_signing_serializer(app)
    assert with_cookie(app, others.dumps({"_user_id": "1", "_fresh": True})).get("/who").text == "False"


def test_airflow_takes_these_sessions_and_this_logout(load: Load) -> None:
    config = load()
    assert init_session.AirflowDatabaseSessionInterface is config["_Sessions"]
    assert "/logout" not in {route.path for route in auth_router.routes}


def test_a_short_password_is_refused_wherever_it_is_set(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load()
    check = config["FAB_PASSWORD_COMPLEXITY_VALIDATOR"]
    with pytest.raises(PasswordComplexityValidationError, match="must have 12 characters or more"):
        check("x" * 11)
    check("x" * 12)
    manager = object.__new__(config["SECURITY_MANAGER_CLASS"])
    added = []
    monkeypatch.setattr(FabAirflowSecurityManagerOverride, "add_user", lambda *_, **facts: added.append(facts))
    with Flask(__name__).app_context():
        for refused in (lambda: manager._hash_password("x" * 11), lambda: manager.add_user("a", password="x" * 11)):
            with pytest.raises(HTTPException, match="400: The password must have 12 characters or more"):
                refused()
        manager.add_user("a", password="x" * 12)
        # Whom a provider knows.
        manager.add_user("b")
    assert [facts["hashed_password"].partition(":")[0] for facts in added] == ["scrypt", "scrypt"]
