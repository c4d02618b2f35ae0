"""Import DAG files as the DAG processor does, each in no more than its time."""

import contextlib
import gc
import json
import os
import re
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import structlog
from airflow import settings
from airflow.configuration import conf
from airflow.dag_processing.processor import DagFileParseRequest, _parse_file
from airflow.models.connection import Connection as ConnectionModel
from airflow.models.crypto import get_fernet
from airflow.models.dag import DagModel
from airflow.models.variable import Variable
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import comms, task_runner
from airflow.sdk.execution_time.supervisor import block_orm_access
from airflow.sdk.log import redact
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.file import list_py_file_paths, might_contain_dag
from pydantic import BaseModel
from sqlalchemy import Column, ColumnElement, Engine, Integer, String, create_engine, select
from sqlalchemy.pool import NullPool

# The bundle that Airflow makes of its DAGs folder.
BUNDLE = "dags-folder"
# Of an integer in PostgreSQL.
LARGEST_INTEGER = 2**31 - 1
# One for each 2 GiB of the host's memory, of which the command that runs them may take a quarter.
PROCESSES = max(1, min(os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**31))
# On a busy host, a file may take as many times as long as it is given, most of it waiting for a processor.
PATIENCE = 4
# Where so many files in a row take too long alone as well, the host is not the cause, and the rest is not tried again.
HOPELESS = 3
REFUSED = "the database does not take the DAG"


class Answers:
    """Answers what DAG files ask the DAG processor for while they are imported.

    They may read variables and connections. What they write is dropped, as the release is not live yet.
    """

    def __init__(self, engine: Engine) -> None:
        """Use a database that DAG files themselves may not open.

        Args:
            engine: Airflow's metadata database; its schema may be older than the release's.
        """
        self.engine = engine

    def send(self, message: BaseModel) -> BaseModel | None:
        """Answer a message of airflow.sdk.execution_time.comms.

        Returns:
            the answer, an ErrorResponse where there is none.
        """
        match message:
            case comms.GetVariable():
                return self.variable(message.key) or comms.ErrorResponse(error=ErrorType.VARIABLE_NOT_FOUND)
            case comms.GetConnection():
                return self.connection(message.conn_id) or comms.ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND)
            case comms.GetVariableKeys():
                keys = self.variable_keys(message.prefix or "")
                page = keys[message.offset : message.offset + message.limit]
                return comms.VariableKeysResult(keys=page, total_entries=len(keys))
            case comms.PutVariable() | comms.DeleteVariable():
                return comms.OKResponse(ok=True)
            case comms.MaskSecret():
                return None
        return comms.ErrorResponse(
            detail={"message": f"{type(message).__name__} has no answer before the release is live"}
        )

    async def asend(self, message: BaseModel) -> BaseModel | None:
        """Answer a message, as `send` does."""
        return self.send(message)

    def variable(self, key: str) -> BaseModel | None:
        """Read a variable, decrypted."""
        columns = Variable.__table__.c
        row = self.row(columns.key == key, columns.val, columns.is_encrypted)
        return row and comms.VariableResult(key=key, value=decrypted(row["val"], row["is_encrypted"]))

    def variable_keys(self, prefix: str) -> list[str]:
        """List the keys of the variables that start with a prefix."""
        key = Variable.__table__.c.key
        with self.engine.connect() as connection:
            return list(connection.scalars(select(key).where(key.startswith(prefix, autoescape=True)).order_by(key)))

    def connection(self, conn_id: str) -> BaseModel | None:
        """Read a connection, decrypted."""
        columns = ConnectionModel.__table__.c
        plain = ("conn_id", "conn_type", "host", "schema", "login", "port")
        encrypted = {"password": "is_encrypted", "extra": "is_extra_encrypted"}
        names = (*plain, *encrypted, *encrypted.values())
        row = self.row(columns.conn_id == conn_id, *(columns[name] for name in names))
        return row and comms.ConnectionResult(
            **{name: row[name] for name in plain},
            **{name: decrypted(row[name], row[flag]) for name, flag in encrypted.items()},
        )

    def row(self, condition: ColumnElement, *columns: Column) -> Mapping | None:
        """Read these columns of a row alone: the model may have others that are yet to be migrated to."""
        with self.engine.connect() as connection:
            return connection.execute(select(*columns).where(condition)).mappings().first()


def decrypted(value: str | None, is_encrypted: bool | None) -> str | None:
    """Decrypt a column of a variable or a connection."""
    return get_fernet().decrypt(value.encode()).decode() if value and is_encrypted else value


@dataclass
class Outcome:
    """What the import of a DAG file came to.

    Attributes:
        dags: the ids of its DAGs.
        errors: where each error is, as `dags/orders.py:12`, and what it says.
        is_late: whether it has taken too long.
        notes: what else a Visit has seen, as JSON takes it.
    """

    dags: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    is_late: bool = False
    notes: list = field(default_factory=list)


def explain(file: str, error: str, dags: Path) -> tuple[str, str]:
    """Find in an error what the author of a DAG wants to know.

    Args:
        file: the file's path in the DAGs folder, for an error that has no place of its own.
        error: its traceback, or just its message.
        dags: the DAGs folder.

    Returns:
        the place in the DAGs folder that is nearest to the failure, as `dags/orders.py:12`, and the message.
    """
    place = f"dags/{file}"
    for name, line in re.findall(r'^[ |]+File "(.+)", line (\d+)', error, re.MULTILINE):
        for folder in (dags, dags.resolve()):
            if Path(name).is_relative_to(folder):
                place = f"dags/{Path(name).relative_to(folder)}:{line}"
                break
    _, is_traceback, after = error.rpartition("Traceback (most recent call last):\n")
    # The message is what follows the frames, and they alone are indented.
    if is_traceback and (message := re.search(r"^\S.*", after, re.MULTILINE | re.DOTALL)):
        error = message[0]
    return place, error


def refusals(dag: LazyDeserializedDAG) -> Iterator[str]:
    """Yield what the database would not take of a DAG that can be serialized."""
    for text in texts(dag.data):
        if "\0" in text or re.search("[\ud800-\udfff]", text):
            yield f"{text!a} has a NUL or a half of a surrogate pair"
    values = dag.data["dag"] | {"owners": dag.owner}
    for column in DagModel.__table__.c:
        value, limit = values.get(column.name), getattr(column.type, "length", None)
        if isinstance(column.type, Integer) and isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            yield f"{column.name} is {value}, and {LARGEST_INTEGER} is the largest number"
        elif isinstance(column.type, String) and isinstance(value, str) and limit and len(value) > limit:
            yield f"{column.name} has {len(value)} characters, and {limit} is the most"


def texts(value: object) -> Iterator[str]:
    """Yield the strings of what was serialized, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts([*value.items()])
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from texts(item)


def parse(file: str, dags: Path) -> Outcome:
    """Import a DAG file in this process, and serialize its DAGs."""
    request = DagFileParseRequest(file=file, bundle_path=dags, bundle_name=BUNDLE)
    try:
        result = _parse_file(request, structlog.get_logger())
    except BaseException:
        return outcome_of(file, dags, [], {file: traceback.format_exc()})
    return outcome_of(file, dags, result.serialized_dags, result.import_errors or {})


def outcome_of(
    file: str, dags: Path, serialized: list[LazyDeserializedDAG], import_errors: Mapping[str, str]
) -> Outcome:
    """Say what the import of a file came to.

    Args:
        file: its path.
        dags: the DAGs folder.
        serialized: its DAGs.
        import_errors: tracebacks or messages, by the path of the file that they are of.
    """
    errors = {os.path.relpath(dags / path, dags): error for path, error in import_errors.items()}
    for dag in serialized:
        try:
            for refusal in refusals(dag):
                errors.setdefault(os.path.relpath(file, dags), f"{REFUSED} {dag.dag_id}: {refusal}")
        except Exception:
            errors[os.path.relpath(file, dags)] = traceback.format_exc()
    explained = [explain(path, error, dags) for path, error in errors.items()]
    return Outcome([dag.dag_id for dag in serialized], [(place, redact(message)) for place, message in explained])


class Visit:
    """How a process imports DAG files: here, as the DAG processor does."""

    def prepare(self) -> object:
        """Give what answers the DAG files, before they are kept from the database."""
        return Answers(create_engine(settings.SQL_ALCHEMY_CONN, poolclass=NullPool))

    def parse(self, file: str, dags: Path) -> Outcome:
        """Import a file."""
        return parse(file, dags)


def places(module: object) -> list[str]:
    """List the files and folders of a module; what a library puts in a module's stead has none."""
    facts = module.__dict__ if isinstance(module, ModuleType) else {}
    return [str(place) for place in (facts.get("__file__"), *(facts.get("__path__") or [])) if place]


class State:
    """What a DAG file may change for the next one of the same process."""

    def __init__(self, dags: Path) -> None:
        """Remember the state.

        Args:
            dags: the DAGs folder, whose modules belong to the file that imports them.
        """
        self.folders = (str(dags), str(dags.resolve()))
        self.path, self.environment, self.directory = [*sys.path], {**os.environ}, Path.cwd()
        self.modules = {*sys.modules}

    def restore(self) -> None:
        """Go back to the state that was remembered, except for modules from elsewhere: they take long to import."""
        sys.path[:] = self.path
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        os.chdir(self.directory)
        new = {name: module for name, module in sys.modules.items() if name not in self.modules}
        own = [name for name, module in new.items() if any(place.startswith(self.folders) for place in places(module))]
        for name in own:
            del sys.modules[name]
        self.modules |= new.keys() - own


def work(connection: Connection, dags: Path, visit: Visit) -> NoReturn:
    """Import the DAG files that are named on a connection, one after another, and answer with their outcomes."""
    # Output of DAG files is nobody's, and a question to a terminal has no answer.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # By its default, a traceback ends before it comes to the DAGs folder.
    os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS"] = "true"
    os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"] = "10000"
    answers = visit.prepare()
    block_orm_access()
    task_runner.SUPERVISOR_COMMS = answers
    # The time limit is kept from outside: a signal does not end everything.
    settings.get_dagbag_import_timeout = lambda _: 0
    state = State(dags)
    while True:
        try:
            file = os.fsdecode(connection.recv_bytes())
        except EOFError:
            os._exit(0)
        outcome = visit.parse(file, dags)
        connection.send_bytes(json.dumps([outcome.dags, outcome.errors, outcome.notes]).encode())
        state.restore()


class Worker:
    """A process that imports DAG files, one after another."""

    def __init__(self, dags: Path, visit: Visit) -> None:
        """Start it.

        Args:
            dags: the DAGs folder.
            visit: how it imports.
        """
        self.is_fresh = True
        self.connection, theirs = Pipe()
        self.process = os.fork()
        if not self.process:
            try:
                # A group of its own, so that what a DAG file starts ends with it.
                os.setsid()
                self.connection.close()
                work(theirs, dags, visit)
            finally:
                os._exit(1)
        theirs.close()

    def begin(self, file: str, seconds: float) -> None:
        """Have it import a file within a time limit."""
        self.file, self.seconds, self.began, self.queued = file, seconds, time.monotonic(), waited(self.process)
        # If it has ended meanwhile, there will be no outcome either.
        with contextlib.suppress(OSError):
            self.connection.send_bytes(os.fsencode(file))

    def remaining(self) -> float:
        """Tell how many seconds are left of its limit: waiting for a processor does not count, within PATIENCE."""
        elapsed = time.monotonic() - self.began
        queued = max(waited(self.process) - self.queued, 0)
        return min(self.seconds + queued, PATIENCE * self.seconds) - elapsed

    def outcome(self) -> Outcome | None:
        """Receive the outcome of the file, or None if the process has ended."""
        try:
            dags, errors, notes = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return Outcome(dags, [(place, message) for place, message in errors], notes=notes)

    def end(self) -> int:
        """Kill it, with what it has started.

        Returns:
            its exit status, negative if it was a signal.
        """
        self.connection.close()
        for kill in (os.killpg, os.kill):
            try:
                kill(self.process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def waited(process: int) -> float:
    """Tell for how many seconds a process has waited for a processor that others had; 0 if the kernel does not."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 10**9
    except (OSError, IndexError):
        return 0


def time_limit(file: str) -> float:
    """Tell how many seconds Airflow gives a DAG file."""
    seconds = settings.get_dagbag_import_timeout(file)
    # Without a limit of its own, the DAG processor's for the whole process is left.
    return seconds if seconds > 0 else conf.getfloat("dag_processor", "dag_file_processor_timeout")


def import_files(
    files: list[str], dags: Path, limit: Callable[[str], float] = time_limit, visit: Visit | None = None
) -> dict[str, Outcome]:
    """Import DAG files in processes of their own, and those that take too long once more, alone.

    Args:
        files: their paths.
        dags: the DAGs folder, which holds them.
        limit: tells how many seconds a file may take.
        visit: how they are imported, if not as the DAG processor does.

    Returns:
        the outcome of each file.
    """
    visit = visit or Visit()
    outcomes = import_together(files, dags, limit, visit)
    in_vain = 0
    for file in [file for file, outcome in outcomes.items() if outcome.is_late]:
        if in_vain < HOPELESS:
            outcomes |= import_together([file], dags, limit, visit)
            in_vain = in_vain + 1 if outcomes[file].is_late else 0
    return outcomes


def import_together(files: list[str], dags: Path, limit: Callable[[str], float], visit: Visit) -> dict[str, Outcome]:
    """Import DAG files in processes of their own, as many at a time as there are processors.

    Args:
        files: their paths.
        dags: the DAGs folder, which holds them.
        limit: tells how many seconds a file may take.
        visit: how they are imported.

    Returns:
        the outcome of each file.
    """
    outcomes: dict[str, Outcome] = {}
    # A file that fails after others in a process is tried again in a fresh one: they may have got in its way.
    waiting = deque((file, False) for file in files)
    idle: list[Worker] = []
    busy: dict[Connection, Worker] = {}
    # What is not collected is not written to, and stays shared with the processes.
    gc.collect()
    gc.freeze()

    def settle(worker: Worker, outcome: Outcome) -> None:
        if outcome.errors and not worker.is_fresh:
            waiting.append((worker.file, True))
        else:
            outcomes[worker.file] = outcome
        worker.is_fresh = False

    try:
        while waiting or busy:
            while waiting and len(busy) < PROCESSES:
                file, needs_fresh = waiting.popleft()
                if needs_fresh and idle:
                    idle.pop().end()
                worker = idle.pop() if idle and not needs_fresh else Worker(dags, visit)
                busy[worker.connection] = worker
                worker.begin(file, limit(file))
            remaining = min(worker.remaining() for worker in busy.values())
            for connection in wait([*busy], max(remaining, 0)):
                worker = busy.pop(connection)
                if outcome := worker.outcome():
                    idle.append(worker)
                else:
                    outcome = Outcome(errors=[(place_of(worker.file, dags), ended(worker.end()))])
                settle(worker, outcome)
            for worker in [worker for worker in busy.values() if worker.remaining() <= 0]:
                busy.pop(worker.connection).end()
                message = f"not imported within {worker.seconds:g} s"
                outcomes[worker.file] = Outcome(errors=[(place_of(worker.file, dags), message)], is_late=True)
    finally:
        for worker in [*idle, *busy.values()]:
            worker.end()
        gc.unfreeze()
    return outcomes


def place_of(file: str, dags: Path) -> str:
    """Name a DAG file as faults do, relative to the release."""
    return f"dags/{Path(file).relative_to(dags)}"


def ended(status: int) -> str:
    """Say how a process ended that was to go on.

    Args:
        status: its exit status, negative if it was a signal.
    """
    return f"ends the process that imports it, by {f'status {status}' if status >= 0 else signal.Signals(-status).name}"


def faults_of(outcomes: Mapping[str, Outcome], dags: Path, line: Callable[[str], str]) -> list[str]:
    """List what is wrong with DAG files.

    Args:
        outcomes: of each file.
        dags: the DAGs folder.
        line: makes a line of a message.

    Returns:
        a line for each error, even if it is met by several files, and for each DAG that two files have.
    """
    met: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    faults = []
    for file, outcome in sorted(outcomes.items()):
        name = place_of(file, dags)
        for place, message in outcome.errors:
            met.setdefault(f"{place}: {line(message)}", []).append(name)
        for dag in outcome.dags:
            if owners.setdefault(dag, name) != name:
                faults.append(f"{name}: the DAG {dag} is in {owners[dag]}, too")
    for fault, names in met.items():
        others = [name for name in names if not fault.startswith(f"{name}:")]
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        faults.append(f"{fault} (imported by {others[0]}{more})" if others else fault)
    return sorted(faults)


def split(
    outcomes: Mapping[str, Outcome], may_pass: Callable[[str, str], bool]
) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """Part the errors that refuse a release from those that it is warned of.

    Args:
        outcomes: of each file.
        may_pass: tells whether an error of a file is for a warning, by the file's path and the error's message.

    Returns:
        the outcomes with the errors that refuse, and those with the others.
    """
    refused, warned = {}, {}
    for file, outcome in outcomes.items():
        passing = [error for error in outcome.errors if may_pass(file, error[1])]
        refused[file] = Outcome(outcome.dags, [error for error in outcome.errors if error not in passing])
        warned[file] = Outcome(errors=passing)
    return refused, warned


@dataclass
class Result:
    """What a check of DAG files has found.

    Attributes:
        facts: the numbers of DAGs and of DAG files.
        faults: what refuses the release, a line each.
        warnings: what does not, a line each.
        others: those of the faults that are about more than the import of a file.
        failing: by the path in the DAGs folder, of each file whose import refuses the release, each place and message.
    """

    facts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    failing: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


def find(dags: Path) -> tuple[list[str], list[str]]:
    """Find the DAG files of a folder.

    Returns:
        their paths, and those of files that may not be read, which Airflow passes over in silence.
    """
    safe_mode = conf.getboolean("core", "dag_discovery_safe_mode")
    found = sorted(list_py_file_paths(dags, safe_mode=False))
    unreadable = [file for file in found if not os.access(file, os.R_OK)]
    return [file for file in found if file not in unreadable and might_contain_dag(file, safe_mode)], unreadable


def check(dags: Path, line: Callable[[str], str], seconds: float | None = None, warn: Collection[str] = ()) -> Result:
    """Check every DAG file of a folder.

    Args:
        dags: the folder; it is Airflow's DAGs folder, too.
        line: makes a line of a message.
        seconds: how long a file may take, if it is not to be as long as Airflow gives it.
        warn: shell patterns of the paths, in the folder, of files whose errors are warnings.

    Returns:
        what it has found.
    """
    if not dags.is_dir():
        missing = ["dags: there is no such folder"]
        return Result(faults=missing, others=missing)
    files, unreadable = find(dags)
    outcomes = import_files(files, dags, (lambda _: seconds) if seconds else time_limit)

    def may_pass(file: str, message: str) -> bool:
        # What the database does not take would end the DAG processor, and all other DAGs with it.
        name = str(Path(file).relative_to(dags))
        return not message.startswith(REFUSED) and any(fnmatchcase(name, pattern) for pattern in warn)

    refused, warned = split(outcomes, may_pass)
    names = [str(Path(file).relative_to(dags)) for file in files]
    idle = [
        f"airflow_gate_warn has {pattern}, which matches no DAG file"
        for pattern in warn
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    closed = [f"{place_of(file, dags)}: may not be read by Airflow's user" for file in unreadable]
    imported = {file: Outcome(outcome.dags) for file, outcome in refused.items()}
    return Result(
        facts={"dags": sum(len(outcome.dags) for outcome in outcomes.values()), "files": len(files)},
        faults=closed + faults_of(refused, dags, line),
        warnings=faults_of(warned, dags, line) + idle,
        others=closed + faults_of(imported, dags, line),
        failing={
            str(Path(file).relative_to(dags)): [(place, line(message)) for place, message in outcome.errors]
            for file, outcome in refused.items()
            if outcome.errors
        },
    )
