"""Show the DAGs of a host where they are live: which there are, and what is wrong with them.

What the check of a release would find is listed too, which does not rely on the DAG processor; and whether that ends by
itself.

Usage, as root, by Debian's Python: show_dags.py
"""

import json
import os
import subprocess


def restarts() -> int:
    """Count how often the DAG processor has ended by itself in the last 15 minutes."""
    shown = subprocess.run(
        [
            "/usr/bin/journalctl",
            "--quiet",
            "--output=cat",
            "--unit=lvao-airflow-dag-processor",
            "--since=-15min",
            # systemd's own name for its message that a unit has ended and will be started again.
            "MESSAGE_ID=5eb03494b6584870a536b337290809b2",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return len(shown.stdout.splitlines())


def findings(status: int, facts: str, faults: str) -> str:
    """Say what the check of the DAGs has found.

    Args:
        status: its exit status.
        facts: its output, JSON if there is no fault.
        faults: the faults, below a line that names the release.
    """
    if status == 0:
        found = json.loads(facts)
        return f"The check that a release has to pass finds no fault in {found['dags']} DAGs of {found['files']} files."
    return f"The check that a release has to pass finds:\n{faults.partition(chr(10))[2] or faults}".rstrip()


def main() -> None:
    """Show all of it."""
    check = subprocess.Popen(
        ["/usr/local/bin/airflow", "/opt/airflow/current/libexec/gate.py", "/opt/airflow/current"],
        env=os.environ | {"LVAO_PROGRAM": "python", "LVAO_QUIET": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    subprocess.run(["/usr/local/bin/airflow", "dags", "list"], check=False)
    subprocess.run(["/usr/local/bin/airflow", "dags", "list-import-errors"], check=False)
    facts, faults = check.communicate()
    print(findings(check.returncode, facts, faults))
    if number := restarts():
        times = "once" if number == 1 else f"{number} times"
        print(f"The DAG processor ended by itself {times} in 15 minutes: journalctl -u lvao-airflow-dag-processor.")


if __name__ == "__main__":
    main()
