"""How people log in to Airflow's UI, as its FAB auth manager reads it when the webserver starts.

What differs between environments comes in the environment variable LVAO_OIDC, for it holds secrets: a JSON object
with `providers`, `role_mapping`, `registration_role` and `roles_sync`. Without providers, Airflow asks for its own
passwords.
"""

import json
import os
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride
from flask import request
from flask_appbuilder.const import AUTH_DB, AUTH_OAUTH

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


class _OidcSecurityManager(FabAirflowSecurityManagerOverride):
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
