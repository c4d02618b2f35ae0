"""Tests of the module that packs the DAGs and the folders beside them."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "roles/airflow/library/deterministic_archive.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deterministic_archive", SOURCE)
    module = importlib.util.module_from_spec(spec)
    # Where its dataclass looks for it.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pack(module: ModuleType) -> Callable[..., bytes]:
    """Give what packs folders, each a path with its root, and with what to leave out if there is a third."""

    def run(*folders: tuple, include: tuple[Path, ...] = ()) -> bytes:
        return module.pack([module.Folder(*folder) for folder in folders], include)

    return run


def write(folder: Path, *names: str) -> Path:
    """Write files, each with its name in it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def tree(folder: Path) -> Path:
    write(folder, "a.py", "lib/b.sh", "tests/t.py")
    (folder / "lib/b.sh").chmod(0o755)
    (folder / "link").symlink_to("a.py")
    return folder


def names(content: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getnames()


def member(content: bytes, name: str) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getmember(name)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project in Git, with DAGs, a dbt project, and what Git ignores."""
    folder = write(
        tmp_path / "project",
        *("dags/a.py", "dags/tests/test_a.py", "dags/topic/tests/helper.py", "dags/.env", "dags/topic/.env.local"),
        *("dags/scratch.txt", "dags/.airflowignore", "dbt/dbt_project.yml", "dbt/tests/unique.sql"),
        *("dbt/dbt_packages/utils/macro.sql", "dbt/dbt_packages/utils/.env", "dbt/target/manifest.json"),
    )
    (folder / ".gitignore").write_text("scratch.txt\ndbt_packages/\ntarget/\n.env\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "dags", "dbt")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


def test_equal_content_gives_equal_bytes(pack: Callable, tmp_path: Path) -> None:
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other")
    os.utime(other / "a.py", (0, 0))
    assert pack((one, "dags", ["tests"])) == pack((other, "dags", ["tests"]))


@pytest.mark.parametrize("change", ["content", "name", "mode"])
def test_another_content_gives_other_bytes(pack: Callable, tmp_path: Path, change: str) -> None:
    folder = write(tmp_path / "dags", "a.py")
    before = pack((folder, "dags"))
    if change == "content":
        (folder / "a.py").write_text("2")
    elif change == "name":
        (folder / "a.py").rename(folder / "c.py")
    else:
        (folder / "a.py").chmod(0o755)
    assert pack((folder, "dags")) != before


def test_the_archive_holds_what_is_not_excluded(pack: Callable, tmp_path: Path) -> None:
    content = pack((tree(tmp_path / "dags"), "dags", ["tests", "*.sh"]))
    assert names(content) == ["dags", "dags/a.py", "dags/lib", "dags/lib/b.sh", "dags/link"]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert {one.uid for one in archive} == {0}


def test_an_empty_folder_is_there(pack: Callable, tmp_path: Path) -> None:
    assert names(pack((tmp_path, "data/dags"))) == ["data", "data/dags"]


@pytest.mark.parametrize("has_git", [True, False])
def test_tests_stay_behind_at_the_top_alone_and_env_files_everywhere(
    pack: Callable, project: Path, has_git: bool
) -> None:
    if not has_git:
        (project / ".git").rename(project.parent / "elsewhere")
    found = names(pack((project / "dags", "dags", ["tests"]), (project / "dbt", "dbt")))
    assert "dags/tests" not in found
    assert {"dags/topic/tests/helper.py", "dags/.airflowignore", "dbt/tests/unique.sql"} <= {*found}
    assert not [name for name in found if ".env" in name]
    assert ("dags/scratch.txt" in found, "dbt/target/manifest.json" in found) == (not has_git, not has_git)


def test_what_git_ignores_is_packed_if_it_is_named(pack: Callable, project: Path) -> None:
    found = names(pack((project / "dbt", "dbt"), include=(project / "dbt/dbt_packages",)))
    assert "dbt/dbt_packages/utils/macro.sql" in found
    assert not [name for name in found if ".env" in name or "target" in name]


def test_what_git_would_add_is_packed_and_what_was_removed_is_not(pack: Callable, project: Path) -> None:
    write(project, "dags/new.py")
    (project / "dags/a.py").unlink()
    found = names(pack((project / "dags", "dags")))
    assert "dags/new.py" in found
    assert "dags/a.py" not in found


def test_a_folder_that_git_ignores_is_packed_as_one_without_git(pack: Callable, project: Path) -> None:
    assert "t/manifest.json" in names(pack((project / "dbt/target", "t")))


def test_a_repository_of_a_hook_is_not_asked(
    pack: Callable, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(write(tmp_path / "other", "x"), "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert "dags/a.py" in names(pack((project / "dags", "dags")))


def test_a_submodule_is_packed_and_one_that_is_not_there_is_refused(
    pack: Callable, project: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", "module.py", ".gitignore", "skipped")
    (other / ".gitignore").write_text("skipped")
    git(other, "init", "--quiet")
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message=all")
    git(project, "submodule", "--quiet", "add", str(other), "dags/other")
    write(project, "dags/other/skipped")
    found = names(pack((project / "dags", "dags")))
    assert "dags/other/module.py" in found
    assert "dags/other/skipped" not in found
    git(project, "submodule", "--quiet", "deinit", "--force", "dags/other")
    with pytest.raises(ValueError, match="dags/other is a submodule that is not there: run 'git submodule update"):
        pack((project / "dags", "dags"))


def test_a_repository_that_git_does_not_read_is_refused(pack: Callable, project: Path) -> None:
    (project / ".git/HEAD").unlink()
    with pytest.raises(ValueError, match=r"Git does not say which files of .*/dags it knows: fatal: not a git"):
        pack((project / "dags", "dags"))


def test_a_link_leads_to_the_same_file_in_the_archive(pack: Callable, project: Path) -> None:
    (project / "dags/by_path").symlink_to(project / "dbt/tests")
    (project / "dags/topic/beside").symlink_to("../../dbt/dbt_project.yml")
    content = pack((project / "dags", "dags"), (project / "dbt", "carried/dbt"))
    assert member(content, "dags/by_path").linkname == "../carried/dbt/tests"
    assert member(content, "dags/topic/beside").linkname == "../../carried/dbt/dbt_project.yml"


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("/etc/passwd", "dags/link is a link to /etc/passwd, which is not packed with it"),
        ("../dbt/dbt_project.yml", "dags/link is a link to .*/project/dbt/dbt_project.yml, which is not packed with"),
        (".env", "dags/link is a link to .*/dags/.env, which is not packed with it"),
        ("nowhere", "dags/link is a link to nowhere, which is not there"),
        ("link", "dags/link is a link to link, which is not there"),
    ],
)
def test_a_link_that_leads_out_is_refused(pack: Callable, project: Path, target: str, fault: str) -> None:
    (project / "dags/link").symlink_to(target)
    with pytest.raises(ValueError, match=fault):
        pack((project / "dags", "dags"))


def test_a_file_in_the_place_of_another_is_refused(pack: Callable, tmp_path: Path) -> None:
    team, ours = write(tmp_path / "team", "canary.py"), write(tmp_path / "ours", "canary.py")
    with pytest.raises(ValueError, match=r"team/canary.py and .*ours/canary.py would both be dags/canary.py: rename"):
        pack((team, "dags"), (ours, "dags"))


@pytest.mark.parametrize(
    ("included", "fault"),
    [("dbt/nowhere", "dbt/nowhere is to be packed, and is not there"), ("dags", "dags is to be packed, and lies in")],
)
def test_what_cannot_be_included_is_refused(pack: Callable, project: Path, included: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        pack((project / "dbt", "dbt"), include=(project / included,))


def test_a_folder_that_is_missing_is_refused(pack: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="docs is not a folder"):
        pack((tmp_path / "docs", "docs"))


def test_what_is_no_file_is_refused(pack: Callable, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither a file"):
        pack((tmp_path, "dags"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_refused(pack: Callable, tmp_path: Path) -> None:
    write(tmp_path, "secret.py").joinpath("secret.py").chmod(0)
    with pytest.raises(PermissionError, match=r"secret\.py"):
        pack((tmp_path, "dags"))


def test_a_process_finds_a_new_module_of_the_next_release(pack: Callable, tmp_path: Path) -> None:
    """It has looked into the folder of the release before, by the same path."""
    for release, module in (("one", "old"), ("two", "new")):
        content = pack((write(tmp_path / f"source/{release}", f"{module}.py"), "scripts"))
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert archive.getmember("scripts").mtime < 2**28
            archive.extractall(tmp_path / release, filter="tar")
        (tmp_path / f"{release}/scripts/{module}.py").write_text("")
        os.utime(tmp_path / f"{release}/scripts", (0, member(content, "scripts").mtime))
    (tmp_path / "current").symlink_to("one")
    code = (
        "import os, sys; sys.path.insert(0, 'current/scripts'); import old\n"
        "os.unlink('current'); os.symlink('two', 'current'); import new"
    )
    subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, check=True)
