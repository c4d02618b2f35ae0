"""What the gate says: on one line each, and without secrets."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

LISTED_FAULTS = 20
LINE_LENGTH = 400
# Shorter ones are parts of ordinary words.
SECRET_LENGTH = 5


def leaves(value: object) -> Iterator[str]:
    """Yield the strings of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Find what no output may show.

    Args:
        environment: names and values of environment variables.

    Returns:
        the secrets, longest first, so that none is left over as a part of another.
    """
    found: set[str] = set()
    for name, value in environment.items():
        if re.search("PASSW|SECRET|TOKEN|KEY|CONN", name.upper()):
            found.add(value)
            with contextlib.suppress(ValueError):
                found.update(leaves(json.loads(value)))
        for password in re.findall(r"://[^:/\s]*:(\S+)@", value):
            found |= {password, unquote(password)}
    return sorted((secret for secret in found if len(secret) >= SECRET_LENGTH), key=len, reverse=True)


class Redactor:
    """Takes the secrets of an environment out of what others say."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Learn the secrets.

        Args:
            environment: names and values of environment variables.
        """
        self.secrets = secrets_of(environment)

    def line(self, text: object) -> str:
        """Shorten a message to its first line, of at most LINE_LENGTH characters, without secrets."""
        text = str(text)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        return first if len(first) <= LINE_LENGTH else f"{first[: LINE_LENGTH - 1]}…"


def report(release: str, faults: list[str]) -> str:
    """List faults for a human reader.

    Args:
        release: the release's name.
        faults: at least one, each a line.

    Returns:
        how many there are, then the first LISTED_FAULTS of them.
    """
    number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = [f"{number} in release {release}:", *faults[:LISTED_FAULTS]]
    if len(faults) > LISTED_FAULTS:
        lines.append(f"and {len(faults) - LISTED_FAULTS} more")
    return "\n".join(lines)
