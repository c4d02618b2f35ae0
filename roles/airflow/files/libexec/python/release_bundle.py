"""Where a scheduler's tasks find their DAG: each in the release that is the current one at its start, until it ends.

A deploy of DAGs alone moves the link under a scheduler that goes on. A task must not import the one half of its code
before that, and the other half, of the next release, after it.
"""

import fcntl
import os
import re
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from airflow.dag_processing.bundles.local import LocalDagBundle


class ReleaseDagBundle(LocalDagBundle):
    """Airflow's DAGs folder, `dags` in a link to a release, as the link is when a task asks for it.

    The folders beside it are of the same release, however a task finds them: by the path of its DAG file, by its
    environment or by Python's path.
    """

    def __init__(self, **kwargs: str | None) -> None:
        """Follow the link.

        Args:
            kwargs: What Airflow tells each bundle: its name, and versions, of which it has none.

        Raises:
            OSError: There is no release.
        """
        super().__init__(**kwargs)
        self._link = self._path.parent
        self._release = release = self._link.resolve()
        self._path = release / self._path.name
        # The script `confirm` removes no release that is locked; the lock ends with the task's process.
        lock = release / "lock"
        # A deploy from an older tree has made none.
        descriptor = os.open(lock if lock.exists() else release, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        # Nobody may hold a task up by a lock of their own.
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def initialize(self) -> None:
        """Name the release, and no longer the link, in what the process of a task hands on and imports from."""
        # A scheduler asks for its bundles, too, and initializes none: its tasks begin with the link.
        link = re.compile(rf"(?<![^:]){re.escape(str(self._link))}(?=[/:]|$)")
        for name, value in [*os.environ.items()]:
            os.environ[name] = link.sub(str(self._release), value)
        sys.path[:] = [link.sub(str(self._release), path) for path in sys.path]
        super().initialize()


class SameFileFinder(MetaPathFinder, Loader):
    """Finds the module of a DAG file by the name that it has in another release.

    Airflow names it by a digest of the file's path and by the file, and keeps the name with an object in an XCom whose
    class is defined there: in it, a task of another release asks for the class.
    """

    def _loaded(self, name: str) -> ModuleType | None:
        asked = re.fullmatch("unusual_prefix_[0-9a-f]{40}_(.+)", name)
        same = asked and re.compile(f"unusual_prefix_[0-9a-f]{{40}}_{re.escape(asked[1])}")
        return next((module for key, module in sys.modules.items() if same and same.fullmatch(key)), None)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find what is loaded under another release's name.

        Args:
            name: Of the module that is imported.
            path: Of the package that it belongs to: a DAG file belongs to none.
            target: What is reloaded.

        Returns:
            How to load it, or nothing.
        """
        del path, target
        return ModuleSpec(name, self) if self._loaded(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Take what is loaded.

        Args:
            spec: What `find_spec` has found.

        Returns:
            The module.
        """
        return self._loaded(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is.

        Args:
            module: What was executed when it was loaded.
        """


sys.meta_path.append(SameFileFinder())
