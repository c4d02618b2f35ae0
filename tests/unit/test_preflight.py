"""Feeds each wrong value to the preflight and reads the error. No host is there: it must fail before it connects."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pristine
import pytest
import yaml
from forged_database import YESTERDAY, certificate

PROJECT = Path(__file__).parents[2]
HOST = "lvao-development"
FACTS = {
    "_ansible_facts_gathered": True,
    "ansible_all_ipv4_addresses": ["192.0.2.7"],
    "ansible_distribution": "Debian",
    "ansible_distribution_major_version": "13",
    "ansible_distribution_version": "13.1",
    "ansible_fqdn": "debian.localdomain",
    "ansible_memtotal_mb": 8192,
    "ansible_python_version": "3.13.5",
}

LVAO_PROJECT = json.loads(subprocess.check_output([PROJECT / "bin/project.py"]))

with tempfile.TemporaryDirectory() as keys:
    OF_ADDRESS = certificate(Path(keys), "10.0.0.9", "*.lvao.test")
    OF_AUTHORITY = certificate(Path(keys))
    EXPIRED = certificate(Path(keys), until=YESTERDAY)

METADATA = "https://sso.lvao.test/.well-known/openid-configuration"
SSO = {"name": "sso", "metadata_url": METADATA, "client_id": "airflow", "client_secret": "hidden"}
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
DUMP_BUCKET = {
    "airflow_database_dump_recipients": [
        RECIPIENT,
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN ops@lvao",
        f"ssh-rsa AAAAB3NzaC1yc2E{'A' * 353}==",
    ],
    "airflow_database_dump_bucket_url": "s3://lvao-dumps/airflow",
    "airflow_database_dump_access_key": "dumps",
    "airflow_database_dump_secret_key": "hidden",
}

KEY = {"name": "ci", "key": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'x' * 43} ci@lvao.test"}

PGDG = {
    "name": "pgdg",
    "uris": ["https://packages.lvao.test/pgdg"],
    "suites": ["bookworm-pgdg"],
    "components": ["main"],
    "signed_by": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDME\n-----END PGP PUBLIC KEY BLOCK-----",
}

BAD_INPUT = {
    "distribution": ({}, "runs Fedora 44, which is not supported: use Debian 13 or Debian 12"),
    "empty fernet key": ({"airflow_fernet_key": ""}, "airflow_fernet_key is empty: it must be 32 bytes"),
    "odd fernet key": ({"airflow_fernet_key": "x" * 44}, "airflow_fernet_key is not valid: it must be 32 bytes"),
    "empty JWT secret": ({"airflow_jwt_secret": ""}, "airflow_jwt_secret is empty: it must be 64 characters or more"),
    "short JWT secret": ({"airflow_jwt_secret": "x"}, "airflow_jwt_secret is not valid: it must be 64 characters"),
    "empty secret key": ({"airflow_secret_key": ""}, "airflow_secret_key is empty: it must be 16 characters or more"),
    "secret without a value": ({"airflow_jwt_secret": None}, "airflow_jwt_secret is empty"),
    "one secret twice": (
        {"airflow_jwt_secret": "x" * 64, "airflow_secret_key": "x" * 64},
        "at the start, and another than airflow_fernet_key and airflow_jwt_secret",
    ),
    "Python without a patch": (
        {"airflow_python_version": "3.12"},
        "airflow_python_version is '3.12': it must be a whole version, such as 3.12.16, or empty",
    ),
    "Python that no unit sees": (
        {"airflow_python_source": "/root/python3.12"},
        "airflow_python_source is '/root/python3.12': it must be the path of a Python on the host",
    ),
    "mirror of Pythons without a version": (
        {"airflow_python_source": "https://mirror.lvao.test/python"},
        "a mirror or an archive wants airflow_python_version, too",
    ),
    "archive of no version": (
        {"airflow_python_source": "/srv/python.tar.gz", "airflow_python_sha256": "0" * 64},
        "empty, or airflow_python_version must say which version the archive holds",
    ),
    "archive that is not there": (
        {"airflow_python_version": "3.12.1", "airflow_python_source": "/nowhere", "airflow_python_sha256": "0" * 64},
        "airflow_python_source is /nowhere, which is not on the controller: name an existing archive.",
    ),
    "another archive": (
        {"airflow_python_version": "3.12.1", "airflow_python_source": "/dev/null", "airflow_python_sha256": "0" * 64},
        "whose SHA-256 is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 and not that of",
    ),
    "Python that the lock is not for": (
        {"airflow_python_version": "3.10.19"},
        "The host's Python is 3.10.19, and ",
    ),
    "empty database password": ({"airflow_database_password": ""}, "airflow_database_password is empty: set it"),
    "empty admin password": ({"airflow_database_admin_password": ""}, "airflow_database_admin_password is empty"),
    "short admin password": ({"airflow_database_admin_password": "x" * 11}, "it must have 12 characters or more"),
    "admin password of another rule": (
        {"airflow_database_admin_password": "x" * 19, "airflow_webserver_password_min_length": 20},
        "airflow_database_admin_password is too short: it must have 20 characters or more",
    ),
    "passwords of any length": (
        {"airflow_webserver_password_min_length": 0},
        "airflow_webserver_password_min_length is 0: it must be a number of characters between 8 and 128",
    ),
    "no such sslmode": ({"airflow_database_sslmode": "yes"}, "value of airflow_database_sslmode must be one of"),
    "private key that dumps are encrypted to": (
        {"airflow_database_dump_recipients": [RECIPIENT, "AGE-SECRET-KEY-hidden", "ssh-ed25519 AAAA"]},
        "airflow_database_dump_recipients is wrong at 2, 3: it must be a list of public keys, age1… as age-keygen",
    ),
    "key that dumps are encrypted to, without a list": (
        {"airflow_database_dump_recipients": RECIPIENT},
        "airflow_database_dump_recipients is wrong: it must be a list of public keys",
    ),
    "dumps for no time": ({"airflow_database_dump_days": 0}, "airflow_database_dump_days is 0: it must be a number of"),
    "bucket of the dumps": (
        DUMP_BUCKET | {"airflow_database_dump_bucket_url": "lvao-dumps"},
        "airflow_database_dump_bucket_url is 'lvao-dumps': it must be s3://<bucket>",
    ),
    "bucket of the dumps without a key": (
        DUMP_BUCKET | {"airflow_database_dump_secret_key": ""},
        "airflow_database_dump_secret_key go together: set all three, or none",
    ),
    "bucket for dumps in clear": (
        DUMP_BUCKET | {"airflow_database_dump_recipients": []},
        "airflow_database_dump_bucket_url is set, and airflow_database_dump_recipients is empty",
    ),
    "database that nobody verifies": (
        {"airflow_database_host": "db.lvao.test", "airflow_database_sslmode": "require"},
        "airflow_database_sslmode is require, by which anybody between the hosts and db.lvao.test can pose as the",
    ),
    "no such channel binding": (
        {"airflow_database_channel_binding": "yes"},
        "value of airflow_database_channel_binding must be one of: disable, prefer, require",
    ),
    "certificate of the database that is none": (
        {"airflow_database_ca_certificate": "/etc/ssl/database.pem"},
        "airflow_database_ca_certificate is not valid: it must be one or more certificates in PEM",
    ),
    "certificate of the database that is damaged": (
        {"airflow_database_ca_certificate": OF_ADDRESS.replace("A", "B")},
        "airflow_database_ca_certificate is not valid: it must be one or more certificates in PEM",
    ),
    "certificate of the database that has expired": (
        {"airflow_database_host": "db.lvao.test", "airflow_database_ca_certificate": EXPIRED},
        f"airflow_database_ca_certificate has expired ({YESTERDAY:%Y%m%d%H%M%SZ}): it must be a certificate that",
    ),
    "certificate of another database": (
        {"airflow_database_host": "10.0.0.20", "airflow_database_ca_certificate": OF_ADDRESS},
        "airflow_database_host is 10.0.0.20, and the certificate in airflow_database_ca_certificate is for 10.0.0.9, "
        "*.lvao.test, a database: it must be one of these",
    ),
    "bucket": (
        {"airflow_logging_bucket_url": "lvao-preprod-airflow"},
        "airflow_logging_bucket_url is 'lvao-preprod-airflow': it must be s3://<bucket>",
    ),
    "missing endpoint": (
        {"airflow_logging_endpoint_url": ""},
        "airflow_logging_endpoint_url is '': it must be the address of the S3 API",
    ),
    "empty access key": ({"airflow_logging_access_key": ""}, "airflow_logging_access_key is empty: set it"),
    "empty S3 secret": ({"airflow_logging_secret_key": ""}, "airflow_logging_secret_key is empty: set it"),
    "unknown setting": (
        {"airflow_env": {"AIRFLOW__CORE__PARALELISM": 4}},
        "airflow_env holds names that Airflow does not know: AIRFLOW__CORE__PARALELISM",
    ),
    "one underscore, and what Airflow's images know": (
        {"airflow_env": {"AIRFLOW_CORE__PARALLELISM": 4, "_PIP_ADDITIONAL_REQUIREMENTS": "pandas"}},
        "airflow_env holds names that Airflow does not know: _PIP_ADDITIONAL_REQUIREMENTS, AIRFLOW_CORE__PARALLELISM",
    ),
    "connection of the logs": (
        {"airflow_env": {"AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "scalewaylogs"}},
        "airflow_env holds AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID: set airflow_logging_endpoint_url",
    ),
    "log connection": (
        {"airflow_env": {"AIRFLOW_CONN_S3LOGS": "aws://"}},
        "airflow_env holds AIRFLOW_CONN_S3LOGS: set airflow_logging_endpoint_url, _region, _access_key and _secret_key",
    ),
    "setting that a role has a variable for": (
        {"airflow_env": {"AIRFLOW__CORE__FERNET_KEY": ""}},
        "airflow_env holds AIRFLOW__CORE__FERNET_KEY: set airflow_fernet_key instead",
    ),
    "secret that Airflow would expand": (
        {"airflow_jwt_secret": "$HOME" + "x" * 64},
        "airflow_jwt_secret is not valid: it must be 64 characters or more, with no dollar sign",
    ),
    "time span": ({"airflow_stop_timeout": "an hour"}, "airflow_stop_timeout is 'an hour': it must be a time span"),
    "command with an option": (
        {"airflow_command_allowed": ["dags list", "dags test --post-mortem"]},
        "airflow_command_allowed holds dags test --post-mortem: each must be a command of Airflow's without options",
    ),
    "execution API": (
        {"airflow_execution_api_url": "http://10.0.0.3:8080/execution"},
        "it must be an address that ends with a slash",
    ),
    "confirmation": ({"airflow_confirm_timeout": "soon"}, "airflow_confirm_timeout is 'soon': it must be a time span"),
    "no patience": (
        {"airflow_heartbeat_timeout": 0},
        "airflow_heartbeat_timeout is '0': it must be a number of seconds",
    ),
    "no time for a file": (
        {"airflow_gate_file_timeout": -1},
        "airflow_gate_file_timeout is '-1': it must be a number of seconds below 1000, or 0 for as long as Airflow",
    ),
    "file to be warned of, by another path": (
        {"airflow_gate_warn": ["imports/*.py", "dags/asks.py", "/srv/dags/asks.py"]},
        "airflow_gate_warn holds dags/asks.py, /srv/dags/asks.py: each must be a path below the DAGs folder",
    ),
    "no tasks": ({"airflow_parallelism": 0}, "airflow_parallelism is '0': it must be 1 or more"),
    "no memory": ({"airflow_memory_mb": 0}, "airflow_memory_mb is '0': it must be 500 or more"),
    "no memory for the webserver": ({"airflow_webserver_memory_mb": 0}, "airflow_webserver_memory_mb is 0: it must be"),
    "no memory for tasks": ({"airflow_scheduler_memory_mb": 0}, "airflow_scheduler_memory_mb is 0: it must be 500"),
    "no memory for the proxy": ({"reverse_proxy_memory_mb": 0}, "reverse_proxy_memory_mb is '0': it must be 128"),
    "header": (
        {"reverse_proxy_headers": {"X-Site": 'a "b" c'}},
        "it must be names of letters, digits and hyphens, with values without double quotes",
    ),
    "header of two lines": (
        {"reverse_proxy_headers": {"X-Site": "a\nimport b"}},
        "it must be names of letters, digits and",
    ),
    "header with a backslash": (
        {"reverse_proxy_headers": {"X-Site": "a\\"}},
        "it must be names of letters, digits and",
    ),
    "network that is none": (
        {"reverse_proxy_sources": ["192.0.2.0/24", "10.0.0.0/64", "1.2", "999.1.1.1", ":", "::/0", "2001:db8::7"]},
        "reverse_proxy_sources is '192.0.2.0/24, 10.0.0.0/64, 1.2, 999.1.1.1, :, ::/0, 2001:db8::7': it must be",
    ),
    "address in place of a name": (
        {"reverse_proxy_domain": "203.0.113.7"},
        "reverse_proxy_domain is '203.0.113.7': it must be a host name in small letters",
    ),
    "name that nobody certifies": (
        {"reverse_proxy_domain": "airflow.local", "reverse_proxy_tls": "acme"},
        "reverse_proxy_domain is 'airflow.local': it must be a name that the Internet knows",
    ),
    "account whose password costs much": (
        {"reverse_proxy_accounts": {"lvao": f"$2a$14${'x' * 53}"}},
        "lvao in reverse_proxy_accounts is not an account",
    ),
    "another unit's user": (
        {"airflow_user": "lvao-airflow-webserver"},
        "airflow_user is 'lvao-airflow-webserver': it must be the name of a system user",
    ),
    "journal in clear": (
        {"common_journal_upload_url": "http://logs.lvao.test:19532"},
        "common_journal_upload_url holds http://logs.lvao.test:19532: it must be an address such as https://",
    ),
    "journal without a key": (
        {
            "common_journal_upload_url": "https://logs.lvao.test",
            "common_journal_upload_certificate": "BEGIN CERTIFICATE",
        },
        "common_journal_upload_certificate must be a certificate, and common_journal_upload_key its private key",
    ),
    "name in place of an address": (
        {"airflow_metadata_addresses": ["169.254.169.254", "metadata.google.internal"]},
        "airflow_metadata_addresses is '169.254.169.254, metadata.google.internal': it must be a list of IP addresses",
    ),
    "all of root's power": ({"airflow_user": "root"}, "airflow_user is 'root': it must be the name of a system user"),
    "the whole host": (
        {"airflow_directory": "/opt"},
        "airflow_directory is '/opt': it must be the path of a folder of its own",
    ),
    "a home that units do not see": (
        {"airflow_home": "/home/airflow"},
        "airflow_home is '/home/airflow': it must be the path",
    ),
    "folder that is not there": (
        {"airflow_release_folders": ["nowhere"]},
        "airflow_release_folders holds nowhere, and",
    ),
    "folder that leads out": (
        {"airflow_release_folders": ["../dbt"]},
        "airflow_release_folders holds '../dbt', which must be a path",
    ),
    "path of no folder": (
        {"airflow_release_folders": ["docs"], "airflow_release_python_path": ["scripts"]},
        "airflow_release_python_path holds 'scripts', which must be in dags, or be below one of these: docs",
    ),
    "variable of a release twice": (
        {"airflow_release_folders": ["docs"], "airflow_release_env": {"X": "docs"}, "airflow_env": {"X": "docs"}},
        "airflow_release_env and airflow_env both hold X: remove it from one of them",
    ),
    "no time to build": (
        {"airflow_release_build_timeout": 0},
        "airflow_release_build_timeout is '0': it must be a number of seconds",
    ),
    "project that is not there": (
        {"airflow_project_directory": "/nowhere"},
        "airflow_project_directory is /nowhere, which is not on the controller",
    ),
    "folder of the system": (
        {"airflow_work_directories": [{"path": "/srv/lvao"}, {"path": "/etc/lvao"}]},
        "airflow_work_directories holds '/etc/lvao': it must be the path of a folder of its own, such as /srv/lvao",
    ),
    "folder that everybody writes to": (
        {"airflow_work_directories": [{"path": "/srv/lvao", "mode": "0777"}]},
        "airflow_work_directories holds /srv/lvao with the mode 0777: it must be octal digits in quotes",
    ),
    "temporary folder in AIRFLOW_HOME": (
        {"airflow_temporary_directory": "/var/lib/airflow/tmp"},
        "airflow_temporary_directory holds /var/lib/airflow/tmp, and airflow_home /var/lib/airflow: neither may hold",
    ),
    "age of temporary files": (
        {"airflow_temporary_age": "a week"},
        "airflow_temporary_age is 'a week': it must be an age of systemd-tmpfiles, such as 7d",
    ),
    "no release": ({"airflow_releases_kept": 0}, "airflow_releases_kept is '0': it must be 1 or more"),
    "drain": (
        {"airflow_scheduler_drain_timeout": -1},
        "airflow_scheduler_drain_timeout is -1: it must be a number of seconds",
    ),
    "drained in words": ({"airflow_scheduler_drain_timeout_action": "stop"}, "must be one of: wait, fail, kill"),
    "no workers": ({"airflow_webserver_workers": 0}, "airflow_webserver_workers is 0: it must be 1 or more"),
    "workers in words": ({"airflow_webserver_workers": "many"}, "'airflow_webserver_workers' is of type str"),
    "provider without a client": (
        {"airflow_webserver_oidc_providers": [{"name": "sso", "metadata_url": METADATA, "client_secret": "hidden"}]},
        "missing required arguments: client_id found in airflow_webserver_oidc_providers",
    ),
    "provider of an odd name": (
        {"airflow_webserver_oidc_providers": [SSO | {"name": "my_sso"}]},
        "airflow_webserver_oidc_providers holds my_sso: a name must have small letters, digits and hyphens",
    ),
    "provider twice": (
        {"airflow_webserver_oidc_providers": [SSO, SSO | {"client_id": "other"}]},
        "airflow_webserver_oidc_providers holds sso: each name must stand once",
    ),
    "provider without an address": (
        {"airflow_webserver_oidc_providers": [SSO | {"metadata_url": ""}]},
        "airflow_webserver_oidc_providers holds sso: its metadata_url must be the https:// address of a discovery",
    ),
    "provider in clear": (
        {"airflow_webserver_oidc_providers": [SSO | {"metadata_url": METADATA.replace("https", "http")}]},
        "airflow_webserver_oidc_providers holds sso: its metadata_url must be",
    ),
    "provider that is a placeholder": (
        {"airflow_webserver_oidc_providers": [SSO | {"metadata_url": METADATA.replace("lvao.test", "example.org")}]},
        "airflow_webserver_oidc_providers holds sso: its metadata_url must be",
    ),
    "provider with an empty secret": (
        {"airflow_webserver_oidc_providers": [SSO | {"client_secret": ""}]},
        "airflow_webserver_oidc_providers holds sso: its client_id and client_secret must be what the provider gave",
    ),
    "role of a group": (
        {"airflow_webserver_role_mapping": {"data-team": ["Operator"]}},
        "airflow_webserver_role_mapping holds Operator: a role must be one of Admin, Op, User, Viewer, Public, or",
    ),
    "group with no list": (
        {"airflow_webserver_role_mapping": {"data-team": "Op"}},
        "airflow_webserver_role_mapping holds data-team: each group must have a list of roles",
    ),
    "role of who is new": (
        {"airflow_webserver_registration_role": "Reader"},
        "airflow_webserver_registration_role holds Reader: a role must be one of Admin, Op, User, Viewer, Public, or",
    ),
    "role without permissions": (
        {"airflow_webserver_custom_roles": {"Rerunner": None}},
        "airflow_webserver_custom_roles holds Rerunner: each role must have a list of mappings with action and",
    ),
    "role of odd permissions": (
        {"airflow_webserver_custom_roles": {"Rerunner": [{"action": "can_edit", "on": "DAG Runs"}]}},
        "each role must have a list of mappings with action and resource",
    ),
    "everybody an operator": (
        {"airflow_webserver_public_role": "Op"},
        "value of airflow_webserver_public_role must be one of: , Public, Viewer, got: Op",
    ),
    "proxy address": (
        {"reverse_proxy_host": "10.0.0.9"},
        "reverse_proxy_host is '10.0.0.9': it must be 127.0.0.1, 0.0.0.0, or an address of the host (192.0.2.7)",
    ),
    "private address": (
        {"reverse_proxy_private_address": "10.0.0.9"},
        "reverse_proxy_private_address is '10.0.0.9': it must be empty, or an address of the host (192.0.2.7)",
    ),
    "private port": (
        {"reverse_proxy_private_port": 8080},
        "reverse_proxy_private_port is '8080': it must be a TCP port, another than reverse_proxy_port",
    ),
    "private certificate": (
        {
            "reverse_proxy_private_address": "192.0.2.7",
            "reverse_proxy_private_certificate": "none",
            "airflow_execution_api_ca_certificate": "of its authority",
        },
        "reverse_proxy_private_certificate is set: reverse_proxy_private_certificate must be a certificate,",
    ),
    "private certificate that nobody trusts": (
        {"reverse_proxy_private_address": "192.0.2.7", "reverse_proxy_private_certificate": "none"},
        "reverse_proxy_private_certificate is set, and airflow_execution_api_ca_certificate is empty: it must be the",
    ),
    "authority of the Execution API": (
        {"airflow_execution_api_ca_certificate": "/etc/ssl/ca.pem"},
        "airflow_execution_api_ca_certificate is '/etc/ssl/ca.pem': it must be one or more certificates in PEM",
    ),
    "proxy port": ({"reverse_proxy_port": 80800}, "reverse_proxy_port is '80800': it must be a TCP port"),
    "private side on the public one's port": (
        {"reverse_proxy_port": 80, "reverse_proxy_domain": "airflow.lvao.test", "reverse_proxy_tls": "internal"},
        "reverse_proxy_port is '80': it must be a TCP port, and with a reverse_proxy_domain not 80 or 443",
    ),
    "webserver port": ({"airflow_webserver_port": 99999}, "airflow_webserver_port is 99999: it must be a TCP port"),
    "port of two": (
        {"airflow_webserver_execution_api_port": 8081},
        "airflow_webserver_execution_api_port is 8081: it must be a TCP port, and another than airflow_webserver_port",
    ),
    "no workers for tasks": (
        {"airflow_webserver_execution_api_workers": 0},
        "airflow_webserver_execution_api_workers is 0: it must be 1 or more",
    ),
    "no memory for the Execution API": (
        {"airflow_webserver_execution_api_memory_mb": 0},
        "airflow_webserver_execution_api_memory_mb is 0: it must be 500 or more",
    ),
    "nothing of a log": ({"airflow_webserver_log_mb": 0}, "airflow_webserver_log_mb is 0: it must be 1 or more"),
    "session": (
        {"airflow_webserver_session_max_lifetime_minutes": -1},
        "airflow_webserver_session_max_lifetime_minutes is -1: it must be a number of minutes, or 0",
    ),
    "upstream": (
        {"reverse_proxy_upstream": "localhost"},
        "reverse_proxy_upstream is 'localhost': it must be an address",
    ),
    "one port twice": (
        {"reverse_proxy_upstream": "127.0.0.1:8080"},
        "8080': it must be an address and a port, such as 127.0.0.1",
    ),
    "upstream of tasks": (
        {"reverse_proxy_execution_upstream": "127.0.0.1:8080"},
        "reverse_proxy_execution_upstream is '127.0.0.1:8080': it must be an address and a port, such as 127.0.0.1:",
    ),
    "gate of tasks": (
        {"reverse_proxy_execution_gate": "open"},
        "reverse_proxy_execution_gate is 'open': it must be the path of a file",
    ),
    "gate": ({"reverse_proxy_gate": "open"}, "reverse_proxy_gate is 'open': it must be the path of a file"),
    "domain": (
        {"reverse_proxy_domain": "https://airflow.lvao.test"},
        "reverse_proxy_domain is 'https://airflow.lvao.test': it must be a host name in small letters",
    ),
    "where the certificate comes from": ({"reverse_proxy_tls": "none"}, "value of reverse_proxy_tls must be one of"),
    "authority": (
        {"reverse_proxy_acme_directory": "letsencrypt"},
        "reverse_proxy_acme_directory is 'letsencrypt': it must be the https:// address of an ACME directory",
    ),
    "no time for a certificate": (
        {"reverse_proxy_certificate_timeout": 0},
        "reverse_proxy_certificate_timeout is '0': it must be a number of seconds, 5 or more",
    ),
    "mail": ({"reverse_proxy_acme_email": "ops"}, "reverse_proxy_acme_email is 'ops': it must be an address of mail"),
    "size": ({"reverse_proxy_body_limit": 10}, "reverse_proxy_body_limit is '10': it must be a size such as 10MB"),
    "allow-list": (
        {"reverse_proxy_sources": ["192.0.2.0/24", "the office"]},
        "reverse_proxy_sources is '192.0.2.0/24, the office': it must be addresses and networks",
    ),
    "network of programs": (
        {"reverse_proxy_token_sources": ["everybody"]},
        "reverse_proxy_token_sources is 'everybody': it must be addresses and networks",
    ),
    "account": (
        {"reverse_proxy_accounts": {"lvao": "a password in clear"}},
        "lvao in reverse_proxy_accounts is not an account: it must have a name",
    ),
    "no certificate": (
        {"reverse_proxy_domain": "airflow.lvao.test", "reverse_proxy_tls": "files"},
        "reverse_proxy_tls is files: reverse_proxy_certificate must be a certificate",
    ),
    "public address": (
        {"airflow_base_url": "https://airflow.example.org/airflow"},
        "airflow_base_url is 'https://airflow.example.org/airflow': it must be an address without a path",
    ),
    "time for a body": (
        {"reverse_proxy_body_timeout": 120},
        "reverse_proxy_body_timeout is '120': it must be a duration such as 90s or 3m",
    ),
    "time for an answer": (
        {"reverse_proxy_response_timeout": "1h30"},
        "reverse_proxy_response_timeout is '1h30': it must be a duration such as 90s or 3m",
    ),
    "time between requests": (
        {"reverse_proxy_idle_timeout": "0s"},
        "reverse_proxy_idle_timeout is '0s': it must be a duration such as 90s or 3m",
    ),
    "no memory for the private side": (
        {"reverse_proxy_private_memory_mb": 64},
        "reverse_proxy_private_memory_mb is '64': it must be 128 or more",
    ),
    "hold": ({"reverse_proxy_hold": "a while"}, "reverse_proxy_hold is 'a while': it must be a duration such as 90s"),
    "connection id": (
        {"airflow_connections": {"web-app": "http://x"}},
        "web-app in airflow_connections is not valid: its id must have letters, digits and underscores",
    ),
    "connection without a type": (
        {"airflow_connections": {"webapp": {"host": "x"}}},
        "webapp in airflow_connections is not valid: its id",
    ),
    "connection with an odd key": (
        {"airflow_connections": {"webapp": {"conn_type": "http", "passwd": "hidden"}}},
        "a mapping with conn_type and some of description, extra, host, login, password, port, schema",
    ),
    "connection that is no URI": (
        {"airflow_connections": {"webapp": "hidden"}},
        "webapp in airflow_connections is not valid: its id",
    ),
    "log connection among others": (
        {"airflow_connections": {"S3logs": "aws://"}},
        "S3logs in airflow_connections is not valid: it is made of airflow_logging_endpoint_url",
    ),
    "variable key": ({"airflow_variables": {"a-b": 1}}, "a-b in airflow_variables is not a key"),
    "pool without slots": ({"airflow_pools": {"loads": {}}}, "loads in airflow_pools is not a pool: it must be"),
    "pool with an odd key": (
        {"airflow_pools": {"loads": {"slots": 1, "size": 2}}},
        "loads in airflow_pools is not a pool",
    ),
    "connection that is nothing": (
        {"airflow_connections": {"webapp": None}},
        "webapp in airflow_connections is not valid: its id",
    ),
    "pool of words": ({"airflow_pools": {"loads": {"slots": "many"}}}, "loads in airflow_pools is not a pool"),
    "certificate": ({"common_ca_certificates": ["/nowhere.pem"]}, "common_ca_certificates holds /nowhere.pem"),
    "proxy": ({"common_proxy_url": "proxy:3128"}, "common_proxy_url holds proxy:3128: it must be an address such as"),
    "proxy password": ({"common_proxy_url": "http://me:pw@proxy"}, "without a password, or empty"),
    "package of no name": (
        {"common_packages_extra": ["gdal-bin", "jq; reboot"]},
        "common_packages_extra holds jq; reboot: each must be the name of a Debian package",
    ),
    "apt repository without a key": (
        {"common_apt_repositories": [{**PGDG, "signed_by": "/nowhere.asc"}]},
        "pgdg in common_apt_repositories: signed_by is not valid: it must be a key that begins with -----BEGIN PGP",
    ),
    "apt repository without suites": (
        {"common_apt_repositories": [{name: PGDG[name] for name in PGDG if name != "suites"}]},
        "missing required arguments: suites found in common_apt_repositories",
    ),
    "program that is not pinned": (
        {"common_binaries": [{"name": "scw", "url": "https://lvao.test/scw", "sha256": "latest"}]},
        "scw in common_binaries: sha256 must be 64 hexadecimal digits in small letters, as sha256sum prints them",
    ),
    "program that is another": (
        {"common_binaries": [{"name": "scw", "path": "/etc/hostname", "sha256": "0" * 64}]},
        "scw in common_binaries: /etc/hostname has the SHA-256",
    ),
    "host without an address": ({"common_hosts": {"elsewhere": "yes"}}, "common_hosts holds elsewhere: each name must"),
    "host of another name": (
        {"common_hosts": {"elsewhere": "192.0.2.7"}},
        "calls itself debian.localdomain",
    ),
    "odd name": ({"airflow_env": {"my-name": 4}}, "airflow_env holds names that Airflow does not know: my-name"),
    "no DAGs": ({"airflow_dags_source": "/nowhere"}, "airflow_dags_source is /nowhere, which is not on the controller"),
    "storage access key": ({"object_storage_access_key": "lvao"}, "it must be <account>:<user>"),
    "storage secret key": ({"object_storage_secret_key": "x"}, "object_storage_secret_key is too short"),
    "time of reboots": (
        {"baseline_upgrades_reboot_time": "4:30"},
        "baseline_upgrades_reboot_time is '4:30': it must be a time of day, in quotes, such as",
    ),
    "setting of the kernel": (
        {"baseline_sysctl": {"vm.swappiness": 10, "ptrace scope": 1, "kernel.kptr_restrict": ""}},
        "baseline_sysctl holds ptrace scope, kernel.kptr_restrict: each must be the name of a setting",
    ),
    "setting of the kernel on two lines": (
        {"baseline_sysctl": {"vm.swappiness": "10\nkernel.sysrq = 1"}},
        "baseline_sysctl holds vm.swappiness: each must be the name of a setting, such as kernel.kptr_restrict",
    ),
    "deploy key of an odd name": (
        {"deploy_user_keys": [KEY | {"name": "CI of Monday"}]},
        "deploy_user_keys holds CI of Monday: a name must have letters, digits and the signs",
    ),
    "deploy key twice": (
        {"deploy_user_keys": [KEY, KEY | {"name": "ci-2"}]},
        "deploy_user_keys holds ci, ci-2: each name and each key must stand once",
    ),
    "deploy key with options": (
        {"deploy_user_keys": [KEY | {"key": f'command="sh" {KEY["key"]}'}]},
        "deploy_user_keys holds ci: its key must be one line of a .pub file",
    ),
    "two deploy keys in one": (
        {"deploy_user_keys": [KEY | {"key": f"{KEY['key']}\n{KEY['key']}"}]},
        "deploy_user_keys holds ci: its key must be one line of a .pub file",
    ),
    "deploy key from a name": (
        {"deploy_user_keys": [KEY | {"from": ["192.0.2.0/24", "*.example.org"]}]},
        "deploy_user_keys holds *.example.org: from must be a list of addresses and networks",
    ),
    "deploy keys of nobody": (
        {"deploy_user_keys": [KEY]},
        "deploy_user_name holds nothing: set it, or ansible_user, to the user that Ansible logs in as",
    ),
    "no time for a deploy key": (
        {"deploy_user_confirm_timeout": 1},
        "deploy_user_confirm_timeout holds 1: it must be 15 seconds or more",
    ),
    "SSH port": ({"firewall_ssh_port": 0}, "firewall_ssh_port holds 0: it must be a TCP port, from 1 to 65535"),
    "public port": (
        {"firewall_public_ports": [443, 80800]},
        "firewall_public_ports holds 80800: it must be a list of TCP ports, from 1 to 65535",
    ),
    "few connections of a source": (
        {"firewall_connections_per_source": 0},
        "firewall_connections_per_source holds 0: it must be 10 or more",
    ),
    "few new connections of a source": (
        {"firewall_new_connections_per_second": 1},
        "firewall_new_connections_per_second holds 1: it must be 10 or more",
    ),
    "source without bounds": (
        {"firewall_unlimited_sources": ["the load balancer"]},
        "firewall_unlimited_sources holds the load balancer: sources must be a list of IPv4 and IPv6 addresses, and of",
    ),
    "public port without a list": (
        {"firewall_public_ports": "443"},
        "firewall_public_ports holds 443: it must be a list",
    ),
    "port in words": ({"firewall_public_ports": ["https"]}, "firewall_public_ports"),
    "port of a rule": (
        {"firewall_rules": [{"ports": [8793, -1], "sources": ["10.0.0.3"], "comment": "logs"}]},
        "firewall_rules holds -1: ports must be a list of numbers from 1 to 65535, and of ranges such as 9100-9110",
    ),
    "ranges of ports": (
        {"firewall_extra_rules": [{"ports": ["9110-9100", "9100-91100", "ssh", 22], "sources": [], "comment": "x"}]},
        "firewall_extra_rules holds 9110-9100, 9100-91100, ssh: ports must be a list of numbers",
    ),
    "port of a rule without a list": (
        {"firewall_extra_rules": [{"ports": "161", "sources": [], "comment": "SNMP"}]},
        "firewall_extra_rules holds 161: ports must be a list",
    ),
    "protocol of a rule": (
        {"firewall_extra_rules": [{"ports": [161], "protocol": "icmp", "sources": [], "comment": "SNMP"}]},
        "value of protocol must be one of: tcp, udp, got: icmp found in firewall_extra_rules",
    ),
    "SSH source": (
        {"firewall_ssh_sources": ["192.0.2.0/24", "2001:db8::/32", "office.example.org"]},
        "firewall_ssh_sources holds office.example.org: sources must be a list of IPv4 and IPv6 addresses, and of",
    ),
    "SSH source without a list": (
        {"firewall_ssh_sources": "192.0.2.7"},
        "firewall_ssh_sources holds 192.0.2.7: sources must be a list",
    ),
    "address or network": (
        {"firewall_ssh_sources": ["192.0.2.7/24"]},
        "firewall_ssh_sources holds 192.0.2.7/24: sources must",
    ),
    "source of a rule": (
        {"firewall_extra_rules": [{"ports": [9100], "sources": ["::1/129"], "comment": "monitoring"}]},
        "firewall_extra_rules holds ::1/129: sources must be a list of IPv4 and IPv6 addresses",
    ),
    "source of a rule without a list": (
        {"firewall_extra_rules": [{"ports": [9100], "sources": "10.0.0.3", "comment": "monitoring"}]},
        "firewall_extra_rules holds 10.0.0.3: sources must be a list",
    ),
    "rule without sources": (
        {"firewall_extra_rules": [{"ports": [9100], "comment": "monitoring"}]},
        "missing required arguments: sources found in firewall_extra_rules",
    ),
    "comment that ends the rule": (
        {"firewall_extra_rules": [{"ports": [9100], "sources": [], "comment": 'x" accept'}]},
        "a comment must be 1 to 100 characters of ASCII",
    ),
    "no time to confirm": ({"firewall_confirm_timeout": 1}, "firewall_confirm_timeout holds 1: it must be 5 seconds"),
    "network": (
        {"postgresql_allowed_networks": ["10.0.0.1"]},
        "postgresql_allowed_networks must hold networks",
    ),
}

# What a mistaken rule might refuse.
GOOD_INPUT = {
    "address": {"airflow_database_host": "10.0.0.9", "airflow_database_ca_certificate": OF_ADDRESS},
    "name": {"airflow_database_host": "db.lvao.test", "airflow_database_ca_certificate": EXPIRED + OF_ADDRESS},
    "authority": {"airflow_database_host": "db.elsewhere.test", "airflow_database_ca_certificate": OF_AUTHORITY},
    "unverified": {
        "airflow_database_host": "db.lvao.test",
        "airflow_database_sslmode": "require",
        "airflow_database_allow_unverified": True,
    },
    "folders of tasks": {
        "airflow_work_directories": [{"path": "/srv/lvao"}, {"path": "/data/exports", "mode": "0755"}],
        "airflow_temporary_directory": "/data/tmp",
    },
    "packages, repositories and programs": {
        "common_packages_extra": ["gdal-bin", "jq", "libpq5:amd64"],
        "common_apt_repositories": [PGDG],
        "common_binaries": [{"name": "scw", "url": "https://lvao.test/scw.tgz", "sha256": "0" * 64, "member": "scw"}],
    },
}


def write_facts(cache: Path, host: str, facts: dict) -> None:
    """Write what is known of a host, as ansible-core's cache does, so that nothing need be gathered."""
    (cache / f"s1_{host}").write_text(json.dumps({"__payload__": json.dumps(FACTS | facts)}))


def variables(folder: Path) -> dict:
    """Name a host that is not there, and an environment of our own."""
    nowhere = {"ansible_connection": "ssh", "ansible_host": "localhost", "ansible_port": 1}
    return nowhere | {
        "lvao_environment": "unit-tests",
        # Which each host would ask for itself, many times.
        "lvao_project": LVAO_PROJECT,
        "lvao_env_file": "/nowhere",
        "lvao_secrets": str(folder / "secrets"),
    }


def ansible_playbook(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ansible-playbook", *arguments],
        env=os.environ | {"ANSIBLE_CACHE_PLUGIN": "jsonfile", "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(cache)},
        cwd=PROJECT,
        text=True,
        capture_output=True,
        check=False,
    )


def preflight(
    folder: Path, values: dict, inventory: str = "inventories/development"
) -> subprocess.CompletedProcess[str]:
    """Run the preflight of development, with some values changed."""
    write_facts(folder, HOST, {})
    changed = json.dumps(variables(folder) | values)
    return ansible_playbook(folder, "-i", inventory, "playbooks/preflight.yml", "--extra-vars", changed)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "airflow_webserver_oidc_providers": [SSO, SSO | {"name": "other", "groups_claim": "roles"}],
            "airflow_webserver_role_mapping": {"data-team": ["Op", "Rerunner"], "guests": []},
            "airflow_webserver_registration_role": "Viewer",
            "airflow_webserver_custom_roles": {"Rerunner": [{"action": "can_edit", "resource": "DAG Runs"}]},
            "airflow_webserver_public_role": "Viewer",
        },
        {
            "airflow_release_folders": ["docs", "tests/shared"],
            "airflow_release_python_path": ["tests/shared", "."],
            "airflow_release_env": {"DOCS": "docs", "ONE_DAG": "dags/repair_shops.py"},
            "airflow_release_include": ["dags/x"],
            "airflow_release_build_command": ["true"],
        },
        DUMP_BUCKET,
    ],
    ids=["of development", "of accounts", "of releases", "of dumps"],
)
def test_good_input_passes(tmp_path: Path, values: dict) -> None:
    ended = preflight(tmp_path, values)
    assert ended.returncode == 0, ended.stdout
    assert "WARNING" not in ended.stdout + ended.stderr


def checks(role: str) -> dict:
    return {"ansible.builtin.import_role": {"name": role, "tasks_from": "preflight"}}


def knows(role: str, values: dict) -> bool:
    """Tell whether a role checks one of some variables. Where there are none it is facts, which `common` checks."""
    specs = yaml.safe_load((PROJECT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]
    return not {*specs["preflight"].get("options", {})}.isdisjoint(values) if values else role == "common"


def test_bad_input_gets_a_clear_error(tmp_path: Path) -> None:
    """For one run to check them all, each case has a host of its own, which only the roles look at that it is for."""
    cases = BAD_INPUT | {case: (values, "") for case, values in GOOD_INPUT.items()}
    hosts = {case: f"case-{number}" for number, case in enumerate(cases)}
    fedora = {"ansible_distribution": "Fedora", "ansible_distribution_major_version": "44"}
    for case, host in hosts.items():
        write_facts(tmp_path, host, fedora if case == "distribution" else {})
    # A run ends with a play whose hosts have all failed.
    write_facts(tmp_path, "good", {})
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    (inventory / "group_vars").symlink_to(PROJECT / "group_vars")
    alone = variables(tmp_path) | {"lvao_on_one_host": True, "firewall_rules": []}
    of_hosts = {host: alone | cases[case][0] for case, host in hosts.items()} | {"good": alone}
    groups = {group: {"hosts": of_hosts} for group in ("scheduler", "webserver", "database", "object_storage")}
    groups["development"] = {"hosts": of_hosts}
    groups["airflow"] = {"children": {"development": {}}}
    (inventory / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    imported = (PROJECT / "playbooks/tasks/check.yml").read_text()
    roles = re.findall(r"import_role: \{name: (\w+), tasks_from: preflight\}", imported)
    concerned = {role: [host for case, host in hosts.items() if knows(role, cases[case][0])] for role in roles}
    # The other roles of Airflow know its role's defaults.
    known = {"ansible.builtin.import_role": {"name": "airflow", "tasks_from": "apply"}, "when": False}
    plays = [
        {"hosts": ["good", *concerned[role]], "gather_facts": False, "tasks": [known, checks(role)]} for role in roles
    ]
    (tmp_path / "plays.json").write_text(json.dumps(plays))
    ended = ansible_playbook(tmp_path, "--forks=2", "-i", str(inventory), str(tmp_path / "plays.json"))
    refusals = dict.fromkeys([*hosts.values(), "good"], "")
    for refused, said in re.findall(r"^(?:fatal|failed): \[(\S+)\](.*(?:\n\s.*|\n$)*)", ended.stdout, re.MULTILINE):
        refusals[refused] += " ".join(said.split()).replace("''", "'")
    wrong = {case: refusals[host] for case, host in hosts.items() if cases[case][1] not in refusals[host]}
    assert not wrong, ended.stdout
    assert not any(refusals[host] for host in ("good", *(hosts[case] for case in GOOD_INPUT)))
    assert "x" * 44 not in ended.stdout
    assert "hidden" not in ended.stdout


@pytest.mark.parametrize("name", ["preprod", "prod"])
def test_each_environment_has_a_database_and_a_bucket_of_its_own(tmp_path: Path, name: str) -> None:
    pristine.copy(tmp_path, "inventories", "group_vars")
    wanted = (
        "[airflow_database_name, airflow_database_sslmode, airflow_logging_bucket_url, airflow_logging_endpoint_url]"
    )
    ended = subprocess.run(
        ["ansible", "-i", tmp_path / f"inventories/{name}", "all", "-m", "debug", "-a", f"msg={{{{ {wanted} }}}}"],
        cwd=tmp_path,  # for it reads the group_vars that are here, too
        text=True,
        capture_output=True,
        check=True,
    )
    for value in (
        f"- lvao-{name}-airflow",
        "- verify-full",
        f"- s3://lvao-{name}-airflow",
        "- https://s3.fr-par.scw.cloud",
    ):
        assert f"{value}\n" in ended.stdout


@pytest.mark.parametrize("name", ["airflow_jwt_secret", "airflow_logging_endpoint_url", "airflow_database_password"])
def test_a_missing_value_is_named(tmp_path: Path, name: str) -> None:
    inventory = tmp_path / "inventory"
    shutil.copytree(PROJECT / "inventories/development", inventory)
    values = inventory / "group_vars/development/vars.yml"
    lines = values.read_text().splitlines(keepends=True)
    values.write_text("".join(line for line in lines if not line.startswith(f"{name}:")))
    ended = preflight(tmp_path, {}, str(inventory))
    assert ended.returncode == 2, ended.stdout
    assert f"missing required arguments: {name}" in ended.stdout


def test_the_admin_is_held_to_the_rule_of_all() -> None:
    defaults = yaml.safe_load((PROJECT / "roles/airflow_webserver/defaults/main.yml").read_text())
    rule = f"airflow_webserver_password_min_length | default({defaults['airflow_webserver_password_min_length']})"
    assert rule in (PROJECT / "roles/airflow_database/vars/main.yml").read_text()


@pytest.mark.parametrize("name", [path.stem for path in sorted((PROJECT / "playbooks").glob("*.yml"))])
def test_only_what_installs_asks_for_a_lock_that_fits(name: str) -> None:
    content = (PROJECT / f"playbooks/{name}.yml").read_text()
    tasks = [task for play in yaml.safe_load(content) for one in play.get("tasks", []) for task in one.get("block", [])]
    checks = [task for task in tasks if task.get("ansible.builtin.import_tasks") == "tasks/check.yml"]
    installs = re.search(r"tasks_from: (install|dags)\}", content) is not None
    assert all(task.get("vars", {}).get("__airflow_installs", True) == installs for task in checks)
