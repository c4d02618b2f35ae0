"""Put the database back to a dump, all of it or nothing.

/usr/bin/python3 -I <release>/libexec/restore.py <dump> runs as root, with a dump's path, or with - for standard input.
It uses PostgreSQL's own programs, and the database of this host, unless libpq's variables, such as PGHOST, name
another.

What is there is dropped and restored in one transaction: a dump that does not go in leaves the database as it was.
pg_restore sets parameters that a server older than itself does not know, and would stop at them: these are left out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

FRAGMENT = "secrets/current/env.d/20-database.env"
SETTING = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
# Parameters of the address that libpq's programs have variables for. The others keep connections alive.
PARAMETERS = ("sslmode", "sslrootcert", "channel_binding")
FACTS = """
SELECT json_build_object(
  'database', current_database(),
  'server', current_setting('server_version'),
  'settings', (SELECT json_agg(name) FROM pg_settings),
  'others', (SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()))
"""
# What belongs to an extension is its own.
EMPTY_SCHEMA = b"""
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '30s';
DO $lvao$ DECLARE command text; BEGIN
  FOR command IN
    SELECT format('DROP %s IF EXISTS %I.%I CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
      WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, nspname, relname)
    FROM pg_class AS one JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = current_schema() AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND NOT EXISTS (
      SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = one.oid AND deptype = 'e')
    UNION ALL
    SELECT format('DROP TYPE IF EXISTS %I.%I CASCADE', nspname, typname)
    FROM pg_type AS one JOIN pg_namespace ON pg_namespace.oid = typnamespace
    WHERE nspname = current_schema() AND typtype IN ('d', 'e') AND NOT EXISTS (
      SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = one.oid AND deptype = 'e')
    UNION ALL
    SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', one.oid::regprocedure)
    FROM pg_proc AS one JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = current_schema() AND NOT EXISTS (
      SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = one.oid AND deptype = 'e')
  LOOP EXECUTE command; END LOOP;
END $lvao$;
"""
PSQL = ("psql", "--no-psqlrc", "--no-password")
BEGIN = b"BEGIN;"
ASSIGNMENT = re.compile(rb"SET (\w+) = ")
PREAMBLE = re.compile(rb"\s*$|--|SET |SELECT pg_catalog\.set_config\(|\\restrict ")
# Lines at the end, with the COMMIT among them, that wait until pg_restore has ended well.
HELD_BACK = 20


class RefusedError(Exception):
    """Why the database was left as it was."""


def environment_of(fragment: str) -> dict[str, str]:
    """Read libpq's variables from a fragment of Airflow's environment.

    Args:
        fragment: What the file holds.

    Returns:
        The variables, with the password among them.

    Raises:
        RefusedError: It names no database.
    """
    found = re.search(rf'^{SETTING}="(.*)"$', fragment, re.MULTILINE)
    if not found:
        message = f"{SETTING} is not in {FRAGMENT}: set PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSWORD"
        raise RefusedError(message)
    # As systemd reads it.
    address = urlsplit(re.sub(r"\\(.)", r"\1", found[1]))
    query = dict(parse_qsl(address.query))
    known = {
        "PGHOST": address.hostname or "",
        "PGPORT": str(address.port or ""),
        "PGUSER": unquote(address.username or ""),
        "PGPASSWORD": unquote(address.password or ""),
        "PGDATABASE": unquote(address.path.removeprefix("/")),
    }
    return known | {f"PG{name.replace('_', '').upper()}": query[name] for name in PARAMETERS if name in query}


def adapted(script: Iterable[bytes], settings: set[str]) -> Iterator[bytes]:
    """Have the script of a dump suit a server, and empty the schema at its begin.

    Args:
        script: The lines that pg_restore writes for one transaction.
        settings: The parameters that the server knows.

    Yields:
        The lines for psql.

    Raises:
        RefusedError: It has no transaction.
    """
    lines = iter(script)
    begun = False
    for line in lines:
        if line.strip() == BEGIN and not begun:
            begun = True
            yield line
            yield EMPTY_SCHEMA
        elif not PREAMBLE.match(line):
            if not begun:
                break
            yield line
            yield from lines
        elif not (assigned := ASSIGNMENT.match(line)) or assigned[1].decode() in settings:
            yield line
    if not begun:
        message = "pg_restore has written no transaction, as of a file that is no dump"
        raise RefusedError(message)


def feed(lines: Iterable[bytes], restoring: subprocess.Popen[bytes], sink: BinaryIO) -> None:
    """Give a script to psql, its end only once pg_restore has ended well.

    Args:
        lines: The script.
        restoring: pg_restore, which writes it.
        sink: Where psql reads.

    Raises:
        RefusedError: pg_restore has failed.
    """
    held: deque[bytes] = deque()
    for line in lines:
        held.append(line)
        if len(held) > HELD_BACK:
            sink.write(held.popleft())
    if restoring.wait() != 0:
        message = "pg_restore has failed, as said above. A dump of a newer pg_dump needs a client as new"
        raise RefusedError(message)
    sink.writelines(held)


def ask(environment: Mapping[str, str], question: str) -> str:
    """Ask the database something.

    Args:
        environment: The process's, with libpq's variables.
        question: A query.

    Returns:
        The answer.

    Raises:
        RefusedError: It does not answer.
    """
    command = [*PSQL, "--tuples-only", "--no-align", f"--command={question}"]
    ended = subprocess.run(  # noqa: S603 - its own question
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        message = f"the database does not answer: {ended.stderr.strip()}"
        raise RefusedError(message)
    return ended.stdout.strip()


def restore(dump: str, environment: Mapping[str, str]) -> str:
    """Put the database back to a dump.

    Args:
        dump: Its path, or - for standard input.
        environment: The process's, with libpq's variables.

    Returns:
        What came of it.

    Raises:
        RefusedError: It was left as it was.
    """
    if dump != "-" and not Path(dump).is_file():
        message = f"{dump} is no file: name a dump, such as one of /var/backups/lvao-airflow, or - for standard input"
        raise RefusedError(message)
    facts = json.loads(ask(environment, FACTS))
    place = f"{facts['database']}, PostgreSQL {facts['server']} at {environment.get('PGHOST', 'the local socket')}"
    if facts["others"]:
        message = f"{place} is in use, by {facts['others']} connections of its user: stop Airflow first, on each host"
        raise RefusedError(message)
    read = ["pg_restore", "--no-owner", "--single-transaction", "--file=-", *([dump] if dump != "-" else [])]
    write = [*PSQL, "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", "--file=-"]
    # With the caller's rights, who names the file.
    restoring = subprocess.Popen(read, env=environment, stdout=subprocess.PIPE)  # noqa: S603
    applying = subprocess.Popen(write, env=environment, stdin=subprocess.PIPE)  # noqa: S603
    fault = ""
    try:
        feed(adapted(restoring.stdout, {*facts["settings"]}), restoring, applying.stdin)
    except RefusedError as error:
        fault = str(error)
    except BrokenPipeError:
        fault = "psql has stopped, as said above"
    try:
        # Without the end of the script, psql leaves the transaction open, and the server undoes it.
        applying.stdin.close()
    except BrokenPipeError:
        fault = "psql has stopped, as said above"
    restoring.stdout.close()
    restoring.wait()
    if applying.wait() != 0 or fault:
        message = f"{fault or 'psql has failed, as said above'}. {place} is as it was"
        raise RefusedError(message)
    has_schema = ask(environment, "SELECT to_regclass('alembic_version') IS NOT NULL") == "t"
    head = ask(environment, "SELECT version_num FROM alembic_version") if has_schema else "of no revision"
    return f"{place} is as in the dump, with the schema {head}."


def main() -> int:
    """Restore the dump that the command line names.

    Returns:
        the exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump", help="path of a dump that pg_dump has made, or - for standard input")
    arguments = parser.parse_args()
    try:
        environment = dict(os.environ)
        if "PGHOST" not in environment:
            fragment = Path(__file__).resolve().parents[3] / FRAGMENT
            environment |= environment_of(fragment.read_text() if fragment.is_file() else "")
        print(restore(arguments.dump, environment))
    except FileNotFoundError as error:
        print(f"restore: {error.filename} is missing: install PostgreSQL's client, as a deploy does", file=sys.stderr)
    except PermissionError as error:
        print(f"restore: {error.filename} is closed to this user: run it as root, by sudo", file=sys.stderr)
    except RefusedError as error:
        print(f"restore: {error}.", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
