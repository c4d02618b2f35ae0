"""Part the faults that a release brings from those that the live one shows as well."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from gate_dags import Outcome, faults_of, import_files, split, time_limit


def kind(message: str) -> str:
    """Tell what kind of error a message is of: the exception's class, or how a sentence of ours begins."""
    found = re.match(r"([\w.]+)(:|\s*$)|\w+ \w+", message)
    return found[1] or found[0] if found else message


def known(
    dags: Path, failing: Mapping[str, list[tuple[str, str]]], line: Callable[[str], str], seconds: float | None = None
) -> tuple[list[str], list[str]]:
    """Part what another release has brought from what the live one shows as well.

    Args:
        dags: the live release's DAGs folder.
        failing: of the other release, as in a Result.
        line: makes a line of a message.
        seconds: how long a file may take, if it is not to be as long as Airflow gives it.

    Returns:
        the faults of kinds that the same files of the live release do not have, and those that they have.
    """
    files = {str(dags / name): name for name in failing if (dags / name).is_file()}
    outcomes = import_files([*files], dags, (lambda _: seconds) if seconds else time_limit)
    kinds = {file: {kind(message) for _, message in outcome.errors} for file, outcome in outcomes.items()}
    theirs = {str(dags / name): Outcome(errors=[*map(tuple, errors)]) for name, errors in failing.items()}
    refused, warned = split(theirs, lambda file, message: kind(message) in kinds.get(file, ()))
    return faults_of(refused, dags, line), faults_of(warned, dags, line)
