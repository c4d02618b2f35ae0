"""What runs a scheduler's tasks, and shows from outside that the scheduler was told to end.

Python drops what a signal's handler raises at some moments, as amid a fork or while it frees an object: such a
scheduler goes on as before. A second signal would cost one that has heard the first its tasks.
"""

import signal

import task_process
from airflow.executors import local_executor


class LocalExecutor(local_executor.LocalExecutor):
    """Airflow's own, whose process ignores SIGTERM once it takes nothing new: drain.py sends it until then."""

    def start(self) -> None:
        """Start the workers."""
        task_process.prepare()
        super().start()

    def end(self) -> None:
        """Finish what runs."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        super().end()
