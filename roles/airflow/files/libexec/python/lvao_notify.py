"""What `systemctl status` shows of a scheduler, which names its row in the database's table `job`."""

import os
import re
import socket
import subprocess

# systemd ignores a message beyond 4,096 bytes; a character has four at most.
CHARACTERS_SHOWN = 1000


def say(status: str, job: int | str | None) -> None:
    """Show a line in `systemctl status`. Outside of systemd nothing is shown.

    systemd believes the unit's main process and its commands alone, not its tasks.

    Args:
        status: The line.
        job: The row's id, if it is known.
    """
    if address := os.environ.get("NOTIFY_SOCKET", ""):
        status = status[:CHARACTERS_SHOWN]
        line = f"STATUS={status} [job {job}]" if job else f"STATUS={status}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(line.encode(), address.replace("@", "\0", 1))


def job_of(unit: str) -> int | None:
    """Ask systemd which row a scheduler has.

    Args:
        unit: Its unit, without `.service`.

    Returns:
        The row's id, or None if it has not said one.
    """
    shown = subprocess.run(
        ["/usr/bin/systemctl", "show", "--property=Id,StatusText", "lvao-airflow-scheduler-*"],
        capture_output=True,
        text=True,
        check=False,
    )
    for block in shown.stdout.split("\n\n"):
        # systemd has an order of its own for them.
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        named = re.search(r"\[job (\d+)\]$", properties.get("StatusText", ""))
        if properties.get("Id") == f"{unit}.service" and named:
            return int(named[1])
    return None
