"""The command `airflow` in its sandbox: results alone on standard output, and files by standard input and output."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import command_line
import pytest
from airflow.cli import cli_config
from airflow.providers.fab.cli import definition

FILES = Path(__file__).parents[2] / "roles/airflow/files"
PROGRAM = FILES / "libexec/command_line.py"
SPEC = importlib.util.spec_from_file_location("airflow_as_caller", FILES / "airflow_as_caller.py")
CALLER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(CALLER)
COMMANDS = {
    "connections": cli_config.CONNECTIONS_COMMANDS,
    "pools": cli_config.POOLS_COMMANDS,
    "roles": definition.ROLES_COMMANDS,
    "users": definition.USERS_COMMANDS,
    "variables": cli_config.VARIABLES_COMMANDS,
}


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command of Airflow's, with the database of the tests."""
    return subprocess.run([sys.executable, "-P", *command], text=True, capture_output=True, check=False, **options)


@pytest.fixture(scope="module", autouse=True)
def _database() -> None:
    assert run(PROGRAM, "db", "migrate").returncode == 0


def test_airflow_still_logs_to_standard_output() -> None:
    """If this fails, Airflow has mended it: command_line.py need no longer change where the log goes."""
    assert "Could not import graphviz" in run("-m", "airflow", "dags", "list", "-o", "json").stdout


@pytest.mark.parametrize("command", ["dags list", "dags list-import-errors", "connections list", "pools list"])
def test_what_a_program_reads_is_alone_on_standard_output(command: str) -> None:
    ended = run(PROGRAM, *command.split(), "-o", "json")
    assert isinstance(json.loads(ended.stdout), list)
    assert "graphviz" not in ended.stderr


def test_the_log_is_on_standard_error() -> None:
    ended = run(PROGRAM, "dags", "list-import-errors", "-o", "json", env=os.environ | {"PYTHONWARNINGS": "always"})
    assert json.loads(ended.stdout) == []
    assert "[py.warnings]" in ended.stderr


@pytest.mark.parametrize("form", ['{"shop": "bicycle"}', "# mine\nshop=bicycle\n", "shop: bicycle\n"])
def test_files_come_and_go_by_standard_input_and_output(form: str) -> None:
    assert run(PROGRAM, "variables", "import", "/dev/stdin", input=form).returncode == 0
    for name in ("/dev/stdout", "/dev/stdout/mine.json"):
        ended = run(PROGRAM, "variables", "export", name)
        assert json.loads(ended.stdout) == {"shop": "bicycle"}
        assert f"1 variables successfully exported to ./{Path(name).stem}.json." in ended.stderr
    run(PROGRAM, "variables", "delete", "shop")


def test_the_name_of_a_file_tells_its_format() -> None:
    refused = run(PROGRAM, "connections", "import", "/dev/stdin/mine.txt", input="{}")
    assert refused.returncode == 1
    assert "unsupported" in refused.stderr.lower()
    ended = run(PROGRAM, "connections", "export", "/dev/stdout/mine.env")
    assert ended.returncode == 0
    assert "=" in ended.stdout or not ended.stdout


def test_a_command_that_fails_exports_nothing() -> None:
    ended = run(PROGRAM, "connections", "export", "/dev/stdout/mine.txt")
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize(
    ("content", "suffix"),
    [(b'{"a": "b=c"}', ".json"), (b"\n# x\nA_B=c\nd = e\n", ".env"), (b"a:\n  b: c=d\n", ".yaml"), (b"\xff: 1", ".yaml")],
)
def test_content_without_a_name_tells_its_format(content: bytes, suffix: str) -> None:
    assert command_line.suffix_of(content) == suffix


@pytest.mark.parametrize("group", COMMANDS)
@pytest.mark.parametrize("action", ["import", "export"])
def test_the_options_with_a_value_are_those_that_airflow_has(group: str, action: str) -> None:
    command = next(command for command in COMMANDS[group] if command.name == action)
    parser = argparse.ArgumentParser()
    for argument in command.args:
        argument.add_to_parser(parser)
    options = [action for action in parser._actions if action.option_strings and action.nargs != 0]
    assert {name for option in options for name in option.option_strings} <= set(CALLER.WITH_VALUE)
    flags = [action for action in parser._actions if action.option_strings and action.nargs == 0]
    assert not {name for option in flags for name in option.option_strings} & set(CALLER.WITH_VALUE)
    assert len([action for action in parser._actions if not action.option_strings]) == 1
