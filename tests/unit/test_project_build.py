"""Tests of the module that runs a project's build command."""

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "roles/airflow/library/project_build.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("project_build", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(module: ModuleType, tmp_path: Path) -> Callable[..., str]:
    """Give what runs a script of the shell in a folder of its own."""

    def run(script: str, timeout: float = 20) -> str:
        return module.build(["sh", "-c", script], tmp_path, module.environment(os.environ, []), timeout)

    return run


def test_it_runs_in_the_folder_and_its_output_is_kept(build: Callable, tmp_path: Path) -> None:
    assert build("echo made > made; echo told; echo warned >&2") == "told\nwarned\n"
    assert (tmp_path / "made").exists()


def test_a_failure_is_told_with_its_last_words(build: Callable, module: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(module.BuildError) as raised:
        build("seq 100; echo no such package >&2; exit 3")
    first, *lines = str(raised.value).splitlines()
    assert first.endswith(f"ended with status 3, in {tmp_path}. Its last words:")
    assert (lines[0], lines[1], lines[-1], len(lines)) == ("[… 61 lines are left out …]", "62", "no such package", 41)


def test_a_command_that_hangs_ends_with_what_it_has_started(
    build: Callable, module: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(module.BuildError, match="did not end within 1 seconds"):
        build("(sleep 2; touch late) & echo waits; wait", timeout=1)
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()


def test_what_it_leaves_running_does_not_hold_it_up(build: Callable) -> None:
    started = time.monotonic()
    assert build("sleep 30 & echo done") == "done\n"
    assert time.monotonic() - started < 10


def test_a_signal_is_named(build: Callable, module: ModuleType) -> None:
    with pytest.raises(module.BuildError, match=r"was ended by signal 9, in .*\nit said nothing"):
        build("kill -9 $$")


def test_it_waits_for_no_input(build: Callable) -> None:
    assert build("cat; echo end") == "end\n"


def test_a_program_that_is_missing_is_named(module: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(module.BuildError, match="dbt deps: there is no program dbt in /nowhere"):
        module.build(["dbt", "deps"], tmp_path, {"PATH": "/nowhere"}, 5)


def test_a_program_of_the_project_is_found(module: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "bin/build"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho built\n")
    program.chmod(0o755)
    for variables, argv in (({"PATH": os.environ["PATH"]}, "bin/build"), ({"PATH": str(program.parent)}, "build")):
        assert module.build([argv], tmp_path, variables, 5) == "built\n"


def test_it_gets_nothing_of_the_vault(module: ModuleType) -> None:
    variables = {"ANSIBLE_VAULT_PASSWORD_FILE": "x", "VAULT_AIRFLOW_DATABASE_PASSWORD": "x", "HOME": "/root"}
    found = module.environment(variables | {"PATH": "/usr/bin"}, ["/venv/bin"])
    assert found == {"HOME": "/root", "PATH": "/venv/bin:/usr/bin"}
