"""List what somebody who was root on a host, or logged in there, could have left.

It reads, and changes nothing. What it prints is JSON: a list of lines for each title.

Usage, as root, by Debian's Python: triage.py
"""

import base64
import binascii
import hashlib
import json
import os
import pwd
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

# What is run or obeyed without being asked for. Of a folder, all that is below it.
STARTS = {
    "Units and timers": [
        "/etc/systemd/system",
        "/etc/systemd/user",
        "/run/systemd/system",
        "/usr/local/lib/systemd",
        "/usr/lib/systemd/system",
        "/usr/lib/systemd/user",
        "/root/.config/systemd",
    ],
    "Crontabs": [
        "/etc/crontab",
        "/etc/cron.d",
        "/etc/cron.hourly",
        "/etc/cron.daily",
        "/etc/cron.weekly",
        "/etc/cron.monthly",
        "/var/spool/cron",
    ],
    "What else runs or decides by itself": [
        "/etc/sudoers.d",
        "/etc/profile.d",
        "/etc/ssh/sshd_config.d",
        "/etc/udev/rules.d",
        "/etc/apt/apt.conf.d",
        "/etc/ld.so.preload",
        "/etc/rc.local",
    ],
}
OURS = re.compile(r"/[0-9]*-?lvao[^/]*(/|$)")
KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk)-[\w@.-]+)\s+([A-Za-z0-9+/]+=*)\s*(.*)$")


def plain(value: object) -> str:
    """Show a text without the signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(value))


def key_of(line: str) -> str:
    """Show a line of authorized_keys by the fingerprint of its key, with its comment and its options."""
    try:
        _, body, comment = KEY.search(line).groups()
        digest = hashlib.sha256(base64.b64decode(body, validate=True)).digest()
    except (AttributeError, binascii.Error):
        return f"no key: {line}"
    options = line[: KEY.search(line).start(1)].strip()
    fingerprint = base64.b64encode(digest).decode().rstrip("=")
    return f"SHA256:{fingerprint} {comment or 'without a name'}" + (f" [{options}]" if options else "")


def server_settings() -> dict[str, str]:
    """Ask the SSH server for its settings; there may be none."""
    asked = subprocess.run(
        ["/bin/sh", "-c", "/usr/sbin/sshd -T"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return dict(line.partition(" ")[::2] for line in asked.stdout.splitlines())


def key_files(settings: dict[str, str], user: pwd.struct_passwd) -> Iterator[Path]:
    """Yield where the SSH server looks for the keys of a user."""
    for pattern in settings.get("authorizedkeysfile", ".ssh/authorized_keys .ssh/authorized_keys2").split():
        name = pattern.replace("%h", user.pw_dir).replace("%u", user.pw_name).replace("%U", str(user.pw_uid))
        yield Path(user.pw_dir, name)


def keys(settings: dict[str, str], users: Iterable[pwd.struct_passwd]) -> Iterator[str]:
    """Yield the keys that let somebody in, by user.

    Args:
        settings: what the SSH server says of itself.
        users: all of the host.
    """
    for user in users:
        for file in key_files(settings, user):
            if file.is_file():
                lines = [line.strip() for line in file.read_text(errors="replace").splitlines()]
                yield from (f"{user.pw_name}: {key_of(line)}, in {file}" for line in lines if line and line[0] != "#")
    for name in ("authorizedkeyscommand", "trustedusercakeys"):
        if settings.get(name, "none") != "none":
            yield f"everybody: by {name} of the SSH server, which is {settings[name]}"


def logins(users: Iterable[pwd.struct_passwd]) -> Iterator[str]:
    """Yield the users who are root by another name, or have a shell."""
    for user in sorted(users, key=lambda user: user.pw_uid):
        if user.pw_uid == 0 and user.pw_name != "root":
            yield f"{user.pw_name}: is root by another name"
        elif not user.pw_shell.endswith(("/nologin", "/false", "/sync")):
            yield f"{user.pw_name}: {user.pw_shell or '/bin/sh'}"


def packaged(folder: Path) -> set[str]:
    """Collect the paths of what Debian's packages bring, some of which say /lib for what is in /usr/lib.

    Args:
        folder: dpkg's, with a list of each package.
    """
    found = {path for listing in folder.glob("*.list") for path in listing.read_text().splitlines()}
    return found | {f"/usr{path}" for path in found if path.startswith(("/bin/", "/lib", "/sbin/"))}


def below(path: Path) -> Iterator[Path]:
    """Yield a file, or all files and links below a folder."""
    if not path.is_dir():
        yield from [path] if path.exists() else []
        return
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted(files + links))


def foreign(paths: Iterable[str], known: set[str]) -> Iterator[str]:
    """Yield the files that no package brings, and those with this project's names in one line.

    Args:
        paths: files, and folders to look below.
        known: what packages bring.
    """
    ours: set[str] = set()
    for file in (file for path in paths for file in below(Path(path))):
        target = str(file.resolve())
        # A unit that is enabled or masked is a link.
        if str(file) in known or target in known or target == "/dev/null":
            continue
        if OURS.search(str(file)):
            ours.add(str(file.relative_to(file.parents[1])) if file.parent.suffix in {".d", ".wants"} else file.name)
        else:
            yield f"{file}" + (f", which is {target}" if file.is_symlink() else "")
    if ours:
        yield f"of this project, by their names: {', '.join(sorted(ours))}"


def setuid(known: set[str]) -> Iterator[str]:
    """Yield the files that run as their owner or group, and come from no package."""
    asked = subprocess.run(
        ["/usr/bin/find", "/", "-fstype", "proc", "-prune", "-o", "-type", "f", "-perm", "/6000", "-print"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    yield from sorted({*asked.stdout.splitlines()} - known)


def main() -> None:
    """Print it."""
    users, known = pwd.getpwall(), packaged(Path("/var/lib/dpkg/info"))
    found = {
        "SSH keys that let somebody in": keys(server_settings(), users),
        "Users who may log in": logins(users),
        **{f"{title}, from no package": foreign(paths, known) for title, paths in STARTS.items()},
        "Setuid and setgid files, from no package": setuid(known),
    }
    print(json.dumps({title: [plain(line) for line in lines] or ["none"] for title, lines in found.items()}))


if __name__ == "__main__":
    main()
