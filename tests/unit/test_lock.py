"""What `make lock` and `make upgrade` write, from an index that runs here, and what they refuse."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import package_index
import pytest
from package_index import Index, Release

PROJECT = Path(__file__).parents[2]
OURS = """
[project]
name = "test"
version = "1.0"
[dependency-groups]
airflow = ["kept", "added"]
dag-tests = []
dev = []
uv = []
"""
PLATFORM = """
[project]
name = "platform"
version = "1.0"
requires-python = ">=3.11,<3.14"
[dependency-groups]
airflow = {wanted}
dag-tests = ["added"]
[tool.uv.sources]
{sources}
[tool.lvao]
build = {build}
"""
RELEASES = {
    "kept": {"1.0": Release(30), "2.0": Release(8), "3.0": Release(1)},
    "added": {"1.0": Release(30), "2.0": Release(0)},
    "wheelless": {"1.0": Release(tag="")},
    "wanting": {"1.0": Release(needs=("wheelless",))},
    "newone": {"1.0": Release(tag="cp312-cp312-manylinux_2_28_x86_64")},
}


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    """Run the index."""
    with package_index.run(RELEASES) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """This repository, with packages of the index."""
    folder = tmp_path / "here is it"
    (folder / "dags").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(OURS)
    (folder / "requirements").mkdir()
    (folder / "bin").mkdir()
    for program in ("lock.py", "locked.py", "packages.py", "project.py"):
        shutil.copy(PROJECT / "bin" / program, folder / "bin")
    for path in ("bin/setup", "bin/airflow-settings", ".venv-airflow/bin/python"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to("/bin/true")
    (folder / "roles/airflow/vars/main").mkdir(parents=True)
    shutil.copy(PROJECT / "Makefile", folder)
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    return folder


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """The folder of a team's project, with DAGs."""
    folder = tmp_path / "platform"
    (folder / "dags").mkdir(parents=True)
    return folder


def ask(platform: Path, *wanted: str, build: tuple[str, ...] = (), sources: str = "") -> None:
    """Write what a project wants."""
    content = PLATFORM.format(wanted=json.dumps(wanted), build=json.dumps(build), sources=sources)
    (platform / "pyproject.toml").write_text(content)


def run(here: Path, index: Index, *command: str | Path, project: Path | None = None) -> subprocess.CompletedProcess:
    """Run a command of this repository with that index."""
    known = {"UV_DEFAULT_INDEX": index.url, "UV_CACHE_DIR": str(here.parent / "cache"), "UV_NO_CONFIG": "true"}
    known |= {"LVAO_PROJECT": str(project)} if project else {}
    hidden = ("UV_", "PIP_", "MAKE", "LOCK_", "LVAO_")
    ours = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    ours["PATH"] = f"{here}/.venv/bin:{ours['PATH']}"
    return subprocess.run(command, cwd=here, env=ours | known, text=True, capture_output=True, check=False)


def lock(here: Path, index: Index, platform: Path, *options: str) -> subprocess.CompletedProcess:
    """Lock a project that lies elsewhere."""
    return run(here, index, here / "bin/lock.py", *options, project=platform)


def describe(here: Path, index: Index, platform: Path, python: str = "3.13.5") -> subprocess.CompletedProcess:
    """Say what a host installs."""
    locked = platform / "requirements/airflow.txt"
    command = [here / "bin/packages.py", "describe", locked, f"--python={python}", "--wheels=/opt/wheels"]
    return run(here, index, *command, project=platform)


def commit(folder: Path) -> str:
    """Commit what is in a Git repository, which is made, and say the commit."""
    git = ["git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@lvao.test"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--allow-empty", "--message=test"]):
        subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, text=True, capture_output=True).stdout.strip()


@pytest.mark.parametrize(
    ("command", "locked", "taken"),
    [
        (["lock"], "1.0", {"kept": "1.0", "added": "1.0"}),
        (["lock"], "3.0", {"kept": "3.0", "added": "1.0"}),
        (["upgrade"], "1.0", {"kept": "2.0", "added": "1.0"}),
        (["upgrade", "LOCK_AGE=0 days"], "1.0", {"kept": "3.0", "added": "2.0"}),
        (["upgrade", "LOCK_AGE="], "1.0", {"kept": "3.0", "added": "2.0"}),
    ],
)
def test_a_version_is_taken_once_it_is_a_week_old(
    here: Path, index: Index, command: list[str], locked: str, taken: dict[str, str]
) -> None:
    (here / "requirements/airflow.txt").write_text(index.locked("kept", locked))
    ended = run(here, index, "make", *command)
    assert ended.returncode == 0, ended.stderr
    lines = (here / "requirements/airflow.txt").read_text().splitlines()
    assert dict(line.split()[0].split("==") for line in lines if "==" in line) == taken


def test_a_project_elsewhere_has_its_own_lock_with_airflow_in_it(here: Path, index: Index, platform: Path) -> None:
    ask(platform, "kept")
    (here / "pyproject.toml").write_text(OURS.replace('"kept", ', ""))
    ended = lock(here, index, platform)
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"^\w+==", (platform / "requirements/airflow.txt").read_text(), re.M) == ["added==", "kept=="]
    assert not (here / "requirements/airflow.txt").exists()
    assert lock(here, index, platform, "--check").returncode == 0
    ask(platform)
    checked = lock(here, index, platform, "--check")
    assert checked.returncode == 1
    assert checked.stderr.endswith("lock-check: pyproject.toml has changed: run 'make lock'\n")


@pytest.mark.parametrize(
    ("wanted", "who"), [("wheelless", "the group airflow in {platform}/pyproject.toml.\n"), ("wanting", "wanting.\n")]
)
def test_a_package_without_a_wheel_is_named_with_who_wants_it(
    here: Path, index: Index, platform: Path, wanted: str, who: str
) -> None:
    ask(platform, wanted)
    (platform / "requirements").mkdir()
    (platform / "requirements/airflow.txt").write_text("before\n".replace("before", index.locked("kept", "1.0")))
    before = (platform / "requirements/airflow.txt").read_text()
    ended = lock(here, index, platform)
    assert ended.returncode == 1
    wanted_by = f"It is wanted by {who.format(platform=platform)}"
    assert f"wheelless has no wheel that hosts could install, and hosts build nothing. {wanted_by}" in ended.stderr
    assert f'build = ["wheelless"] in [tool.lvao] of {platform}/pyproject.toml.' in ended.stderr
    assert (platform / "requirements/airflow.txt").read_text() == before


def test_one_that_is_named_is_built_once_and_installed_by_its_hash(here: Path, index: Index, platform: Path) -> None:
    ask(platform, "wanting", build=("wheelless",))
    ended = lock(here, index, platform)
    assert ended.returncode == 0, ended.stderr
    index.asked.clear()
    told = describe(here, index, platform)
    assert told.returncode == 0, told.stderr
    assert not index.asked
    answer = json.loads(told.stdout)
    (wheel,) = answer["wheels"]
    lines = Path(answer["requirements"]).read_text()
    assert f"wheelless @ file:///opt/wheels/{wheel['dest']} \\\n    --hash=sha256:" in lines
    assert "wanting==1.0 \\\n" in lines
    shutil.rmtree(here / ".cache/wheelhouse")
    assert json.loads(describe(here, index, platform).stdout)["digest"] == answer["digest"]


def test_a_source_folder_and_a_git_repository_must_be_named(here: Path, index: Index, platform: Path) -> None:
    package_index.source(platform / "webapp", "webapp")
    package_index.source(platform.parent / "remote", "remote")
    commit(platform.parent / "remote")
    sources = f'webapp = {{path = "webapp"}}\nremote = {{git = "file://{platform.parent}/remote"}}'
    ask(platform, "webapp", "remote", sources=sources)
    ended = lock(here, index, platform)
    assert ended.returncode == 1
    assert "webapp" in ended.stderr
    assert "remote" in ended.stderr
    assert f"in [tool.lvao] of {platform}/pyproject.toml." in ended.stderr
    assert not (platform / "requirements/airflow.txt").exists()


@pytest.mark.parametrize("source", ['path = "webapp"', 'path = "webapp", editable = true', "workspace = true"])
def test_a_source_folder_is_built_anew_when_it_changes(here: Path, index: Index, platform: Path, source: str) -> None:
    package_index.source(platform / "webapp", "webapp", ("kept",))
    (platform / ".gitignore").write_text("*.log\n")
    workspace = '\n[tool.uv.workspace]\nmembers = ["webapp"]' if "workspace" in source else ""
    ask(platform, "webapp", build=("webapp",), sources=f"webapp = {{{source}}}{workspace}")
    commit(platform)
    ended = lock(here, index, platform)
    assert ended.returncode == 0, ended.stderr
    assert "\nwebapp @ ./webapp\n" in (platform / "requirements/airflow.txt").read_text()
    first = json.loads(describe(here, index, platform).stdout)
    (platform / "webapp/run.log").write_text("ignored")
    assert json.loads(describe(here, index, platform).stdout)["digest"] == first["digest"]
    (platform / "webapp/code.py").write_text("ANSWER = 2\n")
    second = json.loads(describe(here, index, platform).stdout)
    assert second["digest"] != first["digest"]
    assert second["wheels"][0]["dest"] != first["wheels"][0]["dest"]
    assert sorted(path.name for path in (platform / "webapp").iterdir()) == [
        "backend.py",
        "code.py",
        "pyproject.toml",
        "run.log",
    ]


def test_members_of_a_workspace_need_each_other(here: Path, index: Index, platform: Path) -> None:
    repository = platform.parent
    (repository / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["platform", "libs/*"]\n')
    package_index.source(repository / "libs/webapp", "webapp", ("shared",))
    with (repository / "libs/webapp/pyproject.toml").open("a") as content:
        content.write("[tool.uv.sources]\nshared = {workspace = true}\n")
    package_index.source(repository / "libs/shared", "shared", ("kept",))
    ask(platform, "webapp", build=("webapp", "shared"), sources="webapp = {workspace = true}")
    ended = lock(here, index, platform)
    assert ended.returncode == 0, ended.stderr
    lines = (platform / "requirements/airflow.txt").read_text()
    assert "\nshared @ ../libs/shared\nwebapp @ ../libs/webapp\n" in lines
    assert len(json.loads(describe(here, index, platform).stdout)["wheels"]) == 2
    # What a folder needs belongs to the lock.
    with (repository / "libs/shared/pyproject.toml").open("a") as content:
        content.write('[project.optional-dependencies]\nmore = ["added"]\n')
    assert "is older than" in describe(here, index, platform).stderr


def test_a_commit_is_kept_until_an_upgrade_or_another_source(here: Path, index: Index, platform: Path) -> None:
    remote = package_index.source(platform.parent / "remote", "remote")
    first = commit(remote)
    ask(platform, "remote", build=("remote",), sources=f'remote = {{git = "file://{remote}"}}')
    locked = platform / "requirements/airflow.txt"
    assert lock(here, index, platform).returncode == 0
    assert f"remote @ git+file://{remote}@{first}" in locked.read_text()
    second = commit(remote)
    assert lock(here, index, platform).returncode == 0
    assert first in locked.read_text()
    assert lock(here, index, platform, "--check").returncode == 0
    assert lock(here, index, platform, "--upgrade").returncode == 0
    assert second in locked.read_text()
    ask(platform, "remote", build=("remote",), sources=f'remote = {{git = "file://{remote}", rev = "{first}"}}')
    assert lock(here, index, platform).returncode == 0
    assert first in locked.read_text()


def test_a_lock_that_a_host_could_not_install_does_not_take_its_place(here: Path, index: Index, platform: Path) -> None:
    ask(platform, "newone")
    ended = lock(here, index, platform)
    assert ended.returncode == 1
    assert "What was resolved cannot be installed with Python 3.11, so the lock stays as it was." in ended.stderr
    assert not (platform / "requirements/airflow.txt").exists()


def test_what_compiles_is_for_one_python_alone(here: Path, index: Index, platform: Path) -> None:
    own, other = f"3.{sys.version_info.minor}", "3.12" if sys.version_info.minor != 12 else "3.13"
    tag = f"cp3{sys.version_info.minor}"
    package_index.source(platform / "webapp", "webapp", tag=f"{tag}-{tag}-linux_{os.uname().machine}")
    ask(platform, "webapp", build=("webapp",), sources='webapp = {path = "webapp"}')
    with (platform / "pyproject.toml").open("a") as content:
        content.write(f'python = "{own}"\n')
    ended = lock(here, index, platform)
    assert ended.returncode == 0, ended.stderr
    told = describe(here, index, platform, f"{own}.4")
    assert f"/{own}/webapp-1.0-{tag}" in json.loads(told.stdout)["wheels"][0]["dest"]
    locked = platform / "requirements/airflow.txt"
    locked.write_text(re.sub("# for Python .*", "# for Python >=3.11", locked.read_text()))
    refused = describe(here, index, platform, f"{other}.4")
    assert refused.returncode == 1
    assert f"webapp cannot be built from {platform}/webapp for Python {other}" in refused.stderr


def test_a_build_that_fails_is_shown(here: Path, index: Index, platform: Path) -> None:
    package_index.source(platform / "webapp", "webapp")
    (platform / "webapp/backend.py").write_text("raise SystemExit('no compiler')\n")
    ask(platform, "webapp", build=("webapp",), sources='webapp = {path = "webapp"}')
    ended = lock(here, index, platform)
    assert ended.returncode == 1
    assert f"webapp cannot be built from {platform}/webapp for Python 3.11" in ended.stderr
    assert "no compiler" in ended.stderr
    assert not (platform / "requirements/airflow.txt").exists()


def test_an_environment_stays_while_its_lock_cannot_be_installed(here: Path, index: Index, platform: Path) -> None:
    package_index.source(platform / "webapp", "webapp")
    ask(platform, "wheelless", "webapp", build=("wheelless", "webapp"), sources='webapp = {path = "webapp"}')
    assert lock(here, index, platform).returncode == 0
    install = [here / "bin/packages.py", "install", here / "environment"]
    ended = run(here, index, *install, project=platform)
    assert ended.stdout == f"setup: installed {platform}/requirements in {here}/environment\n", ended.stderr
    assert run(here, index, *install, project=platform).stdout == ""
    locked = platform / "requirements/airflow.txt"
    locked.write_text(f"{locked.read_text()}lost==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    failed = run(here, index, *install, project=platform)
    assert failed.returncode == 1
    assert failed.stderr.startswith("setup: uv pip sync fails:\n")
    imported = run(here, index, here / "environment/bin/python", "-c", "import added, kept, webapp, wheelless")
    assert imported.returncode == 0, imported.stderr


def test_a_project_elsewhere_keeps_the_settings_of_its_providers(here: Path, index: Index, platform: Path) -> None:
    ask(platform, "kept")
    (platform / "requirements").mkdir()
    (here / ".venv-airflow/bin/python").unlink()
    (here / ".venv-airflow/bin/python").symlink_to("/bin/echo")
    checked = lock(here, index, platform, "--settings", "--check")
    settings = platform / "requirements/airflow-settings.yml"
    assert checked.stderr == f"lock: The locked Airflow has other settings than {settings}: run 'make lock'.\n"
    assert lock(here, index, platform, "--settings").returncode == 0
    assert settings.read_text() == f"{here}/bin/airflow-settings\n"
    assert lock(here, index, platform, "--settings", "--check").returncode == 0


def test_a_lock_that_is_older_than_the_project_is_refused(here: Path, index: Index, platform: Path) -> None:
    ask(platform, "kept")
    assert lock(here, index, platform).returncode == 0
    assert describe(here, index, platform).returncode == 0
    ask(platform, "kept", "added")
    told = describe(here, index, platform)
    assert told.returncode == 1
    assert told.stderr.startswith(
        f"{platform}/requirements/airflow.txt is older than {platform}/pyproject.toml, whose packages have changed: "
    )


def test_a_python_that_the_lock_is_not_for_is_refused(here: Path, index: Index, platform: Path) -> None:
    ask(platform, "kept")
    content = (platform / "pyproject.toml").read_text().replace(">=3.11,<3.14", ">=3.12,<3.13")
    (platform / "pyproject.toml").write_text(content)
    assert lock(here, index, platform).returncode == 0
    assert "\n# for Python >=3.12,<3.13\n" in (platform / "requirements/airflow.txt").read_text()
    assert describe(here, index, platform, "3.12.4").returncode == 0
    told = describe(here, index, platform, "3.13.5")
    assert told.returncode == 1
    assert told.stderr.startswith("The host's Python is 3.13.5, and ")
    assert (
        "is for >=3.12,<3.13: name one that meets it in airflow_python_version or airflow_python_source" in told.stderr
    )
