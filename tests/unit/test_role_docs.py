"""Tests of the command that writes the roles' pages."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROLES = Path(__file__).parents[2] / "roles"
COMMAND = ROLES.parent / "bin/role-docs"
TOOL = runpy.run_path(str(COMMAND))

MARKUP = {
    "bold and italic": ("B(one) and I(two)", "**one** and *two*"),
    "code": ("C(s3logs), F(/etc/airflow) and E(AIRFLOW_HOME)", "`s3logs`, `/etc/airflow` and `AIRFLOW_HOME`"),
    "option and value": ("O(state=absent) or V(a|b)", "`state=absent` or `a|b`"),
    "escapes": (r"V(f(x\)\\) but C(\w)", r"`f(x)\` but `\w`"),
    "backticks": ("C(a`b) and C(`)", "``a`b`` and `` ` ``"),
    "address": ("U(https://example.org/a_b)", "<https://example.org/a_b>"),
    "link": ("L(one, two,https://example.org)", "[one, two](https://example.org)"),
    "role": ("M(airflow_logging)", "[airflow_logging](../airflow_logging/README.md)"),
    "module": ("M(ansible.builtin.copy)", "`ansible.builtin.copy`"),
    "no markup": ("RFC(1) or L(nothing)", "RFC(1) or L(nothing)"),
    "Markdown's own signs": ("s3://<bucket> *_`", r"s3://\<bucket> \*\_\`"),
    "lines": ("one\n  two\n", "one two"),
}

SPECS = """
argument_specs:
  units:
    short_description: Units
    options:
      web_units:
        type: list
        elements: dict
        required: true
        description: The units.
        options:
          name: {type: str, required: true, description: [Its name., "One word."]}
          env: {type: dict, description: Its environment., options: {home: {type: path, description: A home.}}}
  main: &main
    short_description: A webserver
    description: [One., Two.]
    options:
      web_port: {type: int, default: 80, description: TCP port.}
      web_mode: {default: a, choices: [a, ""], description: "V(a|b) is none."}
      web_hosts: {type: list, elements: str, default: [é, b], description: Names.}
      web_size: {type: int, default: "{{ [1, 2] | max }}", description: Size.}
      web_key: {type: str, required: true, no_log: true, description: Key.}
  preflight: *main
"""

PAGE = r"""# web

Made by `make docs` from [meta/argument_specs.yml](meta/argument_specs.yml). Do not edit.

A webserver.

One.

Two.

| variable | type | default | description |
| --- | --- | --- | --- |
| `web_port` | int | `80` | TCP port. |
| `web_mode` | str, one of `a`, `""` | `a` | `a\|b` is none. |
| `web_hosts` | list of str | `["é", "b"]` | Names. |
| `web_size` | int | `{{ [1, 2] \| max }}` | Size. |
| `web_key` | str | required, secret | Key. |

The entry point `preflight` takes the same.

## Entry point `units`

Units.

| variable | type | default | description |
| --- | --- | --- | --- |
| `web_units` | list of dict | required | The units. |
| `web_units[].name` | str | required | Its name. One word. |
| `web_units[].env` | dict | none | Its environment. |
| `web_units[].env.home` | path | none | A home. |
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=folder, text=True, capture_output=True, check=False)


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """Lay out a project with one role, and return what it says of itself."""
    path = tmp_path / "roles/web/meta/argument_specs.yml"
    path.parent.mkdir(parents=True)
    path.write_text(SPECS)
    return path


@pytest.mark.parametrize("case", MARKUP)
def test_markup_becomes_markdown(case: str) -> None:
    text, expected = MARKUP[case]
    assert TOOL["markdown"](text) == expected


def test_a_page_shows_what_the_specs_say(specs: Path, tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 0
    assert (tmp_path / "roles/web/README.md").read_text() == PAGE
    assert "| [web](web/README.md) | A webserver |" in (tmp_path / "roles/README.md").read_text().splitlines()


def test_a_role_may_have_no_variables(specs: Path, tmp_path: Path) -> None:
    specs.write_text("argument_specs: {main: {short_description: A role, options: {}}}")
    assert run(tmp_path).returncode == 0
    assert (tmp_path / "roles/web/README.md").read_text().endswith("\n\nA role.\n\nIt takes no variables.\n")


def test_a_changed_description_is_noticed(specs: Path, tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, "--check").returncode == 0
    specs.write_text(SPECS.replace("TCP port.", "UDP port."))
    ended = run(tmp_path, "--check")
    assert ended.returncode == 1
    assert ended.stderr == "role-docs: roles/web/README.md is not what the specs say: run 'make docs'\n"
    assert (tmp_path / "roles/web/README.md").read_text() == PAGE
    assert run(tmp_path).stdout == "role-docs: wrote roles/web/README.md\n"
    assert run(tmp_path, "--check").returncode == 0


def test_a_new_role_without_a_page_is_noticed(specs: Path, tmp_path: Path) -> None:
    run(tmp_path)
    shutil.copytree(specs.parent, tmp_path / "roles/new/meta")
    named = [line.split()[1] for line in run(tmp_path, "--check").stderr.splitlines()]
    assert named == ["roles/README.md", "roles/new/README.md"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "roles/web/meta/argument_specs.yml is missing or empty: describe the role's variables there"),
        ("---\n", "roles/web/meta/argument_specs.yml is missing or empty: describe the role's variables there"),
        ("argument_specs: {main: }", "roles/web/meta/argument_specs.yml has no short_description of main"),
        ("argument_specs: {", 'in "roles/web/meta/argument_specs.yml"'),
    ],
)
def test_a_role_without_specs_gets_a_clear_error(
    specs: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    specs.unlink() if content is None else specs.write_text(content)
    ended = run(tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "roles/README.md").exists()


@pytest.mark.parametrize(
    "folder", [ROLES, *sorted(path for path in ROLES.iterdir() if path.is_dir())], ids=lambda path: path.name
)
def test_every_role_has_a_page_whose_links_lead_somewhere(folder: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", (folder / "README.md").read_text())
    assert links
    assert [link for link in links if not (folder / link).exists()] == []
