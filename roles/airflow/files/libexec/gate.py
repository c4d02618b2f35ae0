"""Prove, before a release goes live, that its DAGs import and that it can use the database.

<release>/venv/bin/python <release>/libexec/gate.py <release> runs as Airflow's user, with Airflow's environment.
It changes nothing. It exits with 0 and a line of JSON on stdout, or with 1 and the faults on stderr.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from gate_report import Redactor, report


def database_url_fault() -> str:
    """Say whether the database's URL is none, as the errors about it may show parts of a password."""
    url = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")
    try:
        host = import_module("sqlalchemy").make_url(url).host if url else ""
    except Exception:
        host = "@"
    return "the database's URL is not valid: its password may need %-encoding" if "@" in (host or "") else ""


def check(release: Path, arguments: argparse.Namespace, redactor: Redactor) -> tuple[dict, list[str]]:
    """Check a release.

    Args:
        release: its directory.
        arguments: the options of the command line.
        redactor: makes lines of messages.

    Returns:
        the facts to report of a release without faults, and the faults.
    """
    if fault := database_url_fault():
        return {}, [fault]
    # Modules of the DAGs folder find each other by it.
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(release / "dags")
    # Airflow reads its environment when it is imported.
    schema = import_module("gate_schema").check(allow_newer_schema=arguments.allow_newer_schema)
    check_dags = import_module("gate_dags").check
    # The DAG processor's path has no folder of this program.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    facts, faults = check_dags(release / "dags", redactor.line, arguments.file_timeout)
    return {**facts, "schema": schema.facts}, [*map(redactor.line, schema.faults), *faults]


def main() -> int:
    """Check the release that the command line names.

    Returns:
        the exit status.
    """
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=lambda path: Path(path).absolute(), help="the release's directory")
    parser.add_argument(
        "--file-timeout",
        type=float,
        metavar="SECONDS",
        help="how long the import of a DAG file may take (default: core.dagbag_import_timeout of Airflow)",
    )
    parser.add_argument(
        "--allow-newer-schema",
        action="store_true",
        help="report a database revision that the release does not know, and do not refuse it",
    )
    arguments = parser.parse_args()
    # The processes that DAG files keep busy must not outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    redactor = Redactor(os.environ)
    # Airflow's own output must not get between the lines of the result.
    out, err = (os.fdopen(os.dup(descriptor), "w", errors="backslashreplace") for descriptor in (1, 2))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        facts, faults = check(arguments.release, arguments, redactor)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = f"the check fails: {type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
        facts, faults = {}, [redactor.line(message)]
    if faults:
        print(report(arguments.release.resolve().name, faults), file=err, flush=True)
        return 1
    print(json.dumps({**facts, "seconds": round(time.monotonic() - started, 1)}), file=out, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
