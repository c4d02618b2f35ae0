"""What a release says of itself, and the list of releases of each."""

import importlib.util
import json
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("releases", PROJECT / "roles/airflow/filter_plugins/releases.py")
FILTERS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FILTERS)
HISTORY = "good 01:00 ada\nbad 02:00 bob\ngood 02:05 \nnext 03:00 eve lyn\nlast 04:00 ada\ncut 05:00"


def fate(name: str, history: str = HISTORY, **links: str) -> list[str]:
    release = {"id": name, "commit": "c", "airflow_version": "3", "deployed_at": "00:00", "deployed_by": "zoe"}
    (line,) = FILTERS.release_lines([release], history, links)
    return [part for part in line.split("  ") if part not in {name, "commit c", "Airflow 3"}]


def test_a_release_says_who_deployed_it_last_and_what_came_of_it() -> None:
    assert fate("next", previous="good", current="next") == ["deployed 03:00 by eve lyn", "current"]
    assert fate("last") == ["deployed 04:00 by ada", "failed, way back at 05:00"]
    assert fate("bad") == ["deployed 02:00 by bob", "failed, way back at 02:05"]
    assert fate("good", current="good", confirmed="good") == [
        "deployed 01:00 by ada",
        "current, confirmed, back since 02:05",
    ]


def test_the_commit_of_the_product_is_told_where_the_project_has_another() -> None:
    facts = {"id": "x", "commit": "c", "airflow_version": "3", "deployed_at": "00:00", "deployed_by": "zoe"}
    (line,) = FILTERS.release_lines([facts | {"product_commit": "f00"}], "", {})
    assert "  commit c, deployed by lvao-airflow at f00  " in line


def test_one_that_the_gate_refused_was_never_live() -> None:
    assert fate("refused") == ["made 00:00 by zoe", "never live"]


def test_one_of_a_host_that_kept_no_history_is_live_all_the_same() -> None:
    assert fate("old", history="", current="old") == ["made 00:00 by zoe", "current"]


def told(variable: str, dags: Path) -> str:
    """Give a variable of the role, for a project with DAGs and a folder beside them."""
    values = {"airflow_dags_source": str(dags), "airflow_project_directory": str(dags.parent)}
    values |= {"airflow_release_folders": ["docs"], "role_path": str(PROJECT / "roles/airflow")}
    variables = ["@roles/airflow/vars/main/main.yml", json.dumps(values)]
    command = ["ansible", "localhost", *(f"--extra-vars={each}" for each in variables), "-m", "debug", "-a"]
    command.append(f"msg={{{{ {variable} }}}}")
    said = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    return said.split("msg: ")[1].strip()


def test_a_release_of_another_repository_has_the_commits_of_both(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    assert told("__airflow_product_commit == {}", PROJECT / "dags") == "true"
    assert told("__airflow_product_commit.product_commit != 'unknown'", tmp_path / "dags") == "true"


def test_a_release_says_what_no_commit_has(tmp_path: Path) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()

    def commit() -> str:
        return told("__airflow_release_description.commit", dags)

    assert commit() == "unknown"
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for arguments in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "--message=x"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    committed = commit()
    assert committed.isalnum()
    (dags / "new.py").touch()
    assert commit() == f"{committed}-untracked"
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    assert commit() == f"{committed}-dirty"
