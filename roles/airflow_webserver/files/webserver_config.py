"""How people log in to Airflow's UI, as its FAB auth manager reads it when the webserver starts.

What differs between environments comes in the environment variable LVAO_OIDC, for it holds secrets: a JSON object
with `providers`, `role_mapping`, `registration_role` and `roles_sync`. Without providers, Airflow asks for its own
passwords. A new one has LVAO_PASSWORD_MIN_LENGTH characters or more.
"""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.cookies import SimpleCookie
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

import jwt
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.models.revoked_token import RevokedToken
from airflow.providers.fab.auth_manager.api_fastapi.routes.login import auth_router
from airflow.providers.fab.auth_manager.models import User
from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride
from airflow.providers.fab.www.extensions import init_session
from airflow.providers.fab.www.session import AirflowDatabaseSessionInterface
from fastapi import HTTPException
from flask import Flask, Request, Response, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_appbuilder.const import AUTH_DB, AUTH_OAUTH
from flask_appbuilder.exceptions import PasswordComplexityValidationError
from flask_login import user_logged_out
from flask_session.sqlalchemy import SqlAlchemySession

_oidc = json.loads(os.environ["LVAO_OIDC"])
_providers = {provider["name"]: provider for provider in _oidc["providers"]}


def _who_guesses() -> str:
    """Tell for whom Airflow counts guesses of a password.

    Returns:
        An IPv4 address, or the network of an IPv6 address, for whoever has one address there has 2**64.
    """
    address = ip_address(request.remote_addr or "127.0.0.1")
    return str(ip_network(f"{address}/64", strict=False) if isinstance(address, IPv6Address) else address)


RATELIMIT_KEY_FUNC = _who_guesses


# FAB's own logout, at /auth/logout/, answers where Airflow's no longer does: Airflow 3.3.2 only deletes the browser's
# cookies there, and a copy of the session's logged in again.
auth_router.routes[:] = [route for route in auth_router.routes if getattr(route, "path", "") != "/logout"]
LOGOUT_REDIRECT_URL = "/auth/login/"


def _end_session(_app: Flask, **_: object) -> None:
    """Revoke the tokens that a session has given, and drop all that it holds, which deletes it."""
    for token, end in session.get("_tokens", {}).items():
        RevokedToken.revoke(token, datetime.fromtimestamp(end, UTC))
    session.clear()


user_logged_out.connect(_end_session, weak=False)


class _Session(SqlAlchemySession):
    """Knows by which id the database has it, if it does."""

    stored = ""


class _StrangersSessions(SecureCookieSessionInterface):
    """Has a salt of its own: no cookie that Airflow signs for a person is taken for one."""

    salt = "lvao-stranger"


class _Sessions(AirflowDatabaseSessionInterface):
    """Keeps people's sessions in the database, and strangers' in their browsers: each of their requests left a row."""

    session_class = _Session
    strangers = _StrangersSessions()

    def __init__(self, *arguments: object, **options: object) -> None:
        """Have about one request in a hundred delete the rows that have expired."""
        super().__init__(*arguments, cleanup_n_requests=100, **options)

    def open_session(self, app: Flask, request: Request) -> _Session:
        """Find a person's session, or a stranger's.

        Args:
            app: Where the configuration is.
            request: What has the cookie.

        Returns:
            The session, or a new one.
        """
        found = super().open_session(app, request)
        found.stored = found.sid if found else ""
        if not found.stored:
            found.update(self.strangers.open_session(app, request) or {})
            found.modified = False
        return found

    def _upsert_session(self, lifetime: timedelta, session: _Session, store_id: str) -> None:
        """Keep a session, unless another request has ended it meanwhile: a copy of its cookie would log in again."""
        if session.stored and session.sid != session.stored:
            self._delete_session(self._get_store_id(session.stored))
        elif session.stored and not self._retrieve_session_data(store_id):
            return
        super()._upsert_session(lifetime, session, store_id)

    def save_session(self, app: Flask, session: _Session, response: Response) -> None:
        """Keep a session where it belongs, and in a person's the tokens that it has given.

        Args:
            app: Where the configuration is.
            session: What to keep.
            response: What gets the cookie.
        """
        if session and "_user_id" not in session:
            if session.stored:
                self._delete_session(self._get_store_id(session.sid))
            # FAB ends the last login alone that a browser has begun: browsers refuse a cookie with many.
            begun = [name for name in session if name.startswith("_state_")]
            for name in sorted(begun, key=lambda name: session[name]["exp"])[:-1]:
                del session[name]
            self.strangers.save_session(app, session, response)
            return
        for header in response.headers.getlist("Set-Cookie"):
            if token := SimpleCookie(header).get(COOKIE_NAME_JWT_TOKEN):
                claims = jwt.decode(token.value, options={"verify_signature": False})
                tokens = {name: end for name, end in session.get("_tokens", {}).items() if end > time.time()}
                session["_tokens"] = tokens | {claims["jti"]: claims["exp"]}
        super().save_session(app, session, response)


init_session.AirflowDatabaseSessionInterface = _Sessions


def _check_password(password: str) -> None:
    """Refuse a password that is too short.

    Args:
        password: A new one.

    Raises:
        PasswordComplexityValidationError: It is.
    """
    least = int(os.environ["LVAO_PASSWORD_MIN_LENGTH"])
    if len(password) < least:
        message = f"The password must have {least} characters or more."
        raise PasswordComplexityValidationError(message)


# The forms of the UI ask it.
FAB_PASSWORD_COMPLEXITY_ENABLED = True
FAB_PASSWORD_COMPLEXITY_VALIDATOR = _check_password


class _SecurityManager(FabAirflowSecurityManagerOverride):
    """Refuses short passwords in the API, too, which does not ask FAB's rule."""

    def _hash_password(self, password: str) -> str:
        # People whom a provider knows have an empty one, which logs nobody in.
        if password:
            try:
                _check_password(password)
            except PasswordComplexityValidationError as error:
                raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        return super()._hash_password(password)

    def add_user(self, *facts: object, password: str = "", hashed_password: str = "", **more: object) -> User:
        """Add a user, whose password is hashed before: Airflow would hide why it is refused."""
        hashed_password = hashed_password or self._hash_password(password)
        return super().add_user(*facts, hashed_password=hashed_password, **more)


SECURITY_MANAGER_CLASS = _SecurityManager


class _OidcSecurityManager(_SecurityManager):
    """Knows people by what every provider says of them, where FAB trusts names that they may choose."""

    def get_oauth_user_info(self, provider: str, resp: dict[str, Any]) -> dict[str, Any]:
        """Tell who has logged in.

        Args:
            provider: Its name, as configured.
            resp: Its answer: tokens, and in `userinfo` the claims of the ID token, which Authlib has verified.

        Returns:
            Columns of FAB's user, and in `role_keys` the groups. The user's name begins with the provider's, so that
            nobody takes over an account that Airflow or another provider keeps.

        Raises:
            ValueError: The provider's two answers are about two people.
            KeyError: It does not say who has logged in.
        """
        facts = _providers[provider]
        claims = dict(resp["userinfo"])
        remote = self.oauth_remotes[provider]
        if "userinfo_endpoint" in remote.server_metadata:
            more = remote.userinfo(token=resp)
            if more["sub"] != claims["sub"]:
                message = f"{provider} answers about another user"
                raise ValueError(message)
            claims |= more
        groups = claims.get(facts.get("groups_claim", "groups")) or []
        return {
            "username": f"{provider}_{claims[facts.get('username_claim', 'sub')]}",
            "first_name": claims.get("given_name") or claims.get("name", ""),
            "last_name": claims.get("family_name", ""),
            "email": claims.get("email", ""),
            "role_keys": [groups] if isinstance(groups, str) else groups,
        }


if not _providers:
    AUTH_TYPE = AUTH_DB
else:
    AUTH_TYPE = AUTH_OAUTH
    SECURITY_MANAGER_CLASS = _OidcSecurityManager
    AUTH_ROLES_MAPPING = _oidc["role_mapping"]
    AUTH_ROLES_SYNC_AT_LOGIN = _oidc["roles_sync"]
    AUTH_USER_REGISTRATION = True
    AUTH_USER_REGISTRATION_ROLE = _oidc["registration_role"]
    OAUTH_PROVIDERS = [
        {
            "name": provider["name"],
            "icon": "fa-sign-in",
            "token_key": "access_token",
            "remote_app": {
                "client_id": provider["client_id"],
                "client_secret": provider["client_secret"],
                "server_metadata_url": provider["metadata_url"],
                "client_kwargs": {
                    "scope": provider.get("scope", "openid profile email"),
                    "code_challenge_method": "S256",
                },
            },
        }
        for provider in _providers.values()
    ]
