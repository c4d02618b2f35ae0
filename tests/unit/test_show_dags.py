"""`make dags` shows what a developer has to know."""

import importlib.util
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/airflow/files/libexec/show_dags.py"
SPEC = importlib.util.spec_from_file_location("show_dags", PROGRAM)
SHOW = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SHOW)
FAULT = "dags/a.py:2: SyntaxError: '(' was never closed"


@pytest.mark.parametrize(
    ("check", "restarts", "expected"),
    [
        (
            (0, '{"dags": 3, "files": 2}', ""),
            "",
            ["The check that a release has to pass finds no fault in 3 DAGs of 2 files."],
        ),
        (
            (1, "", f"1 fault in release 1a2b3c:\n{FAULT}\n"),
            "Scheduled restart job\n" * 2,
            [
                "The check that a release has to pass finds:",
                FAULT,
                "The DAG processor ended by itself 2 times in 15 minutes: journalctl -u lvao-airflow-dag-processor.",
            ],
        ),
        ((1, "", "no bus"), "", ["The check that a release has to pass finds:", "no bus"]),
    ],
)
def test_it_shows_the_dags_their_faults_and_what_ends_the_dag_processor(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    check: tuple[int, str, str],
    restarts: str,
    expected: list[str],
) -> None:
    ran = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        ran.append(command)
        return SimpleNamespace(stdout=restarts if "journalctl" in command[0] else None)

    process = SimpleNamespace(communicate=lambda: check[1:], returncode=check[0])
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: ran.append(command) or process)
    SHOW.main()
    assert capsys.readouterr().out.splitlines() == expected
    assert [command[1:] for command in ran[1:3]] == [["dags", "list"], ["dags", "list-import-errors"]]
