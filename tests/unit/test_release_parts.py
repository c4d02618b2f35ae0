"""Tests of the filter that checks what a release is to carry beside its DAGs."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "roles/airflow/filter_plugins/release_parts.py"


@pytest.fixture
def faults(tmp_path: Path) -> Callable[..., list[str]]:
    """Give the filter for a project that has folders, and links that lead out of it and to one of them."""
    spec = importlib.util.spec_from_file_location("release_parts", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("project/dbt/macros", "project/data/docs", "project/bin", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "project/out").symlink_to("../elsewhere")
    (tmp_path / "project/link").symlink_to("dbt")

    def run(**values: object) -> list[str]:
        carried = {"folders": [], "python_path": [], "env": {}, "include": []} | values
        found = module.release_faults(carried, str(tmp_path / "project"), ["ENVIRONMENT"])
        return [fault.replace(f"{tmp_path}/", "") for fault in found]

    return run


def test_what_can_be_carried_passes(faults: Callable) -> None:
    assert faults() == []
    environment = {"DBT_PROJECT_DIR": "dbt", "DOCS": "data/docs", "TOPICS": "dags/topics", "ROOT": "."}
    given = {"python_path": [".", "dbt/macros", "dags/lib"], "env": environment, "include": ["dbt/packages"]}
    assert faults(folders=["dbt", "data/docs", "link"], **given) == []


@pytest.mark.parametrize(
    ("folders", "fault"),
    [
        (["../elsewhere"], "holds '../elsewhere', which must be a path of letters, digits, dots"),
        (["/etc"], "holds '/etc', which must be a path"),
        (["."], "holds '.', which must be a path"),
        (["dbt "], "holds 'dbt ', which must be a path"),
        (["bin"], "holds bin, and a release has its own bin: give the folder another name"),
        (["dags"], "holds dags, and a release has its own dags: give"),
        (["nowhere"], "holds nowhere, and project/nowhere is not a folder: name one that is there"),
        (["out"], "holds out, a link to elsewhere, which is not in project: put the folder there"),
        (["dbt", "dbt/macros"], "holds dbt/macros, which dbt brings along: leave it out"),
    ],
)
def test_a_folder_that_cannot_be_carried_is_named(faults: Callable, folders: list[str], fault: str) -> None:
    (found,) = faults(folders=folders)
    assert found.startswith(f"airflow_release_folders {fault}")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            {"python_path": ["scripts"]},
            "airflow_release_python_path holds 'scripts', which must be in dags, or be below",
        ),
        ({"python_path": ["dbt/../x"]}, "airflow_release_python_path holds 'dbt/../x', which must be in dags"),
        ({"include": ["target"]}, "airflow_release_include holds 'target', which must be in dags, or be below one of"),
        ({"env": {"dbt": "dbt"}}, "airflow_release_env holds dbt, which must have capitals"),
        ({"env": {"PYTHONPATH": "dbt"}}, "airflow_release_env holds PYTHONPATH, which the role sets"),
        ({"env": {"AIRFLOW_HOME": "dbt"}}, "airflow_release_env holds AIRFLOW_HOME, which the role sets"),
        ({"env": {"ENVIRONMENT": "dbt"}}, "airflow_release_env and airflow_env both hold ENVIRONMENT: remove"),
        ({"env": {"DOCS": "docs"}}, "airflow_release_env holds 'docs' as DOCS, which must be in dags"),
    ],
)
def test_what_is_not_in_a_folder_is_named(faults: Callable, values: dict, fault: str) -> None:
    (found,) = faults(folders=["dbt"], **values)
    assert found.startswith(fault)
