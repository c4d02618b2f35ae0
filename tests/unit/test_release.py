"""Makes versions in a repository of its own, whose origin is beside it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CHANGELOG = "# Changelog\n\n## Unreleased\n\n- Later.\n\n## 1.2.3 - 2026-01-02\n\n- What it brings.\n\n## 1.2.30\n\n"


def git(folder: Path, *arguments: str) -> str:
    ours = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *ours, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, **texts: str) -> None:
    """Commit files, each named without its ending, and push."""
    for name, text in texts.items():
        next(folder.glob(f"{name}.*")).write_text(text)
    git(folder, "commit", "--quiet", "--all", "--message", "x")
    git(folder, "push", "--quiet", "origin", "main")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository that is ready for version 1.2.3."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    folder, origin = tmp_path / "project", tmp_path / "origin"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(PROJECT / "bin/release", folder / "bin")
    shutil.copy(PROJECT / "Makefile", folder)
    (folder / "pyproject.toml").write_text('version = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init", "--quiet", "--bare", "origin")
    git(folder, "init", "--quiet")
    git(folder, "remote", "add", "origin", str(origin))
    git(folder, "add", ".")
    commit(folder)
    return folder


def make(folder: Path, command: str) -> tuple[int, str]:
    """Run a target of make, a tag given as the workflow gives it, and tell how it ended and what it said."""
    target, _, given = command.partition(" ")
    variables = dict([given.split("=", 1)] if target == "release-check" else [])
    words = ["make", "--no-print-directory", *(command.split() if target == "release" else [target])]
    ended = subprocess.run(words, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_version_is_tagged_with_what_it_brings_and_may_be_deployed(project: Path) -> None:
    # Which is no version, and stands in no version's way.
    git(project, "tag", "v2-beta")
    code, said = make(project, "release VERSION=1.2.3")
    assert (code, said) == (0, "release: tagged v1.2.3; to deploy it on prod: git push origin v1.2.3\n")
    assert (
        git(project, "tag", "--list", "v1*", "--format=%(contents)").strip() == "Version 1.2.3\n\n\n- What it brings."
    )

    code, said = make(project, "release-check TAG=v1.2.3")
    assert (code, said) == (0, "release: v1.2.3 may be deployed\n")


def no_argument(_: Path) -> str:
    return "release"


def another_branch(project: Path) -> str:
    git(project, "switch", "--quiet", "--create", "topic")
    return "release VERSION=1.2.3"


def uncommitted(project: Path) -> str:
    (project / "new").touch()
    return "release VERSION=1.2.3"


def not_pushed(project: Path) -> str:
    git(project, "commit", "--quiet", "--allow-empty", "--message", "x")
    return "release VERSION=1.2.3"


def earlier(project: Path) -> str:
    git(project, "tag", "v1.10.0")
    return "release VERSION=1.2.3"


def again(project: Path) -> str:
    git(project, "tag", "v1.2.3")
    return "release VERSION=1.2.3"


def other_metadata(project: Path) -> str:
    commit(project, pyproject='version = "1.2.2"\n')
    return "release VERSION=1.2.3"


def no_notes(project: Path) -> str:
    commit(project, pyproject='version = "1.2.30"\n')
    return "release VERSION=1.2.30"


def tag_that_differs(project: Path) -> str:
    git(project, "push", "--quiet", "origin", "main:refs/tags/v1.0.0")
    git(project, "tag", "--force", "v1.0.0", git(project, "commit-tree", "-m", "another", "HEAD^{tree}").strip())
    return "release VERSION=1.2.3"


def origin_away(project: Path) -> str:
    git(project, "remote", "set-url", "origin", "nowhere")
    return "release VERSION=1.2.3"


def tag_elsewhere(project: Path) -> str:
    git(project, "tag", "v1.2.3")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "x")
    return "release-check TAG=v1.2.3"


def tag_beside_main(project: Path) -> str:
    git(project, "switch", "--quiet", "--create", "topic")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "x")
    git(project, "tag", "v1.2.3")
    return "release-check TAG=v1.2.3"


def tag_without_notes(project: Path) -> str:
    commit(project, CHANGELOG="# Changelog\n")
    git(project, "tag", "v1.2.3")
    return "release-check TAG=v1.2.3"


REFUSED = {
    no_argument: "'' is not a version: usage: make release VERSION=1.2.3",
    another_branch: "versions are made of main: git switch main",
    uncommitted: "there is uncommitted work: commit it, or git stash",
    not_pushed: "main differs from origin's: git pull or git push first",
    earlier: "1.2.3 does not come after 1.10.0, the latest version",
    again: "1.2.3 does not come after 1.2.3, the latest version",
    other_metadata: "pyproject.toml says version 1.2.2: make it 1.2.3, and commit",
    no_notes: "CHANGELOG.md says nothing of 1.2.30: write what changes below '## 1.2.30 - ",
    tag_that_differs: "cannot get origin's main and tags; a tag that differs from origin's goes by git tag --delete:",
    origin_away: "cannot get origin's main and tags",
    tag_elsewhere: "what is checked out is not v1.2.3: git checkout v1.2.3",
    tag_beside_main: "v1.2.3 is not on main: delete it by git push --delete origin v1.2.3, merge what it should hold",
    tag_without_notes: "CHANGELOG.md says nothing of 1.2.3",
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_a_refusal_says_what_to_do_and_tags_nothing(project: Path, case: Callable[[Path], str]) -> None:
    command = case(project)
    before = git(project, "tag", "--list")
    code, said = make(project, command)
    assert code == 2, said
    assert f"release: {REFUSED[case]}" in said
    assert git(project, "tag", "--list") == before


@pytest.mark.parametrize("version", ["1.2", "01.2.3", "1.2.3;true"])
def test_what_is_no_version_is_not_tagged(project: Path, version: str) -> None:
    code, said = make(project, f"release VERSION={version}")
    assert code == 2, said
    assert f"release: '{version}' is not a version: usage: make release VERSION=1.2.3" in said
    assert not git(project, "tag", "--list")


@pytest.mark.parametrize("tag", ["vNext", "v1.2", "vNext||true", "v1.2.3;true", "v$(VERSION)`id`"])
def test_a_tag_that_is_no_version_is_not_deployed(project: Path, tag: str) -> None:
    git(project, "tag", tag)
    code, said = make(project, f"release-check TAG={tag}")
    assert code == 2, said
    assert f"release: '{tag}' is not a version, and tags 'v…' are versions: delete it by git push --delete" in said
