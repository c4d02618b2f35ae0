"""A filter that says what came of the releases of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping


def release_lines(releases: Iterable[Mapping[str, str]], history: str, links: Mapping[str, str]) -> list[str]:
    """Say for each release who deployed it when, what is in it, and what came of it.

    Args:
        releases: What each `release.json` holds.
        history: The file of this name, to which the script `switch` adds a line each time that a release goes live:
            its id, when, and who deployed it, unless it is a way back.
        links: The id of the release that each link, such as `current`, points to.

    Returns:
        A line for each, in their order.
    """
    switches = [[*line.split(" ", 2), "", ""][:3] for line in history.splitlines()]
    lines = []
    for release in releases:
        name = release["id"]
        places = [place for place, (switched, _, _) in enumerate(switches) if switched == name]
        deploys = [switches[place] for place in places if switches[place][2]]
        done, when, who = (
            ("deployed", *deploys[-1][1:]) if deploys else ("made", release["deployed_at"], release["deployed_by"])
        )
        fate = [link for link, target in links.items() if target == name]
        if places:
            _, since, by = switches[places[-1]]
            following = switches[places[-1] + 1 : places[-1] + 2]
            if not by:
                fate.append(f"back since {since}")
            elif following and not following[0][2]:
                fate.append(f"failed, way back at {following[0][1]}")
        elif not fate:
            fate.append("never live")
        commit = f"commit {release['commit']}"
        if product := release.get("product_commit"):
            commit += f", deployed by lvao-airflow at {product}"
        facts = [f"{done} {when} by {who}", commit, f"Airflow {release['airflow_version']}"]
        lines.append("  ".join([name, *facts, ", ".join(fate)]).rstrip())
    return lines


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Give each filter's name and function.

        Returns:
            Them.
        """
        return {"release_lines": release_lines}
