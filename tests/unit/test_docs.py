"""What the pages in docs/ promise."""

import re
import subprocess
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[2]


def check_links(folder: Path, text: str) -> str:
    (folder / "page.md").write_text(text)
    (folder / "other.md").write_text("# Of `code`, and more\n")
    command = [PROJECT / "bin/check-links", "page.md"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stderr


def test_links_that_lead_somewhere_pass(tmp_path: Path) -> None:
    text = "# Here\n[a](other.md#of-code-and-more) [b](#here) [c](https://nowhere.test/x) ![d](other.md)\n"
    text += "\n    [e](nope.md)\n"
    assert check_links(tmp_path, text) == ""


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    said = check_links(tmp_path, "[a](other.md#of)\n![b](nope.svg)\n\n| x |\n| --- |\n| [c](#there) |\n")
    assert "page.md links to other.md#of, and other.md has no such heading" in said
    assert "page.md links to nope.svg, which is not there" in said
    assert "page.md links to #there" in said


def test_the_commands_that_the_pages_name_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for page in [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]:
        text = page.read_text()
        named = re.findall(r"(?:^|`|    )make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= targets, page


def test_the_owners_of_code_that_the_how_to_gives_leave_out_dags_alone() -> None:
    page = (PROJECT / "docs/how-to.md").read_text()
    found = re.search(r"`\.github/CODEOWNERS`.*\n\n((?:    .*\n)+)", page)
    assert found
    (everything, *owners), *others = (line.split() for line in found[1].splitlines())
    assert everything == "*"
    assert len(owners) == 1
    assert others == [["/dags/"]]
    assert (PROJECT / "dags").is_dir()


def test_what_the_migration_guide_sets_is_what_airflow_knows() -> None:
    known = yaml.safe_load((PROJECT / "roles/airflow/vars/main/settings.yml").read_text())["__airflow_known_settings"]
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", (PROJECT / "docs/migration.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for names, place in rows:
        settings = re.findall(r"AIRFLOW__[A-Z0-9_]+", f"{names} {place}" if "airflow_env" in place else "")
        renamed = re.findall(r"AIRFLOW__[A-Z0-9_]+", place)
        assert set(renamed or settings) <= set(known), names
        if "unknown to Airflow 3" in place:
            assert not set(re.findall(r"AIRFLOW__[A-Z0-9_]+", names)) & set(known)
