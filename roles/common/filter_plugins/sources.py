"""Filters that check what a site installs beside Debian's own packages, and say where it goes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*", re.ASCII)
PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
ADDRESS = re.compile(r"https?://[^/@\s]+/\S*")
SHA256 = re.compile(r"[0-9a-f]{64}")
KEY_BEGINS = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
# The deploy makes this one, a link to the current release's.
TAKEN = {"airflow"}
CHUNK = 2**20


def _named(
    entries: Iterable[Mapping[str, Any]], variable: str, faults: list[str]
) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """Go through the entries of a variable, with their names, and what messages call them; note what stands twice."""
    entries = list(entries)
    for name, count in Counter(one.get("name") for one in entries).items():
        if count > 1:
            faults.append(f"{variable} holds {name} {count} times: each name must stand once.")
    for one in entries:
        name = str(one.get("name") or "")
        yield one, name, f"{name or 'an entry without a name'} in {variable}"


def _texts(value: object) -> list[str]:
    """Read a list of words that a site may also write as one."""
    return [value] if isinstance(value, str) else [str(one) for one in value or []]


def signing_key(value: str) -> str:
    """Read the key that signs a repository.

    Args:
        value: The key itself, or the path of its file on the controller.

    Returns:
        The key, in ASCII armour.

    Raises:
        ValueError: There is no such file, or what it holds is no key in ASCII armour.
    """
    if KEY_BEGINS in value:
        return value.strip() + "\n"
    path = Path(value)
    if "\n" in value or not path.is_file():
        message = f"it must be a key that begins with {KEY_BEGINS}, or the path of its file on the controller"
        raise ValueError(message)
    text = path.read_bytes()
    if KEY_BEGINS.encode() not in text:
        message = f"{value} holds no key in ASCII armour: convert it with gpg --enarmor, or fetch its .asc file"
        raise ValueError(message)
    return text.decode().strip() + "\n"


def repository_faults(repositories: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what is wrong with repositories of apt.

    Args:
        repositories: The variable `common_apt_repositories`.

    Returns:
        A sentence for each fault.
    """
    faults: list[str] = []
    for one, name, said in _named(repositories, "common_apt_repositories", faults):
        suites, components = _texts(one.get("suites")), _texts(one.get("components"))
        if not NAME.fullmatch(name):
            faults.append(f"{said}: name must have small letters, digits and the signs +.-, such as pgdg.")
        if wrong := [uri for uri in _texts(one.get("uris")) if not ADDRESS.fullmatch(uri)]:
            faults.append(f"{said}: uris holds {', '.join(wrong)}: each must be a https:// address without a password.")
        if not one.get("uris") or not suites:
            faults.append(f"{said}: uris and suites must each name one or more.")
        # A suite that is a path, such as ./, has none.
        if any(suite.endswith("/") for suite in suites) == bool(components):
            faults.append(f"{said}: components must name one or more, such as main; a suite that ends with / has none.")
        try:
            signing_key(str(one.get("signed_by") or ""))
        except (OSError, ValueError) as error:
            faults.append(f"{said}: signed_by is not valid: {error}.")
    return faults


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _source_fault(one: Mapping[str, Any]) -> str:
    url, path = one.get("url"), one.get("path")
    if bool(url) == bool(path):
        return "it must have either a url or a path on the controller"
    if url and not ADDRESS.fullmatch(url):
        return f"url is {url}: it must be a https:// address without a password"
    if not SHA256.fullmatch(str(one.get("sha256") or "")):
        return "sha256 must be 64 hexadecimal digits in small letters, as sha256sum prints them"
    if path and not Path(path).is_file():
        return f"path is {path}, which is no file on the controller"
    if path and (found := _sha256(Path(path))) != one["sha256"]:
        return f"{path} has the SHA-256 {found}, and sha256 is {one['sha256']}: see which is right, and correct it"
    return ""


def binary_faults(binaries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what is wrong with pinned programs, as far as the controller can tell.

    Args:
        binaries: The variable `common_binaries`.

    Returns:
        A sentence for each fault.
    """
    faults: list[str] = []
    for one, name, said in _named(binaries, "common_binaries", faults):
        if not PROGRAM.fullmatch(name) or name in TAKEN:
            faults.append(f"{said}: name must be that of a program, such as scw, and not {', '.join(TAKEN)}.")
        if fault := _source_fault(one):
            faults.append(f"{said}: {fault}.")
    return faults


def pinned_binaries(binaries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say where each pinned program goes.

    Args:
        binaries: The variable `common_binaries`.

    Returns:
        Them, each with `file`, the name of its file, which another version does not have, and `incoming`, where a file
        of the controller's is copied to before.
    """
    placed = []
    for one in binaries:
        digest = hashlib.sha256(f"{one['sha256']} {one.get('member') or ''}".encode()).hexdigest()[:16]
        placed.append({**one, "file": f"{one['name']}-{digest}", "incoming": f".incoming-{digest}"})
    return placed


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Give each filter's name and function.

        Returns:
            Them.
        """
        return {
            "binary_faults": binary_faults,
            "pinned_binaries": pinned_binaries,
            "repository_faults": repository_faults,
            "signing_key": signing_key,
        }
