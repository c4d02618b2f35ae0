#!/usr/bin/env python3
"""Looks at the project's DAGs, in the environment of the servers: whether they import, and what they lack.

`[tool.lvao.checks]` of the project's `pyproject.toml` says what is an error, a warning, or off. A variable, a
connection or an environment variable that a file needs at its import and that `.env` lacks gets a stand-in.

`bin/dag_tests.py` runs it, by Airflow's own Python, in an environment where Airflow finds the project's DAGs.
"""

import argparse
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

LIBEXEC = Path(__file__).resolve().parents[1] / "roles/airflow/files/libexec"
sys.path[:0] = [str(LIBEXEC), str(Path(__file__).resolve().parent)]

import gate_dags  # noqa: E402 - the role has it
import structlog  # noqa: E402 - comes with Airflow
from airflow.dag_processing.dagbag import BundleDagBag  # noqa: E402 - after the path
from airflow.dag_processing.processor import _serialize_dags  # noqa: E402 - after the path
from airflow.sdk import DAG  # noqa: E402 - after the path
from project import Project, ProjectError  # noqa: E402 - after the path
from project import find as find_project  # noqa: E402 - after the path
from pydantic import BaseModel  # noqa: E402 - comes with Airflow

# Names in a line, before the others are counted.
NAMED = 5
# Of names that a file asks for one after another; a file that asks for more is at fault.
ROUNDS = 50
LABELS = {"variable": "the variable", "connection": "the connection", "environment": "the environment variable"}
LACKS = {
    "tasks": "no task",
    "tags": "no tags",
    "description": "no description",
    "start-date": "no start_date",
    "owner": "a task without an owner",
    "retries": "a task without retries, and no `Retries:` in doc_md that says why",
}


@dataclass(frozen=True, order=True)
class Wanted:
    """What a DAG file asks for at its import.

    Attributes:
        kind: A key of LABELS.
        name: Its key, its id, or its name.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        """Say what it is."""
        return f"{LABELS[self.kind]} {self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that gives it a value."""
        return {"variable": "AIRFLOW_VAR_", "connection": "AIRFLOW_CONN_"}.get(self.kind, "") + (
            self.name if self.kind == "environment" else self.name.upper()
        )

    @property
    def stand_in(self) -> str:
        """A value that does as a text, as a number, and as JSON; an address where one is asked for."""
        if self.kind == "connection":
            return "generic://localhost"
        return "http://localhost:1" if re.search("UR[IL]$", self.name, re.IGNORECASE) else "1"


class NoDatabase(gate_dags.Answers):
    """Has no variable and no connection, and remembers for which it was asked."""

    def __init__(self) -> None:
        """Begin without questions."""
        self.asked: list[Wanted] = []

    def variable(self, key: str) -> BaseModel | None:
        """Remember a variable."""
        self.asked.append(Wanted("variable", key))

    def variable_keys(self, prefix: str) -> list[str]:
        """List no variables."""
        return []

    def connection(self, conn_id: str) -> BaseModel | None:
        """Remember a connection."""
        self.asked.append(Wanted("connection", conn_id))


class Inspection(gate_dags.Visit):
    """Imports DAG files without a database, and notes what they lack."""

    def prepare(self) -> NoDatabase:
        """Give what answers the DAG files."""
        self.answers = NoDatabase()
        warnings.simplefilter("always")
        return self.answers

    def parse(self, file: str, dags: Path) -> gate_dags.Outcome:
        """Import a file.

        Args:
            file: Its path.
            dags: The DAGs folder.

        Returns:
            The outcome, with notes: a kind, and what there is of it.
        """
        self.answers.asked.clear()
        try:
            bag = BundleDagBag(dag_folder=file, bundle_path=dags, bundle_name=gate_dags.BUNDLE, load_op_links=False)
            serialized, errors = _serialize_dags(bag, structlog.get_logger())
            errors = bag.import_errors | errors
            notes = [["lacks", promise, dag.dag_id] for dag in bag.dags.values() for promise in lacks(dag)]
            notes += [["deprecations", warning] for warning in deprecations(bag, dags)]
        except BaseException:
            serialized, errors, notes = [], {file: traceback.format_exc()}, []
        outcome = gate_dags.outcome_of(file, dags, serialized, errors)
        wanted = {item for error in errors.values() for item in wanted_by(error, self.answers.asked)}
        outcome.notes = notes + [["wants", item.kind, item.name] for item in sorted(wanted)]
        return outcome


def wanted_by(error: str, asked: list[Wanted]) -> Iterator[Wanted]:
    """Find what an error says that it lacks.

    Args:
        error: Its traceback, with those that it comes from.
        asked: The variables and connections that there were not.

    Yields:
        Each of them that the error names, and environment variables.
    """
    if named := [item for item in asked if re.search(rf"\b{re.escape(item.name)}\b", error)]:
        yield from named
        return
    message = gate_dags.explain("", error, Path("/nonexistent"))[1]
    if re.search(r"^KeyError: '|environ\b|env(ironment)?[ -]?var", message, re.IGNORECASE):
        names = re.findall(r"\b[A-Z][A-Z0-9_]*[A-Z0-9]\b", message)
        yield from (Wanted("environment", name) for name in names if name not in os.environ)


def lacks(dag: DAG) -> Iterator[str]:
    """Yield the promises that a DAG breaks."""
    yield from (name for name in ("tags", "description", "tasks") if not getattr(dag, name))
    if not all(dag.start_date or task.start_date for task in dag.tasks):
        yield "start-date"
    if any(task.owner == "airflow" for task in dag.tasks):
        yield "owner"
    # `Retries:` in the documentation says why there are none.
    if not all(task.retries or "Retries:" in f"{dag.doc_md} {task.doc_md}" for task in dag.tasks):
        yield "retries"


def deprecations(bag: BundleDagBag, dags: Path) -> Iterator[str]:
    """Yield what the files of the DAGs folder use that is deprecated, and where."""
    for warning in {warning: None for found in bag.captured_warnings.values() for warning in found}:
        place, _, said = warning.partition(": ")
        if place.startswith((f"{dags}/", f"{dags.resolve()}/")) and re.match(r"\S*(Deprecat|Removed)", said):
            yield f"dags/{os.path.relpath(place, dags)}: {said}"


@dataclass
class Findings:
    """What a look at the DAGs has found.

    Attributes:
        files: How many DAG files there are.
        dags: How many DAGs.
        errors: A line each.
        warnings: A line each.
        stand_ins: What had no value.
    """

    files: int = 0
    dags: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stand_ins: list[Wanted] = field(default_factory=list)


def wants(outcome: gate_dags.Outcome) -> set[Wanted]:
    """Tell what a file lacks for its import."""
    return {Wanted(*note[1:]) for note in outcome.notes if note[0] == "wants"}


def import_with_stand_ins(files: list[str], dags: Path) -> tuple[dict[str, gate_dags.Outcome], dict[str, set[Wanted]]]:
    """Import DAG files, and those again that lack a value, with a stand-in for it.

    A file asks for one value after another. Of the files that lack the same, the first alone asks for all of them.

    Args:
        files: Their paths.
        dags: The DAGs folder, which holds them.

    Returns:
        The outcome of each file, and the stand-ins that it had.
    """
    inspection = Inspection()
    outcomes = gate_dags.import_files(files, dags, visit=inspection)
    used: dict[str, set[Wanted]] = {}
    for _ in range(ROUNDS):
        lacking = {file: wanted for file, outcome in outcomes.items() if (wanted := wants(outcome))}
        for file, wanted in lacking.items():
            used[file] = used.get(file, set()) | wanted
            os.environ.update({item.variable: item.stand_in for item in wanted})
        firsts = {frozenset(wanted): file for file, wanted in reversed(lacking.items())}
        again = [*firsts.values()]
        if again:
            outcomes |= gate_dags.import_files(again, dags, visit=inspection)
        if not any(wants(outcomes[file]) - used[file] for file in again):
            again = [file for file in lacking if file not in again]
            outcomes |= gate_dags.import_files(again, dags, visit=inspection)
        if not any(wants(outcomes[file]) - used[file] for file in lacking):
            break
    return outcomes, used


def inspect(project: Project) -> Findings:
    """Look at the DAGs of a project.

    Args:
        project: The project; its folder of DAGs is Airflow's.

    Returns:
        What was found.
    """
    files, unreadable = gate_dags.find(project.dags)
    # Tests lie beside DAGs, and are left out of releases.
    files = [file for file in files if not Path(file).is_relative_to(project.tests)]
    outcomes, used = import_with_stand_ins(files, project.dags)
    levels, found = project.checks.promises, Findings(files=len(files))

    def may_pass(file: str, message: str) -> bool:
        name = str(Path(file).relative_to(project.dags))
        return any(fnmatchcase(name, pattern) for pattern in project.checks.warn)

    for file, outcome in outcomes.items():
        if outcome.errors and file in used:
            hint = f" (with stand-ins for {listed(map(str, sorted(used[file])))})"
            outcome.errors = [(place, first_line(message) + hint) for place, message in outcome.errors]
        found.dags += len(outcome.dags)
    refused, warned = gate_dags.split(outcomes, may_pass)
    faults = [f"{gate_dags.place_of(file, project.dags)}: may not be read" for file in unreadable]
    faults += gate_dags.faults_of(refused, project.dags, first_line)
    of_level = {"error": found.errors, "warning": found.warnings, "off": []}
    of_level[levels["imports"]].extend(faults)
    found.warnings += gate_dags.faults_of(warned, project.dags, first_line)
    passed = [used[file] for file in used if not outcomes[file].errors]
    found.stand_ins = sorted(set().union(*passed))

    broken: dict[str, set[str]] = {promise: set() for promise in levels}
    for outcome in outcomes.values():
        for kind, what, *of in outcome.notes:
            if kind == "lacks":
                broken[what].add(of[0])
            elif kind == "deprecations":
                broken[kind].add(what)
    of_level[levels["deprecations"]].extend(sorted(broken.pop("deprecations")))
    for promise, dags in broken.items():
        if dags:
            # An error names all that there is to do.
            names = ", ".join(sorted(dags)) if levels[promise] == "error" else listed(sorted(dags))
            of_level[levels[promise]].append(f"{LACKS[promise]}: {names}")
    return found


def first_line(message: str) -> str:
    """Take the first line of a message."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "")


def listed(names: Iterable[str]) -> str:
    """Name the first ones, and count the others."""
    names = [*names]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def report(found: Findings, project: Project) -> Iterator[str]:
    """Yield the lines that say what was found.

    Args:
        found: What it is.
        project: The project.
    """
    folder = os.path.relpath(project.dags, project.folder)
    for kind, lines in (("error", found.errors), ("warning", found.warnings)):
        for line in lines:
            yield f"{kind}: " + re.sub(r"(^|imported by |is in )dags/", rf"\g<1>{folder}/", line)
    if found.stand_ins:
        names = ", ".join(item.variable for item in found.stand_ins)
        yield f"stand-ins, as neither {project.env_file} nor anything else has a value: {names}"
    numbers = {"DAG": found.dags, "file": found.files, "error": len(found.errors), "warning": len(found.warnings)}
    dags, files, errors, warned = (f"{number} {name}{'' if number == 1 else 's'}" for name, number in numbers.items())
    yield f"{dags} of {files}: {errors}, {warned}"


def main() -> int:
    """Look at the project's DAGs.

    Returns:
        The exit status: 1 if there is an error.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stand-ins", type=Path, metavar="FILE", help="write those that were used there, as JSON")
    arguments = parser.parse_args()
    try:
        project = find_project()
    except ProjectError as error:
        print(f"project: {error}", file=sys.stderr)
        return 1
    # Of what Airflow uses itself.
    warnings.simplefilter("ignore")
    found = inspect(project)
    print(*report(found, project), sep="\n")
    if arguments.stand_ins:
        arguments.stand_ins.write_text(json.dumps({item.variable: item.stand_in for item in found.stand_ins}))
    return 1 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
