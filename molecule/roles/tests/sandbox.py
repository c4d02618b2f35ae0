"""A DAG whose tasks try what the sandbox forbids, and what ordinary tasks do."""

import ctypes
import errno
import mmap
import multiprocessing
import os
import pwd
import resource
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from airflow.sdk import dag, task

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
PTRACE_ATTACH = 16
IO_URING_SETUP = 425
MIB = 2**20
OTHERS = {
    f"lvao-airflow-{name}"
    for name in ("webserver", "execution-api", "dag-processor", "triggerer", "log-server", "probe")
}


def system_call(name: str, *arguments: object) -> None:
    """Make a system call that Python has no function for."""
    if getattr(LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def append(path: str) -> Callable[[], object]:
    """Write nothing to the end of a file, which makes it."""
    return lambda: Path(path).open("a").close()


def read(path: str) -> Callable[[], object]:
    """Read a file."""
    return Path(path).read_bytes


def make_setuid_program() -> None:
    """Make a program that runs as its owner."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).chmod(0o4755)


def become_root() -> None:
    """Call sudo, which the host has."""
    subprocess.run(["/usr/bin/sudo", "--non-interactive", "true"], check=True, capture_output=True, text=True)


def allow_core_dumps() -> None:
    """Let itself dump core."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def shut_the_gate() -> None:
    """Remove what lets requests in, where the webserver itself sees it."""
    for gate in Path("/proc").glob("[0-9]*/root/run/lvao-airflow/lvao-airflow-webserver/gate"):
        gate.unlink()
    Path("/run/lvao-airflow/lvao-airflow-webserver/gate").unlink()


def to_others(attempt: Callable[[Path], object]) -> None:
    """Try something with each process of Airflow's other units, and of what root asks, until it works."""
    users = {user.pw_uid: user.pw_name for user in pwd.getpwall()}
    refusals = {}
    for process in Path("/proc").glob("[0-9]*"):
        # It may have just ended.
        with suppress(FileNotFoundError, ProcessLookupError):
            if (user := users.get(process.stat().st_uid)) in OTHERS:
                try:
                    attempt(process)
                except PermissionError as error:
                    refusals[user] = error
                else:
                    return
    if missing := OTHERS - {*refusals}:
        raise LookupError(missing)
    raise refusals.popitem()[1]


def ask_for_metadata(address: str) -> Callable[[], object]:
    """Send a packet to what knows the instance's secrets."""

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"", (address, 80))

    return ask


FORBIDDEN: dict[str, Callable[[], object]] = {
    "read the environment of all processes": read("/opt/airflow/secrets/current/env.d/10-keys.env"),
    "read a fragment of the environment": read("/etc/airflow/env.d/90-extra.env"),
    "write a DAG": append("/opt/airflow/current/dags/planted.py"),
    "write a package": append(f"{sys.prefix}/planted.py"),
    "write a plugin": append("/var/lib/airflow/planted.py"),
    "write the configuration": append("/var/lib/airflow/airflow.cfg"),
    "write to another unit's directory": append("/run/lvao-airflow-webserver/gate/open"),
    "shut the webserver's gate": shut_the_gate,
    "read what another unit keeps": lambda: list(Path("/var/lib/lvao-airflow-webserver").iterdir()),
    "read what another unit is told": lambda: to_others(lambda process: (process / "environ").read_bytes()),
    "signal another unit, or what root asks": lambda: to_others(lambda process: os.kill(int(process.name), 0)),
    "write what root notes of its unit": append("/run/lvao-airflow/planted"),
    "write where everybody may": append("/run/lock/planted"),
    "read another user's file": read("/srv/lvao-test/secret"),
    "read what another user shows": read("/home/lvao-test/shown"),
    "read what root shows": read("/root/shown"),
    "read what another unit left in /tmp": read(str(Path("/", "tmp", "lvao-test"))),
    "read what another unit left in /var/tmp": read(f"{tempfile.gettempdir()}/lvao-test"),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "reach Scaleway's metadata": ask_for_metadata("169.254.42.42"),
    "reach the metadata of other clouds": ask_for_metadata("169.254.169.254"),
    "become root": lambda: os.setuid(0),
    "become root by sudo": become_root,
    "make a setuid program": make_setuid_program,
    "make a user namespace": lambda: system_call("unshare", CLONE_NEWUSER),
    "have the kernel read and write for it by io_uring": lambda: system_call("syscall", IO_URING_SETUP, 1, None),
    "mount": lambda: system_call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "trace a process": lambda: system_call("ptrace", PTRACE_ATTACH, os.getppid(), 0, 0),
    "read the memory of the host": read("/dev/mem"),
    "read the log of the kernel": read("/dev/kmsg"),
    "tune the kernel": append("/proc/sys/kernel/core_pattern"),
    "dump core": allow_core_dumps,
}


def allocate_shared_memory() -> None:
    """Allocate some memory, and free it."""
    memory = SharedMemory(create=True, size=MIB)
    memory.close()
    memory.unlink()


def compile_at_run_time() -> None:
    """Have memory that is written, and then run."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.close()


def run_a_temporary_program() -> None:
    """Run what it has just written, as in a virtual environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o700)
        subprocess.run([program], check=True, capture_output=True, text=True)  # noqa: S603 - it wrote this program itself


def keep_temporary_files_on_disk() -> None:
    """See that these are no part of the memory."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    kind = next(mount[2] for mount in reversed(mounts) if mount[1] == tempfile.gettempdir())
    if kind == "tmpfs":
        raise LookupError(tempfile.gettempdir())


def make_client() -> None:
    """Make what calls an object store."""
    import_module("boto3").client(
        "s3", region_name="fr-par", endpoint_url="http://127.0.0.1:9", **dict.fromkeys(KEYS, "x")
    )


KEYS = ("aws_access_key_id", "aws_secret_access_key")
ORDINARY: dict[str, Callable[[], object]] = {
    "run a shell, with limits and priorities": lambda: subprocess.run(
        ["/bin/bash", "-c", "ulimit -S -n 512 && nice -n 5 id"], check=True, capture_output=True, text=True
    ),
    "pin itself to a processor": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "write a temporary file": lambda: tempfile.TemporaryFile().close(),
    "run a temporary program": run_a_temporary_program,
    "keep temporary files on disk": keep_temporary_files_on_disk,
    "write to its state": append("/var/lib/airflow/state/kept"),
    "write to its home directory": append(str(Path("~/kept").expanduser())),
    "write to a folder that it has for work": append("/srv/lvao-work/kept"),
    "write where the site lets it": append("/srv/lvao-test/kept"),
    "share memory": allocate_shared_memory,
    "share a lock with other processes": multiprocessing.Lock,
    "compile at run time": compile_at_run_time,
    "ask for the host's memory": read("/proc/meminfo"),
    "find a host by name": lambda: socket.getaddrinfo(socket.gethostname(), 80),
    "call a service": lambda: urllib.request.urlopen("http://127.0.0.1:8080/api/v2/version", timeout=10).close(),
    "make a client of an object store": make_client,
}


def outcome(attempt: Callable[[], object]) -> str:
    """Try something, and name how it failed."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))
    except subprocess.CalledProcessError as error:
        return error.stderr
    except Exception as error:
        return repr(error)
    return "done"


def writable_directories() -> list[str]:
    """List the directories of the host that it may write to, without those below them."""
    found = []
    for path, names, _ in os.walk("/"):
        if path in {"/proc", "/sys"}:
            names.clear()
        elif os.access(path, os.W_OK):
            found.append(path)
            names.clear()
    return sorted(found)


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=False)
def sandbox() -> None:
    """Try it all."""

    @task(task_id="try")
    def try_it() -> dict:
        tried = {name: {what: outcome(attempt) for what, attempt in attempts.items()} for name, attempts in ALL.items()}
        return tried | {"writable": writable_directories()}

    try_it()


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=False)
def glutton() -> None:
    """Take more memory than there is for tasks, and give up at 4 GB."""

    @task(task_id="eat")
    def eat() -> None:
        eaten = [os.urandom(MIB) * 64 for _ in range(64)]
        print("ate", len(eaten), flush=True)

    eat()


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=False)
def careless() -> None:
    """Log what should be secret, and crash."""

    @task(task_id="show")
    def show() -> None:
        print(dict(os.environ))
        # Its own, and those of all processes that let it read theirs.
        shown = subprocess.run(
            ["/bin/bash", "-c", "env; export -p; cat /proc/[0-9]*/environ 2>/dev/null | tr -s '\\0' '\\n'"],
            check=False,
            capture_output=True,
            text=True,
        )
        print(shown.stdout)

    @task(task_id="crash")
    def crash() -> None:
        ctypes.string_at(1)

    show()
    crash()


ALL = {"forbidden": FORBIDDEN, "ordinary": ORDINARY}
sandbox()
glutton()
careless()
