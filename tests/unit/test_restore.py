"""How a dump goes back into a database: with a server that is older than the client, and all of it or nothing."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/airflow/files/libexec/restore.py"
SPEC = importlib.util.spec_from_file_location("restore", PROGRAM)
RESTORE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(RESTORE)
# As pg_restore 17 writes it, with data that looks like parts of it.
SCRIPT = r"""--
\restrict abc
-- Dumped by pg_dump version 17.12

BEGIN;

SET lock_timeout = 0;
SET transaction_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

CREATE TABLE public.t (x text);
SET default_tablespace = '';
COPY public.t (x) FROM stdin;
SET transaction_timeout = 0;
BEGIN;
\.
COMMIT;
\unrestrict abc
"""


def adapted(script: str, *settings: str) -> str:
    return b"".join(RESTORE.adapted(script.encode().splitlines(keepends=True), {*settings})).decode()


def test_a_parameter_that_the_server_does_not_know_is_left_out_of_the_head_alone() -> None:
    written = adapted(SCRIPT, "lock_timeout", "default_tablespace")
    before, emptied, after = written.partition(RESTORE.EMPTY_SCHEMA.decode())
    assert emptied
    assert before == SCRIPT[: SCRIPT.index("BEGIN;") + 7]
    assert before + after == SCRIPT.replace("SET transaction_timeout = 0;\n", "", 1)


def test_a_server_that_knows_them_all_gets_them_all() -> None:
    written = adapted(SCRIPT, "lock_timeout", "transaction_timeout")
    assert written.replace(RESTORE.EMPTY_SCHEMA.decode(), "") == SCRIPT


@pytest.mark.parametrize("script", ["", "-- a comment\n", "CREATE TABLE t ();\nBEGIN;\n"])
def test_a_script_without_a_transaction_is_refused(script: str) -> None:
    with pytest.raises(RESTORE.RefusedError, match="pg_restore has written no transaction"):
        adapted(script)


def test_the_hosts_own_database_is_read_from_its_fragment() -> None:
    url = r"postgresql+psycopg2://air:p%40%3A%2F\$x@db.lvao.test:5433/a%20b?keepalives_idle=30&sslmode=verify-full"
    fragment = f'# Ansible managed\nOTHER="1"\nAIRFLOW__DATABASE__SQL_ALCHEMY_CONN="{url}&sslrootcert=/opt/a.pem"\n'
    assert RESTORE.environment_of(fragment) == {
        "PGHOST": "db.lvao.test",
        "PGPORT": "5433",
        "PGUSER": "air",
        "PGPASSWORD": "p@:/$x",
        "PGDATABASE": "a b",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/opt/a.pem",
    }
    with pytest.raises(RESTORE.RefusedError, match="set PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSWORD"):
        RESTORE.environment_of('OTHER="1"\n')


def restore(folder: Path, pg_restore: str = "cat script", others: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the program with a pg_restore of our own, and a psql that notes what it is given."""
    facts = {"database": "air", "server": "15.20", "settings": ["lock_timeout"], "others": others}
    (folder / "script").write_text(SCRIPT.replace("BEGIN;\n\\.", f"{'x' * 99}\n" * 999 + "\\."))
    (folder / "dump").write_text("dump")
    programs = {
        "pg_restore": pg_restore,
        "psql": f"case $* in *json*) echo '{json.dumps(facts)}';; *to_regclass*) echo t;; *version_num*) echo abc;;"
        " *) cat > applied;; esac",
    }
    (folder / "bin").mkdir()
    for name, does in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\ncd {folder}\n{does}\n")
        (folder / "bin" / name).chmod(0o755)
    return subprocess.run(
        [sys.executable, PROGRAM, folder / "dump"],
        env=os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PGHOST": "db.lvao.test"},
        text=True,
        capture_output=True,
        check=False,
    )


def test_the_whole_script_is_applied(tmp_path: Path) -> None:
    ended = restore(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "air, PostgreSQL 15.20 at db.lvao.test is as in the dump, with the schema abc.\n"
    applied = (tmp_path / "applied").read_text()
    assert applied.endswith("\\.\nCOMMIT;\n\\unrestrict abc\n")
    assert "DROP TABLE" not in applied.partition("BEGIN;")[0]


def test_half_a_dump_is_not_committed(tmp_path: Path) -> None:
    ended = restore(tmp_path, "cat script; echo end of file >&2; exit 1")
    assert ended.returncode == 1
    assert "end of file" in ended.stderr
    assert "air, PostgreSQL 15.20 at db.lvao.test is as it was" in ended.stderr
    assert "COMMIT" not in (tmp_path / "applied").read_text()


def test_a_database_in_use_is_left_alone(tmp_path: Path) -> None:
    ended = restore(tmp_path, others=2)
    assert ended.returncode == 1
    assert "air, PostgreSQL 15.20 at db.lvao.test is in use, by 2 connections of its user: stop Airflow" in ended.stderr
    assert not (tmp_path / "applied").exists()


def test_a_client_that_is_missing_is_named(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, PROGRAM, __file__],
        env={"PATH": str(tmp_path), "PGHOST": "x"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "restore: psql is missing: install PostgreSQL's client" in ended.stderr


def test_who_may_not_read_the_secrets_is_told_to_be_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(_: Path) -> bool:
        raise PermissionError(1, "Permission denied", str(tmp_path))

    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.setattr(sys, "argv", ["restore.py", "dump"])
    monkeypatch.setattr(Path, "is_file", closed)
    assert RESTORE.main() == 1
    assert capsys.readouterr().err == f"restore: {tmp_path} is closed to this user: run it as root, by sudo\n"
