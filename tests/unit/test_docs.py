"""What the pages in docs/ promise."""

import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import yaml
from jinja2 import Environment

sys.path.append(str(Path(__file__).parents[2] / "bin"))
from project import find

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


def examples(page: str, heading: str) -> list[str]:
    """List the blocks of code below a heading.

    Args:
        page: Name of the page in docs/.
        heading: The heading, with its number signs.

    Returns:
        The blocks, without their indentation.
    """
    chapter = (PROJECT / "docs" / page).read_text().partition(f"\n{heading}\n")[2]
    chapter = re.split(rf"^#{{1,{heading.index(' ')}}} ", chapter, maxsplit=1, flags=re.MULTILINE)[0]
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    +\S.*\n(?:\n(?=    ))?)+", chapter, re.MULTILINE)]


def test_a_project_as_the_how_to_writes_it_has_the_defaults(tmp_path: Path) -> None:
    blocks = examples("how-to.md", "## Keep your DAGs in a repository of their own")
    written = next(block for block in blocks if "[dependency-groups]" in block)
    (tmp_path / "dags").mkdir()
    (tmp_path / "pyproject.toml").write_text(written)
    found = find(PROJECT, str(tmp_path))
    assert "dbt-core" in tomllib.loads(written)["dependency-groups"]["airflow"]
    (tmp_path / "pyproject.toml").write_text(written.partition("[tool.lvao]")[0])
    assert find(PROJECT, str(tmp_path)) == found


def test_the_workflow_of_the_how_to_gives_those_that_it_calls_what_they_want() -> None:
    blocks = examples("how-to.md", "## Keep your DAGs in a repository of their own")
    jobs = yaml.safe_load(next(block for block in blocks if "jobs:" in block))["jobs"]
    assert len(jobs) == 2
    for job in jobs.values():
        name = re.search(r"/\.github/workflows/(.*)@main$", job["uses"])
        assert name
        workflow = yaml.safe_load((PROJECT / ".github/workflows" / name[1]).read_text())
        # YAML takes the word for a boolean.
        inputs = workflow[True]["workflow_call"]["inputs"]
        assert {one for one, facts in inputs.items() if facts.get("required")} <= set(job["with"]) <= set(inputs)


def test_the_sizes_of_the_migration_guide_are_those_of_the_defaults() -> None:
    defaults = {}
    for role in ("airflow", "airflow_scheduler"):
        defaults |= yaml.safe_load((PROJECT / f"roles/{role}/defaults/main.yml").read_text())
    pattern = r"^\| \d+ processors, (\d+) GiB \| (\d+) \| (.+) GiB \| (.+) GiB \|"
    rows = re.findall(pattern, (PROJECT / "docs/migration.md").read_text(), re.MULTILINE)
    assert len(rows) == 3
    for memory, *sizes in rows:
        # The kernel keeps about a fiftieth for itself.
        facts = {"memtotal_mb": int(memory) * 1024 * 98 // 100}
        parallelism, tasks, others = (
            int(Environment(autoescape=True).from_string(defaults[name]).render(ansible_facts=facts))
            for name in ("airflow_parallelism", "airflow_scheduler_memory_mb", "airflow_memory_mb")
        )
        assert sizes == [str(parallelism), f"{tasks / 1024:.1f}", f"{others / 1024:.1f}"]


def test_the_template_of_the_environment_has_what_the_migration_guide_names() -> None:
    template = re.findall(r"^([A-Z_0-9]+)=", (PROJECT / ".env.template").read_text(), re.MULTILINE)
    named = set()
    for cell, place in re.findall(r"^\| (`.*) \| (.*) \|$", (PROJECT / "docs/migration.md").read_text(), re.MULTILINE):
        stem = ""
        for name in re.findall(r"`(…?[A-Z_0-9]+)`", cell if "`airflow_env" in place else ""):
            stem = stem if name.startswith("…") else name.partition("_")[0]
            named.add(name.replace("…", stem))
    named = {name for name in named if not name.startswith("AIRFLOW_")} - {"ENVIRONMENT"}
    assert len(named) > 20
    # What the guide leaves out is the same everywhere, or a connection.
    assert named == set(template) - {"ENVIRONMENT", "AIRFLOW_CONN_WEBAPP_DB", "SCW_DEFAULT_REGION"}


def test_the_project_of_the_migration_guide_is_one(tmp_path: Path) -> None:
    written = next(block for block in examples("migration.md", "## Move the code in") if "[tool.lvao]" in block)
    for folder in ("dags", "dbt", "docs", "scripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text(written.replace(", …]", "]"))
    found = find(PROJECT, str(tmp_path))
    assert set(found.release_env.values()) <= set(found.release_folders)
    assert found.build
    assert len(found.checks.warn) == 4


def test_the_variables_that_the_pages_name_are_those_of_roles() -> None:
    known = set()
    for specs in PROJECT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(specs.read_text())["argument_specs"].values():
            known |= set(entry.get("options", {}))
    # A tag, and a DAG of the platform's.
    known |= {"deploy_user", "airflow_cleanup_db"}
    prefixes = "|".join(sorted({name.partition("_")[0] for name in known}))
    for page in ("how-to.md", "migration.md"):
        # A name that ends so stands for several.
        named = set(re.findall(rf"\b(?:{prefixes})_[a-z0-9_]*[a-z0-9]\b(?!_)", (PROJECT / "docs" / page).read_text()))
        assert named <= known, page
