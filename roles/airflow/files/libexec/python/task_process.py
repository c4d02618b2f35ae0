"""What the processes that run the code of DAGs start with: no secret that they do not need, and crashes that end.

Airflow forks one for each task, one for each DAG file that it parses, and one for all triggers. The parent of such a
process writes its log, and masks secrets there. The executor calls `prepare` in the scheduler;
`python -P -m task_process COMMAND` is `airflow COMMAND` with `protect_secrets`.
"""

import faulthandler
import functools
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from urllib.parse import quote, quote_plus, unquote

import structlog
from airflow.__main__ import main
from airflow._shared import secrets_masker
from airflow.configuration import conf
from airflow.dag_processing.importers import python_importer
from airflow.models import crypto
from airflow.sdk import crypto as sdk_crypto
from airflow.sdk import log
from airflow.sdk._shared import secrets_masker as sdk_secrets_masker
from airflow.sdk.definitions.connection import Connection
from airflow.sdk.execution_time import supervisor
from airflow.sdk.log import mask_logs
from setproctitle import getproctitle, setproctitle

# What the scheduler, the DAG processor and the triggerer need, and the code of DAGs does not: it reaches Airflow's
# database by the Execution API alone.
UNNEEDED = re.compile(
    "AIRFLOW__(API__SECRET_KEY|API_AUTH__JWT_SECRET|CELERY__(BROKER_URL|RESULT_BACKEND)|CORE__FERNET_KEY"
    "|(CORE|DATABASE)__SQL_ALCHEMY_CONN(_ASYNC)?|DATABASE__SQL_ALCHEMY_ENGINE_ARGS)(_CMD|_SECRET)?"
)
PASSWORD_IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]*:([^/\s]+)@", re.IGNORECASE)
# Airflow's list of secret settings lacks those of some providers.
SECRET_SETTING = re.compile(
    "AIRFLOW__(.+(PASSWORD|SECRET|TOKEN|DSN|(ACCESS|API|PRIVATE|SECRET)_KEY)"
    "|(SECRETS|WORKERS)__(SECRETS_)?BACKEND_KWARG__.+)"
)
# Variables whose names sound like a secret hold such words, too.
PLAIN = re.compile(r"true|false|none|null|[\d.]+", re.IGNORECASE)
# A shorter line of a secret with several lines may be a word of the log.
SHORTEST_LINE = 12
# More than a socket holds.
BUFFER_SIZE = 2**18


def spellings(secret: str) -> set[str]:
    r"""Spell a secret in every way that a log may show it: raw, in JSON, in Python's `repr`, in an address, in a shell.

    Args:
        secret: A password, for example.

    Returns:
        What to mask. A program's output is masked line by line, so each line of the secret is there as well.
    """
    texts = {secret, *(line for line in secret.splitlines() if len(line) >= SHORTEST_LINE and line[:5] != "-----")}
    texts |= {form for text in texts for form in _in_json(text)}  # a connection
    found = texts | {form for text in texts for form in _in_json(text)}
    # With a double quote in it, `repr` escapes single quotes.
    found |= {form for text in texts for form in (repr(text)[1:-1], repr('"' + text)[2:-1])}
    found |= {re.sub(r'(["\\$`])', r"\\\1", text) for text in texts}
    found |= {form for text in texts if "'" in text for form in (text.replace("'", r"'\''"), shlex.quote(text)[1:-1])}
    # As a shell without a locale shows what is not ASCII.
    found |= {re.sub(r"[^ -~]", _in_octal, re.sub(r"(['\\])", r"\\\1", text)) for text in texts}
    return found | {quote(secret), quote(secret, safe=""), quote_plus(secret)}


def _in_json(text: str) -> list[str]:
    return [json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)]


def _in_octal(character: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in character[0].encode())


def secrets_in(
    environment: Mapping[str, str], settings: Iterable[tuple[str, str]], hides: Callable[[str], bool]
) -> set[str]:
    """Find the secrets that an environment holds.

    Args:
        environment: Names and values.
        settings: Section and key of Airflow's settings that are secret.
        hides: Whether the name of a variable, or of a field, says that its value is secret.

    Returns:
        Their values.
    """
    secret_settings = {f"AIRFLOW__{section}__{key}".upper().replace(".", "_") for section, key in settings}
    found = set()
    for name, value in environment.items():
        found |= {form for match in PASSWORD_IN_URL.findall(value) for form in (match, unquote(match))}
        if name.startswith("AIRFLOW_CONN_"):
            found |= set(_secrets_in_connection(value, hides))
            continue
        if name.startswith("AIRFLOW__"):
            secret = name in secret_settings or UNNEEDED.fullmatch(name) or SECRET_SETTING.fullmatch(name)
        else:
            secret = hides(name.removeprefix("AIRFLOW_VAR_")) and "PROXY" not in name.upper()
        if secret:
            # A rotation sets the new fernet key before the old one.
            found |= {value, *(value.split(",") if name.endswith("FERNET_KEY") else ())}
        with suppress(ValueError):
            found |= set(_secrets_in_fields(json.loads(value), hides))
    return {secret for secret in found if secret and not PLAIN.fullmatch(secret)}


def _secrets_in_connection(value: str, hides: Callable[[str], bool]) -> Iterator[str]:
    # Airflow says by itself what is wrong with a connection, to who asks for it.
    with suppress(Exception):
        parse = Connection.from_json if value.lstrip().startswith("{") else Connection.from_uri
        connection = parse(value, conn_id="of-the-environment")
        yield connection.password or ""
        if connection.conn_type == "aws":
            yield connection.login or ""
        yield from _secrets_in_fields(json.loads(connection.extra or "{}"), hides)


def _secrets_in_fields(value: object, hides: Callable[[str], bool], secret: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for name, field in value.items():
            yield from _secrets_in_fields(field, hides, hides(name))
    elif isinstance(value, list):
        for field in value:
            yield from _secrets_in_fields(field, hides, secret)
    elif secret and isinstance(value, str):
        yield value
        with suppress(ValueError):
            yield from _secrets_in_fields(json.loads(value), hides)


def protect_secrets() -> None:
    """Mask the environment's secrets in this process's logs, and keep them from the processes that it starts."""
    # Airflow has one masker for its core, and one for what tasks use.
    maskers = [module._secrets_masker() for module in (secrets_masker, sdk_secrets_masker)]
    for masker in maskers:
        masker.secret_mask_adapter = _with_spellings(masker.secret_mask_adapter)
        masker.add_mask(sorted(secrets_in(os.environ, conf.sensitive_config_values, masker.should_hide_value_for_key)))
        _keep_masks(masker)

    # The journal has the log of a task, too, and that of a trigger's process.
    processors = structlog.get_config()["processors"]
    if mask_logs not in processors:
        processors.insert(-1, mask_logs)

    # Both are kept once made: a trigger's arguments, and the tables that some XComs describe, are encrypted.
    crypto.get_fernet()
    sdk_crypto.get_fernet()
    supervisor.block_orm_access = _without(UNNEEDED, supervisor.block_orm_access)
    # It moves the environment away from where /proc/PID/environ shows it to every process of the user.
    setproctitle(getproctitle())


def _with_spellings(adapter: Callable[[str], str | Iterable[str]] | None) -> Callable[[str], set[str]]:
    def adapt(secret: str) -> set[str]:
        adapted = adapter(secret) if adapter else ()
        return spellings(secret) | ({adapted} if isinstance(adapted, str) else set(adapted))

    return adapt


def _keep_masks(masker: secrets_masker.SecretsMasker | sdk_secrets_masker.SecretsMasker) -> None:
    """Have a masker forget, when a task begins, what it has learnt of other tasks alone."""
    patterns, replacer = frozenset(masker.patterns), masker.replacer

    def reset() -> None:
        masker.patterns, masker.replacer = set(patterns), replacer

    masker.reset_masker = reset


def _without(names: re.Pattern[str], block_orm_access: Callable[[], None]) -> Callable[[], None]:
    """Take variables from the environment where Airflow, in the new process, takes the database away."""

    def block() -> None:
        for name in filter(names.fullmatch, tuple(os.environ)):
            del os.environ[name]
        block_orm_access()

    return block


def end_at_crashes() -> None:
    """Have a task that crashes end at once, and say where in its code it was.

    Airflow's handler of SIGSEGV is for the import of DAG files, and stays: Python returns from it to where the crash
    was, which repeats for ever. Superfluous once apache/airflow#57174 is closed.
    """

    def set_handler(number: int, handler: Callable | int) -> Callable | int | None:
        return signal.getsignal(number) if number == signal.SIGSEGV else signal.signal(number, handler)

    python_importer.signal = ModuleType(signal.__name__)
    vars(python_importer.signal).update(vars(signal), signal=set_handler)
    block_orm_access = supervisor.block_orm_access

    def block() -> None:
        faulthandler.enable()
        block_orm_access()

    supervisor.block_orm_access = block


def read_long_lines() -> None:
    """Have the log of a task take a line of many megabytes, as of a large value that is returned, in seconds.

    Airflow reads 4 KB at a time, and looks for the line's end in all that it has after each: 60 MB took a processor 56
    seconds, and 1.4 in pieces of the size here.
    """
    supervisor.make_buffered_socket_reader = functools.partial(
        supervisor.make_buffered_socket_reader, buffer_size=BUFFER_SIZE
    )


def let_the_group_read_logs() -> None:
    """Have the log server, which has the group of the tasks' user, read their logs, and nothing else."""
    init_log_file = log.init_log_file

    def init(local_relative_path: str) -> Path:
        mask = os.umask(0o027)
        try:
            return init_log_file(local_relative_path)
        finally:
            os.umask(mask)

    log.init_log_file = init


def prepare() -> None:
    """Prepare a scheduler, before it starts the processes that run its tasks."""
    protect_secrets()
    end_at_crashes()
    read_long_lines()
    let_the_group_read_logs()


if __name__ == "__main__":
    protect_secrets()
    sys.exit(main())
