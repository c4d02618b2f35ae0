"""Prove, before a release goes live, that its DAGs import and that it can use the database.

<release>/venv/bin/python <release>/libexec/gate.py <release> runs as Airflow's user, with Airflow's environment.
It changes nothing. It writes a line of JSON to stdout, with what it warns of. It exits with 0, or with 1 and the faults
on stderr. With --live-of, it runs as the live release, reads that line, and refuses only what the live release does not
show as well: the same kind of error in the same file. It exits with 2 if it cannot tell.
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
from types import ModuleType

from gate_report import Redactor, report


def database_url_fault() -> str:
    """Say whether the database's URL is none, as the errors about it may show parts of a password."""
    url = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")
    try:
        host = import_module("sqlalchemy").make_url(url).host if url else ""
    except Exception:
        host = "@"
    return "the database's URL is not valid: its password may need %-encoding" if "@" in (host or "") else ""


def prepare(release: Path) -> None:
    """Have Airflow, which reads its environment when it is imported, look at a release's DAGs alone."""
    # Modules of the DAGs folder find each other by it.
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(release / "dags")


def checker(name: str) -> ModuleType:
    """Import what imports DAGs."""
    module = import_module(name)
    # The DAG processor's path has no folder of this program.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    return module


def check(release: Path, arguments: argparse.Namespace, redactor: Redactor) -> tuple[dict, list[str]]:
    """Check a release.

    Args:
        release: its directory.
        arguments: the options of the command line.
        redactor: makes lines of messages.

    Returns:
        the facts to report of a release, and the faults.
    """
    if fault := database_url_fault():
        return {}, [fault]
    prepare(release)
    schema = import_module("gate_schema").check(allow_newer_schema=arguments.allow_newer_schema)
    faults = [*map(redactor.line, schema.faults)]
    found = checker("gate_dags").check(release / "dags", redactor.line, arguments.file_timeout, arguments.warn)
    facts = {**found.facts, "schema": schema.facts, "warnings": found.warnings}
    if faults or found.faults:
        facts |= {"failing": found.failing, "others": [*faults, *found.others]}
    return facts, [*faults, *found.faults]


def compare(release: Path, arguments: argparse.Namespace, redactor: Redactor) -> tuple[dict, list[str]]:
    """Compare the faults of another release, which are read from stdin, with this one's, which is live.

    Args:
        release: its directory.
        arguments: the options of the command line.
        redactor: makes lines of messages.

    Returns:
        the facts to report of the other release, and those of its faults that this one does not show.
    """
    facts = json.load(sys.stdin)
    prepare(release)
    failing, others = facts.pop("failing"), facts.pop("others")
    faults, shown = checker("gate_known").known(release / "dags", failing, redactor.line, arguments.file_timeout)
    facts["warnings"] += [f"{fault}; the live release shows it as well" for fault in shown]
    return facts, [*others, *faults]


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
    parser.add_argument(
        "--warn",
        action="append",
        default=[],
        metavar="PATTERN",
        help="warn of errors in DAG files whose paths in the DAGs folder match, and do not refuse the release",
    )
    parser.add_argument(
        "--live-of",
        metavar="RELEASE",
        help="the release is the live one: refuse only what it does not show of the faults of this release, on stdin",
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
        facts, faults = (compare if arguments.live_of else check)(arguments.release, arguments, redactor)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = f"the check fails: {type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
        facts, faults = {}, [redactor.line(message)]
        if arguments.live_of:
            print(*faults, file=err, flush=True)
            return 2
    if facts:
        print(json.dumps({**facts, "seconds": round(time.monotonic() - started, 1)}), file=out, flush=True)
    if faults:
        print(report(arguments.live_of or arguments.release.resolve().name, faults), file=err, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
