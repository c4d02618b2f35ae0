"""A look at a project's DAGs finds what they lack, and gives what they ask for at their import a stand-in."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dag_checks
import pytest
from project import PROMISES, Checks, Project

DAG = "from airflow.sdk import DAG\n"
TASK = "from airflow.providers.standard.operators.empty import EmptyOperator\n"
GOOD = (
    f"{DAG}{TASK}import datetime\n"
    "with DAG({!r}, schedule=None, tags=['a'], description='d', start_date=datetime.datetime(2026, 1, 1),\n"
    "         default_args={{'owner': 'data', 'retries': 1}}):\n    EmptyOperator(task_id='t')\n"
)
STRICT = dict.fromkeys(PROMISES, "error")
Inspect = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Take the stand-ins of a test away from the next one."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    """Give a look at DAG files that are yet to be written."""

    def run(files: dict[str, str], warn: tuple[str, ...] = (), **promises: str) -> list[str]:
        for name, source in files.items():
            (tmp_path / "flows" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "flows" / name).write_text(source)
        project = Project(
            folder=tmp_path,
            group="airflow",
            test_group="dag-tests",
            dags=tmp_path / "flows",
            tests=tmp_path / "flows/tests",
            requirements=tmp_path / "requirements",
            env_file=tmp_path / ".env",
            test_postgresql="",
            checks=Checks(STRICT | {name.replace("_", "-"): level for name, level in promises.items()}, warn),
        )
        return [*dag_checks.report(dag_checks.inspect(project), project)]

    return run


def test_dags_that_have_all_are_counted(inspect: Inspect) -> None:
    files = {"a.py": GOOD.format("a"), "b/c.py": GOOD.format("c"), "tests/test_a.py": f"{DAG}1 / 0\n"}
    assert inspect(files) == ["2 DAGs of 2 files: 0 errors, 0 warnings"]


def test_what_dags_lack_is_named(inspect: Inspect) -> None:
    bad = (
        f"{DAG}{TASK}with DAG('bad', schedule=None):\n    EmptyOperator(task_id='silent')\n"
        "    EmptyOperator(task_id='explained', owner='data', doc_md='Retries: none, it does nothing.')\n"
    )
    empty = f"{DAG}empty = DAG('empty', schedule=None, tags=['a'], description='It has no tasks')\n"
    files = {"bad.py": bad, "empty.py": empty, "good.py": GOOD.format("good")}
    assert inspect(files, retries="warning", start_date="off") == [
        "error: no task: empty",
        "error: no description: bad",
        "error: a task without an owner: bad",
        "error: no tags: bad",
        "warning: a task without retries, and no `Retries:` in doc_md that says why: bad",
        "3 DAGs of 3 files: 4 errors, 1 warning",
    ]


def test_of_many_dags_a_warning_names_the_first(inspect: Inspect) -> None:
    names = f"{DAG}for name in 'abcdefgh':\n    globals()[name] = DAG(name, schedule=None)\n"
    off = dict.fromkeys(("description", "owner", "retries", "start_date", "tasks"), "off")
    assert inspect({"many.py": names}, **off, tags="warning")[0] == "warning: no tags: a, b, c, d, e and 3 more"


def test_what_does_not_import_is_an_error_unless_the_project_says_otherwise(inspect: Inspect) -> None:
    files = {
        "asks.py": f"{DAG}raise ConnectionError('no answer')\n",
        "lib/inner.py": "\nimport foo\n",
        "uses.py": f"{DAG}from lib import inner\n",
    }
    inner = "flows/lib/inner.py:2: ModuleNotFoundError: No module named 'foo' (imported by flows/uses.py)"
    os.environ["PYTHONPATH"] = ""
    assert inspect(files, warn=("asks.py",)) == [
        f"error: {inner}",
        "warning: flows/asks.py:2: ConnectionError: no answer",
        "0 DAGs of 2 files: 1 error, 1 warning",
    ]
    assert inspect(files, imports="warning")[1] == f"warning: {inner}"
    assert inspect(files, imports="off") == ["0 DAGs of 2 files: 0 errors, 0 warnings"]


def test_what_is_deprecated_is_named_once_if_it_is_the_projects(inspect: Inspect) -> None:
    files = {
        "old.py": f"from airflow.decorators import dag\nimport warnings\nwarnings.warn('mine')\n{GOOD.format('old')}"
    }
    assert inspect(files) == [
        "error: flows/old.py:1: airflow.utils.deprecation_tools.DeprecatedImportWarning: "
        "The `airflow.decorators.dag` attribute is deprecated. Please use `'airflow.sdk.dag'`.",
        "1 DAG of 1 file: 1 error, 0 warnings",
    ]


def test_what_a_file_asks_for_has_a_stand_in(inspect: Inspect, tmp_path: Path) -> None:
    asks = "from airflow.sdk import BaseHook, Variable\nimport os\n"
    wants = (
        "int(Variable.get('shop_limit'))\nVariable.get('shops', deserialize_json=True)\n"
        "assert Variable.get('optional', 'default') == 'default'\n"
        "BaseHook.get_connection('warehouse')\nos.environ['DB_PORT']\nassert '//' in os.environ['WEBAPP_URL']\n"
        "assert Variable.get('from_env') == 'a value'\n"
    )
    os.environ["AIRFLOW_VAR_FROM_ENV"] = "a value"
    files = {f"{name}.py": asks + wants + GOOD.format(name) for name in "abcd"}
    names = "AIRFLOW_CONN_WAREHOUSE, DB_PORT, WEBAPP_URL, AIRFLOW_VAR_SHOP_LIMIT, AIRFLOW_VAR_SHOPS"
    assert inspect(files) == [
        f"stand-ins, as neither {tmp_path}/.env nor anything else has a value: {names}",
        "4 DAGs of 4 files: 0 errors, 0 warnings",
    ]


def test_a_file_that_wants_more_than_a_stand_in_says_so(inspect: Inspect) -> None:
    source = f"{DAG}from airflow.sdk import Variable\nVariable.get('shops', deserialize_json=True)['url']\n"
    assert inspect({"a.py": source}) == [
        "error: flows/a.py:3: TypeError: 'int' object is not subscriptable (with stand-ins for the variable shops)",
        "0 DAGs of 1 file: 1 error, 0 warnings",
    ]


def test_an_error_of_another_kind_gets_no_stand_in(inspect: Inspect) -> None:
    source = f"{DAG}from airflow.sdk import Variable\nVariable.get('optional', None)\n{{}}['small']\n"
    assert inspect({"a.py": source})[0] == "error: flows/a.py:4: KeyError: 'small'"


def test_topics_with_modules_of_the_same_names_do_not_meet(inspect: Inspect) -> None:
    path = "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent))\nimport settings\n"
    files = {
        f"{topic}/dag_{topic}.py": f"{path}assert settings.TOPIC == '{topic}'\n{GOOD.format(topic)}" for topic in "ab"
    }
    files |= {f"{topic}/settings.py": f"TOPIC = '{topic}'\n" for topic in "ab"}
    assert inspect(files) == ["2 DAGs of 2 files: 0 errors, 0 warnings"]
