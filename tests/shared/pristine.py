"""The project as it comes, whatever a site has put into its checkout: tests neither depend on that nor reach its hosts.

`preprod/` has the files of preprod with their placeholders; those of prod differ by the name alone.
"""

import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# What a site fills in.
ENVIRONMENTS = ("preprod", "prod")
WORKFLOWS = ("audit", "cd", "cd_prod", "ci", "deploy", "plan", "project_check", "project_deploy")
# What comes along of the folders to which a site adds.
OURS = {
    "inventories": {"development", "vagrant"},
    "group_vars": {"airflow", "development", "molecule", "site", "vagrant", "webserver"},
    ".github/workflows": {f"{name}.yml" for name in WORKFLOWS},
}


def placeholders(name: str) -> dict[str, str]:
    """Tell what preprod or prod comes with.

    Args:
        name: Which of them.

    Returns:
        The text of each of its files, by the path in the project.
    """
    return {
        path: (Path(__file__).parent / "preprod" / Path(path).name).read_text().replace("preprod", name)
        for path in (f"inventories/{name}/hosts.yml", f"group_vars/{name}/vars.yml")
    }


def copy(folder: Path, *parts: str) -> None:
    """Copy the project, or parts of it, always with preprod and prod.

    Args:
        folder: Where to.
        parts: Files and folders; all, if none is named.
    """
    listed = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for path in filter(None, listed.split("\0")):
        source, target = PROJECT / path, folder / path
        wanted = not parts or any(Path(path).is_relative_to(part) for part in parts)
        if wanted and is_ours(path) and (source.exists() or source.is_symlink()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    for name in ENVIRONMENTS:
        for path, text in placeholders(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        (folder / f"inventories/{name}/group_vars").symlink_to("../../group_vars")


def is_ours(path: str) -> bool:
    """Tell whether a file comes with the project, and is not for a site to edit.

    Args:
        path: In the project.
    """
    within = [
        (path.removeprefix(f"{folder}/"), names) for folder, names in OURS.items() if path.startswith(f"{folder}/")
    ]
    return all(rest.split("/")[0] in names for rest, names in within)
