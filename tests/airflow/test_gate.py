"""The gate lets pass what would run, and says of the rest where it is at fault."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gate_dags
import gate_known
import gate_report
import gate_schema
import pytest
from airflow import settings
from airflow.models.connection import Connection
from airflow.models.crypto import get_fernet
from airflow.models.variable import Variable
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, insert, text

FILES = Path(__file__).parents[2] / "roles/airflow/files"
GATE = FILES / "libexec/gate.py"
HEADER = "from airflow.sdk import DAG\n"
Check = Callable[..., list[str]]


def dag(name: str) -> str:
    return f"with DAG({name!r}, schedule=None):\n    pass\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write DAG files, each with a first line that imports DAG."""
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(HEADER + source)
    return folder


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    folder = tmp_path / "dags"
    folder.mkdir()
    return folder


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Give a check of DAG files that are yet to be written."""
    # One process after the other shows what files do to each other.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def run(files: dict[str, str]) -> list[str]:
        return gate_dags.check(write(tmp_path / "dags", files), gate_report.Redactor({}).line).faults

    return run


def test_dags_that_import_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever the caller's shell asks of Python.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    files = {"a.py": dag("a") + dag("b"), "sub/c.py": "import helper\n" + dag("c"), ".airflowignore": "ignored\n"}
    folder = write(tmp_path / "dags", files | {"ignored/d.py": "import nothing\n"})
    (folder / ".airflowignore").write_text("ignored\n")
    (folder / "helper.py").write_text("import json\n")
    (folder / "not_one.py").write_text("import nothing\n")
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link"):
        assert gate_dags.check(path, str) == gate_dags.Result({"dags": 3, "files": 2})
    assert not [*tmp_path.rglob("__pycache__")]


def test_each_import_error_has_its_place(check: Check) -> None:
    faults = check(
        {
            "good.py": dag("good"),
            "syntax.py": "x = (\n",
            "missing.py": "\nimport foo\n",
            "deep.py": "import json\njson.loads('')\n",
            "chained.py": "try:\n    1 / 0\nexcept ArithmeticError as error:\n"
            "    raise ValueError('two\\nlines') from error\n",
            "sub/leaves.py": "import sys\nsys.exit('bye')\n",
        }
    )
    assert faults == [
        "dags/chained.py:5: ValueError: two",
        "dags/deep.py:3: json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "dags/missing.py:3: ModuleNotFoundError: No module named 'foo'",
        "dags/sub/leaves.py:3: SystemExit: bye",
        "dags/syntax.py:2: SyntaxError: '(' was never closed",
    ]


def test_what_the_dag_processor_refuses_later_is_an_error_too(check: Check) -> None:
    operator = "from airflow.providers.standard.operators.empty import EmptyOperator\n"
    faults = check(
        {
            "cycle.py": f"{operator}with DAG('c', schedule=None):\n"
            "    a, b = EmptyOperator(task_id='a'), EmptyOperator(task_id='b')\n    a >> b >> a\n",
            "executor.py": f"{operator}with DAG('e', schedule=None):\n"
            "    EmptyOperator(task_id='a', executor='Nope')\n",
            "orm.py": "from airflow.settings import Session\nSession()\n",
            "serialized.py": "from airflow.timetables.simple import NullTimetable\n"
            "class Odd(NullTimetable):\n    pass\n"
            "with DAG('s', schedule=Odd()):\n    pass\n",
        }
    )
    assert [fault.split(": ")[:2] for fault in faults] == [
        ["dags/cycle.py", "AirflowDagCycleException"],
        ["dags/executor.py", "UnknownExecutorException"],
        ["dags/orm.py:3", "RuntimeError"],
        ["dags/serialized.py", "airflow.exceptions.SerializationError"],
    ]


def test_what_would_end_the_dag_processor_is_an_error_too(check: Check) -> None:
    odd = "from airflow.timetables.simple import NullTimetable\nclass Odd(NullTimetable):\n    pass\n"
    faults = check(
        {
            # Airflow warns of a start date that varies: here, about a DAG that never gets into the database.
            "now.py": f"import pendulum\n{odd}with DAG('n', schedule=Odd(), start_date=pendulum.now()):\n    pass\n",
            "nul.py": "with DAG('u', schedule=None, description='a\\0b'):\n    pass\n",
            "half.py": "with DAG('h', schedule=None, params={'a\\udcff': 1}):\n    pass\n",
            "long.py": "with DAG('l', schedule=None, dag_display_name='x' * 2001):\n    pass\n",
            "large.py": "with DAG('i', schedule=None, max_active_tasks=2**31):\n    pass\n",
            "raises.py": "raise ValueError('a\\0b')\n",
            "fits.py": "with DAG('f', schedule=None, dag_display_name='x' * 2000, max_active_tasks=2**31 - 1):\n"
            "    pass\n",
        }
    )
    refused = "the database does not take the DAG"
    assert [re.sub("'n': .*", "'n': …", fault) for fault in faults] == [
        f"dags/half.py: {refused} h: 'a\\udcff' has a NUL or a half of a surrogate pair",
        f"dags/large.py: {refused} i: max_active_tasks is 2147483648, and 2147483647 is the largest number",
        f"dags/long.py: {refused} l: dag_display_name has 2001 characters, and 2000 is the most",
        "dags/now.py: airflow.exceptions.SerializationError: Failed to serialize DAG 'n': …",
        f"dags/nul.py: {refused} u: 'a\\x00b' has a NUL or a half of a surrogate pair",
        "dags/raises.py:2: ValueError: a\x00b",
    ]


def test_a_fault_of_a_shared_module_is_listed_once(check: Check, dags: Path) -> None:
    (dags / "shared.py").write_text("\nimport foo\n")
    assert check({f"{name}.py": "import shared\n" for name in "abc"}) == [
        "dags/shared.py:2: ModuleNotFoundError: No module named 'foo' (imported by dags/a.py and 2 more)"
    ]


def test_a_fault_in_a_live_folder_has_its_place_by_either_path(tmp_path: Path) -> None:
    path = "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).resolve().with_name('lib')))\n"
    live = write(tmp_path / "live", {"a.py": f"{path}import inner\n"})
    (live / "lib").mkdir()
    (live / "lib/inner.py").write_text("\nimport foo\n")
    (tmp_path / "dags").symlink_to(live)
    faults = gate_dags.check(tmp_path / "dags", gate_report.Redactor({}).line).faults
    assert faults == ["dags/lib/inner.py:2: ModuleNotFoundError: No module named 'foo' (imported by dags/a.py)"]


def test_two_files_may_not_have_the_same_dag(check: Check) -> None:
    assert check({"a.py": dag("same"), "b.py": dag("same")}) == ["dags/b.py: the DAG same is in dags/a.py, too"]


def test_files_do_not_help_nor_hinder_each_other(check: Check, dags: Path) -> None:
    (dags / "lib").mkdir()
    (dags / "lib/inner.py").write_text("import json\nassert not hasattr(json, 'seen'), 'twice'\njson.seen = True\n")
    path = "import sys, os\nsys.path.insert(0, os.path.dirname(__file__) + '/lib')\nos.environ['SET'] = '1'\n"
    faults = check(
        {
            "a.py": f"{path}import inner\n{dag('a')}",
            "b.py": f"{path}import inner\n{dag('b')}",
            "c.py": "import inner\n",
            "d.py": "import os\nos.environ['SET']\n",
        }
    )
    assert faults == [
        "dags/c.py:2: ModuleNotFoundError: No module named 'inner'",
        "dags/d.py:3: KeyError: 'SET'",
    ]


def runs(process: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet has ended all the same."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_hangs_is_killed_and_the_rest_is_checked(
    dags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    hanging = {
        "hangs.py": "import time\ntime.sleep(999)\n",
        "holds.py": "import ctypes, signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "ctypes.PyDLL(None).sleep(999)\n",
        "spins.py": "while True:\n    try:\n        while True: pass\n    except BaseException: pass\n",
    }
    write(dags, hanging | {"wrong.py": "import foo\n"})
    outcomes = gate_dags.import_files(
        sorted(map(str, dags.glob("*.py"))), dags, lambda file: 1.5 if Path(file).name in hanging else 30
    )
    assert gate_dags.faults_of(outcomes, dags, gate_report.Redactor({}).line) == [
        "dags/hangs.py: not imported within 1.5 s",
        "dags/holds.py: not imported within 1.5 s",
        "dags/spins.py: not imported within 1.5 s",
        "dags/wrong.py:2: ModuleNotFoundError: No module named 'foo'",
    ]
    assert not runs(int((tmp_path / "child").read_text()))


def test_waiting_for_a_processor_does_not_count(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"slow.py": f"import time\ntime.sleep(1)\n{dag('a')}"}
    monkeypatch.setattr(gate_dags, "time_limit", lambda _: 0.5)
    assert check(files) == ["dags/slow.py: not imported within 0.5 s"]
    # As on a host where three others want each processor.
    monkeypatch.setattr(gate_dags, "waited", lambda _: 0.75 * time.monotonic())
    assert check(files) == []


def test_a_host_that_is_too_busy_is_not_waited_for_without_end(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_dags, "time_limit", lambda _: 0.2)
    monkeypatch.setattr(gate_dags, "waited", lambda _: time.monotonic())
    assert check({"hangs.py": "import time\ntime.sleep(999)\n"}) == ["dags/hangs.py: not imported within 0.2 s"]


def test_the_kernel_says_how_long_a_process_waits_for_a_processor() -> None:
    processors, before = os.sched_getaffinity(0), gate_dags.waited(os.getpid())
    os.sched_setaffinity(0, {min(processors)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        busy_until = time.process_time() + 0.3
        while time.process_time() < busy_until:
            pass
    finally:
        os.sched_setaffinity(0, processors)
        for other in others:
            other.kill()
            other.wait()
    assert gate_dags.waited(os.getpid()) - before > 0.1
    assert gate_dags.waited(2**31) == 0, "a process that is not there"


def test_what_takes_too_long_is_tried_once_more_alone(
    dags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    tries = tmp_path / "tries"
    note = f"import time\nwith open({str(tries)!r}, 'a') as tries:\n    tries.write(__file__[-4] + ' ')\n"
    once = f"{note}time.sleep(0 if open({str(tries)!r}).read().count('a ') > 1 else 999)\n{dag('a')}"
    write(dags, {"a.py": once} | {f"{name}.py": f"{note}time.sleep(999)\n" for name in "bcdef"})
    monkeypatch.setattr(gate_dags, "time_limit", lambda _: 1)
    result = gate_dags.check(dags, str)
    assert result.faults == [f"dags/{name}.py: not imported within 1 s" for name in "bcdef"]
    assert result.facts == {"dags": 1, "files": 6}
    # Once three have hung alone, the host is not the cause.
    assert Counter(tries.read_text().split()) == {"a": 2, "b": 2, "c": 2, "d": 2, "e": 1, "f": 1}


def test_a_file_has_the_time_that_airflow_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gate_dags.time_limit("a.py") == 30
    monkeypatch.setattr(settings, "get_dagbag_import_timeout", lambda _: 0)
    assert gate_dags.time_limit("a.py") == 50


def test_what_ends_its_process_is_reported(check: Check) -> None:
    files = {
        "a.py": dag("a"),
        "exits.py": "import os\nos._exit(3)\n",
        "killed.py": "import os\nos.kill(os.getpid(), 9)\n",
    }
    assert check(files) == [
        "dags/exits.py: ends the process that imports it, by status 3",
        "dags/killed.py: ends the process that imports it, by SIGKILL",
    ]


def test_a_file_that_may_not_be_read_is_reported(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: not path.endswith("closed.py"))
    assert check({"a.py": dag("a"), "closed.py": dag("b")}) == ["dags/closed.py: may not be read by Airflow's user"]


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    assert gate_dags.check(tmp_path / "dags", str).faults == ["dags: there is no such folder"]


def test_a_file_that_is_named_is_warned_of(dags: Path) -> None:
    raises = "raise ConnectionError('no answer')\n"
    nul = "with DAG('u', schedule=None, description='a\\0b'):\n    pass\n"
    write(
        dags, {"asks.py": raises, "topic/asks.py": raises, "other.py": raises, "topic/nul.py": nul, "good.py": dag("g")}
    )
    result = gate_dags.check(dags, str, warn=["asks.py", "topic/*", "gone/*"])
    assert result.warnings == [
        "dags/asks.py:2: ConnectionError: no answer\n",
        "dags/topic/asks.py:2: ConnectionError: no answer\n",
        "airflow_gate_warn has gone/*, which matches no DAG file",
    ]
    # What would end the DAG processor refuses, wherever it is.
    assert [fault.split(": ")[:2] for fault in result.faults] == [
        ["dags/other.py:2", "ConnectionError"],
        ["dags/topic/nul.py", "the database does not take the DAG u"],
    ]
    assert sorted(result.failing) == ["other.py", "topic/nul.py"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("ModuleNotFoundError: No module named 'foo'", "ModuleNotFoundError"),
        ("airflow.exceptions.SerializationError: Failed", "airflow.exceptions.SerializationError"),
        ("KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("not imported within 30 s", "not imported"),
        ("ends the process that imports it, by SIGKILL", "ends the"),
        ("?", "?"),
    ],
)
def test_an_error_has_a_kind(message: str, kind: str) -> None:
    assert gate_known.kind(message) == kind


def test_what_the_live_release_shows_as_well_is_known(tmp_path: Path) -> None:
    live = write(tmp_path / "live", {"a.py": "import foo\n", "b.py": "import foo\n", "c.py": dag("c")})
    new = write(
        tmp_path / "new", {"a.py": "\nimport bar\n", "b.py": "1 / 0\n", "c.py": "import foo\n", "d.py": "import foo\n"}
    )
    faults, shown = gate_known.known(live, gate_dags.check(new, str.strip).failing, str.strip)
    assert shown == ["dags/a.py:3: ModuleNotFoundError: No module named 'bar'"]
    assert faults == [
        "dags/b.py:2: ZeroDivisionError: division by zero",
        "dags/c.py:2: ModuleNotFoundError: No module named 'foo'",
        "dags/d.py:2: ModuleNotFoundError: No module named 'foo'",
    ]


def test_dags_read_variables_and_connections_but_write_none(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/airflow.db")
    engine = create_engine(settings.SQL_ALCHEMY_CONN)
    fernet = get_fernet()
    shop = {"conn_id": "shop", "conn_type": "http", "password": "hunter2hunter2", "extra": '{"a": 1}'}
    with engine.begin() as connection:
        for model in (Variable, Connection):
            model.__table__.create(connection)
            # As if a column that the release knows were yet to be made.
            connection.execute(text(f"ALTER TABLE {model.__tablename__} DROP COLUMN description"))
        connection.execute(
            text("INSERT INTO variable (key, val, is_encrypted) VALUES ('shop', :value, :is_encrypted)"),
            {"value": fernet.encrypt(b"bicycle").decode(), "is_encrypted": fernet.is_encrypted},
        )
        connection.execute(insert(Connection.__table__).values(**shop))
    faults = check(
        {
            "reads.py": "from airflow.sdk import BaseHook, Variable\n"
            "assert Variable.get('shop') == 'bicycle' and list(Variable.keys()) == ['shop']\n"
            "shop = BaseHook.get_connection('shop')\n"
            "assert (shop.conn_type, shop.password, shop.extra_dejson) == ('http', 'hunter2hunter2', {'a': 1})\n"
            "Variable.set('shop', 'scooter')\n",
            "says.py": "from airflow.sdk import BaseHook\nraise ValueError(BaseHook.get_connection('shop').password)\n",
            "wants.py": "from airflow.sdk import Variable\nVariable.get('no_such')\n",
        }
    )
    assert [fault.partition("{")[0] for fault in faults] == [
        "dags/says.py:3: ValueError: ***",
        "dags/wants.py:3: airflow.sdk.exceptions.AirflowRuntimeError: VARIABLE_NOT_FOUND: ",
    ]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM variable")) == 1


def scripts(folder: Path, *revisions: tuple[str, str | None]) -> ScriptDirectory:
    """Make migration scripts, of revisions and what each comes after."""
    (folder / "versions").mkdir(parents=True)
    for revision, after in revisions:
        (folder / f"versions/{revision}.py").write_text(f"revision, down_revision = {revision!r}, {after!r}\n")
    return ScriptDirectory(str(folder))


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., gate_schema.Schema]:
    """Give a comparison of a release at revision c with a database that is at these revisions."""

    def run(*revisions: str, **options: bool) -> gate_schema.Schema:
        release = {"version": scripts(tmp_path / "migrations", ("a", None), ("b", "a"), ("c", "b"))}
        with create_engine("sqlite://").connect() as connection:
            if revisions:
                connection.execute(text("CREATE TABLE version (version_num TEXT)"))
            for revision in revisions:
                connection.execute(text("INSERT INTO version VALUES (:revision)"), {"revision": revision})
            return gate_schema.compare(connection, release, **options)

    return run


@pytest.mark.parametrize("revisions", [(), ("a",), ("c",)])
def test_a_release_can_use_what_it_can_migrate(compare: Callable[..., gate_schema.Schema], revisions: tuple) -> None:
    schema = compare(*revisions)
    assert schema.wanted == {"version": "c"}
    assert schema.found == {"version": revisions[0] if revisions else None}
    assert (schema.unknown_revision, schema.faults) == ({}, [])


def test_a_release_that_is_older_than_the_database_is_refused_unless_allowed(
    compare: Callable[..., gate_schema.Schema], tmp_path: Path
) -> None:
    assert compare("newer").faults == [f"the database is at revision newer (version), {gate_schema.UNKNOWN}"]
    (tmp_path / "migrations").rename(tmp_path / "old")
    schema = compare("newer", allow_newer_schema=True)
    assert schema.faults == []
    assert schema.facts == {
        "wanted": {"version": "c"},
        "found": {"version": "newer"},
        "unknown_revision": {"version": "newer"},
    }


def test_a_database_that_is_at_two_revisions_is_refused(compare: Callable[..., gate_schema.Schema]) -> None:
    assert compare("b", "a").faults == ["the database is at several revisions at once (version): a, b"]


def test_what_a_release_wants_is_what_is_written_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    # Where Airflow would leave files, as root in /root/airflow.
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    # The second time, it is read from where it is kept.
    for _ in range(2):
        runpy.run_path(str(FILES / "schema_heads.py"))
        assert json.loads(capsys.readouterr().out)["heads"] == gate_schema.check().wanted
        monkeypatch.setitem(sys.modules, "alembic.script", None)
        assert os.environ["AIRFLOW_HOME"] != str(tmp_path / "home")


def test_a_database_that_does_not_answer_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/no/such.db")
    assert gate_schema.check().faults == ["the database cannot be read: unable to open database file"]


def test_secrets_are_not_shown() -> None:
    redactor = gate_report.Redactor(
        {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://airflow:p%40ssw@rd@host/airflow",
            "AIRFLOW_CONN_SHOP": '{"conn_type": "http", "extra": {"key": "inner one"}}',
            "AIRFLOW__CORE__FERNET_KEY": "several\nlines",
            "PROXY": "http://me:in-a-url@proxy",
            "HOME": "/home/airflow",
        }
    )
    said = "p%40ssw@rd p@ssw@rd, inner one, several\nlines, in-a-url, /home/airflow"
    assert redactor.line(f"\n {said}\nmore") == "*** ***, ***, ***, ***, /home/airflow"
    assert len(redactor.line("x" * 1000)) == gate_report.LINE_LENGTH


def test_the_first_faults_are_listed_and_the_others_counted() -> None:
    assert gate_report.report("1a", ["one"]) == "1 fault in release 1a:\none"
    lines = gate_report.report("1a", [str(number) for number in range(23)]).splitlines()
    assert (lines[0], lines[20:]) == ("23 faults in release 1a:", ["19", "and 3 more"])


def start_gate(release: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start the gate as a deploy does."""
    return subprocess.Popen(
        [sys.executable, GATE, release, *arguments],
        env=os.environ | {"AIRFLOW__CORE__DAGS_FOLDER": "/elsewhere"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_release_goes_live_or_not(tmp_path: Path) -> None:
    good, bad = tmp_path / "1a2b3c", tmp_path / "4d5e6f"
    folder = f"from airflow.configuration import conf\nassert conf.get('core', 'dags_folder') == '{good}/dags'\n"
    noise = "import sys\nprint(1, file=sys.stderr)\n"
    write(good / "dags", {"a.py": f"{folder}print('{{}}')\n{dag('a')}", "b.py": noise})
    write(bad / "dags", {"a.py": "import foo\n"})
    url = "postgresql+psycopg2://me:hunter2hunter2@localhost:1/none"
    passing = start_gate(good, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{tmp_path}/airflow.db")
    failing = start_gate(bad, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url)

    out, err = passing.communicate()
    assert (passing.returncode, err) == (0, "")
    facts = json.loads(out)
    assert (facts["dags"], facts["files"], facts["seconds"] > 0) == (1, 2, True)
    assert set(facts["schema"]["found"].values()) == {None}
    assert facts["schema"]["wanted"].keys() == facts["schema"]["found"].keys()

    out, err = failing.communicate()
    assert (failing.returncode, json.loads(out)["failing"].keys()) == (1, {"a.py"})
    heading, database, fault = err.splitlines()
    assert heading == "2 faults in release 4d5e6f:"
    assert database.startswith("the database cannot be read: ")
    assert fault == "dags/a.py:2: ModuleNotFoundError: No module named 'foo'"
    assert "hunter2" not in out + err


def test_a_release_is_refused_for_what_the_live_one_does_not_show(tmp_path: Path) -> None:
    live, new = tmp_path / "1a2b3c", tmp_path / "4d5e6f"
    write(live / "dags", {"a.py": "import foo\n"})
    write(new / "dags", {"a.py": "import foo\n", "asks.py": "import bar\n"})
    database = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db"}
    refused = start_gate(new, **database)
    warned = start_gate(new, "--warn=asks.py", **database)
    of_refused, of_warned = refused.communicate()[0], warned.communicate()[0]
    assert (refused.returncode, warned.returncode) == (1, 1)

    others = [start_gate(live, "--live-of=4d5e6f", **database) for _ in range(3)]
    (_, of_first), (out, of_second), _ = (
        one.communicate(said) for one, said in zip(others, (of_refused, of_warned, "{}"), strict=True)
    )
    assert [one.returncode for one in others] == [1, 0, 2], "the last one cannot tell"
    assert of_first == "1 fault in release 4d5e6f:\ndags/asks.py:2: ModuleNotFoundError: No module named 'bar'\n"
    assert of_second == ""
    assert json.loads(out)["warnings"] == [
        "dags/asks.py:2: ModuleNotFoundError: No module named 'bar'",
        "dags/a.py:2: ModuleNotFoundError: No module named 'foo'; the live release shows it as well",
    ]
    assert json.loads(out)["schema"] == json.loads(of_warned)["schema"]


@pytest.mark.parametrize("url", ["postgresql://me:hun@ter2@host/airflow", "hunter2"])
def test_a_url_that_is_none_is_not_shown(tmp_path: Path, url: str) -> None:
    _, err = start_gate(tmp_path, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url).communicate()
    assert err.splitlines()[1:] == ["the database's URL is not valid: its password may need %-encoding"]
