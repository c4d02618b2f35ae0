"""The command `airflow` in its sandbox: results alone on standard output, and files by standard input and output."""

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import allowed
import command_line
import file_argument
import pytest
import yaml
from airflow.cli import cli_config, cli_parser
from airflow.providers.fab.cli import definition

PROGRAM = Path(command_line.__file__)
COMMANDS = {
    "connections": cli_config.CONNECTIONS_COMMANDS,
    "pools": cli_config.POOLS_COMMANDS,
    "roles": definition.ROLES_COMMANDS,
    "users": definition.USERS_COMMANDS,
    "variables": cli_config.VARIABLES_COMMANDS,
}
# What there is to say, in each way.
SAYS = """
import command_line
command_line.import_airflow()
import logging, structlog, warnings
structlog.get_logger("one").warning("first")
logging.getLogger("two").warning("second")
warnings.warn("third")
print("result")
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python, with the environment of the tests."""
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parent)}
    return subprocess.run([sys.executable, *command], env=environment, text=True, capture_output=True, check=False)


def test_airflow_still_logs_to_standard_output() -> None:
    """If this fails, Airflow has mended it: command_line.py need no longer change where the log goes."""
    assert "Could not import graphviz" in run("-m", "airflow", "dags", "list", "-o", "json").stdout


def test_what_a_program_reads_is_alone_on_standard_output() -> None:
    ended = run(PROGRAM, "dags", "list", "-o", "json")
    # The tests have no database: all that there is to say is an error.
    assert ended.stdout == ""
    assert "Database migration required" in ended.stderr
    assert "graphviz" not in ended.stderr


def test_the_log_is_on_standard_error() -> None:
    ended = run("-c", SAYS)
    assert ended.stdout == "result\n"
    assert all(word in ended.stderr for word in ("first", "second", "third"))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None], list[str], bytes], None]:
    """Run what stands in for Airflow's command line, in a sandbox of its own."""

    def run(main: Callable[[], None], arguments: list[str], content: bytes = b"") -> None:
        monkeypatch.setattr(sys, "argv", [])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        monkeypatch.chdir(tmp_path)
        out = os.dup(1)
        try:
            command_line.run(arguments, tmp_path, main)
        finally:
            os.dup2(out, 1)
            os.close(out)

    return run


@pytest.mark.parametrize(
    ("argument", "file"),
    [("/dev/stdin", "./stdin.json"), ("/dev/stdin/my vars.yaml", "./my vars.yaml"), ("/dev/stdin/63", "./63.json")],
)
def test_what_is_imported_comes_by_standard_input(command: Callable, argument: str, file: str) -> None:
    seen = []
    command(lambda: seen.extend([*sys.argv, Path(sys.argv[3]).read_text()]), ["variables", "import", argument], b"{}")
    assert seen == ["airflow", "variables", "import", file, "{}"]


@pytest.mark.parametrize(
    ("argument", "file"), [("/dev/stdout", "./stdout.json"), ("/dev/stdout/mine.env", "./mine.env")]
)
def test_what_is_exported_is_alone_on_standard_output(
    command: Callable, capfd: pytest.CaptureFixture, argument: str, file: str
) -> None:
    def export() -> None:
        Path(file).write_text("exported")
        os.write(1, b"1 connection exported\n")
        sys.exit(0)

    command(export, ["connections", "export", argument])
    assert capfd.readouterr() == ("exported", "1 connection exported\n")


def test_a_command_that_fails_exports_nothing(command: Callable, capfd: pytest.CaptureFixture) -> None:
    def fail() -> None:
        Path("mine.json").write_text("half")
        sys.exit("no database")

    with pytest.raises(SystemExit, match="no database"):
        command(fail, ["connections", "export", "/dev/stdout/mine.json"])
    assert capfd.readouterr().out == ""


def test_other_arguments_stay_as_they_are(command: Callable) -> None:
    arguments = ["variables", "set", "place", "/dev/stdin/../x"]
    command(lambda: None, arguments)
    assert sys.argv == ["airflow", *arguments]


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b'{"a": "b=c"}', ".json"),
        (b"\n# x\nA_B=c\nd = e\n", ".env"),
        (b"a:\n  b: c=d\n", ".yaml"),
        (b"\xff: 1", ".yaml"),
    ],
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
    assert {name for option in options for name in option.option_strings} <= set(file_argument.WITH_VALUE)
    flags = [action for action in parser._actions if action.option_strings and action.nargs == 0]
    assert not {name for option in flags for name in option.option_strings} & set(file_argument.WITH_VALUE)
    assert len([action for action in parser._actions if not action.option_strings]) == 1


# Read one by one: none runs code, writes a file, shows a secret or changes an account.
HARMLESS = """
--alias --allow-multiple --bundle-name --color --columns --conf --dag-id --dag-run-conf --downstream --dry-run
--end-date --field --from-date --full --help --hostname --job-type --limit --logical-date --map-index
--max-active-runs --name --no-backfill --no-replace-microseconds --no-run-on-latest-version --num-executions
--only-failed --only-running --output --partition-date-end --partition-date-start --partition-key --reprocess-behavior
--run-backwards --run-id --run-on-latest-version --start-date --state --table --task-regex --to-date
--treat-dag-id-as-regex --upstream --uri --verbose --yes
"""


def options_of(command: str) -> list[list[str]]:
    """Ask Airflow for the options of a command, each by all its names."""
    parser = cli_parser.get_parser()
    for word in command.split():
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = groups[0].choices[word]
    assert not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions), command
    return [action.option_strings for action in parser._actions if action.option_strings]


def test_every_option_that_the_group_may_use_has_been_read() -> None:
    """If this fails, Airflow has a new one: read what it does, and note it here or in allowed.py."""
    defaults = yaml.safe_load((PROGRAM.parents[2] / "defaults/main.yml").read_text())
    unread = {
        (command, names[-1])
        for command in defaults["airflow_command_allowed"]
        for names in options_of(command)
        if not {*HARMLESS.split(), *allowed.FOR_ROOT.get(command, ())} & set(names)
    }
    # There it means the jobs of this host.
    assert unread == {("jobs check", "--local")}


def test_options_for_root_are_known_by_all_their_names() -> None:
    for command, names in allowed.FOR_ROOT.items():
        known = [option for option in options_of(command) if set(option) & set(names)]
        assert {name for option in known for name in option} == set(names), command
