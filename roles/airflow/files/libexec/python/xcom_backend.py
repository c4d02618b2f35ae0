"""How a task hands a value to other tasks: as an XCom of bounded size in the database, or by the bucket.

Without a bound, a task with one of 60 MB took 22 minutes on a busy host, and 600 MB of its memory.
"""

import json
import os

from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import AirflowFailException

MEGABYTE = 2**20


def bounded(stored: str, key: str | None) -> str:
    """Refuse a value that is too large for the Execution API and the database, which take it as a whole.

    Args:
        stored: What goes there.
        key: The XCom's.

    Returns:
        The same.

    Raises:
        AirflowFailException: It is too large, and would be on another try.
    """
    size, most = len(json.dumps(stored, default=str)) / MEGABYTE, int(os.environ["LVAO_XCOM_MAX_MB"])
    if size > most:
        message = (
            f"The XCom '{key}' has {size:.1f} MB, and airflow_xcom_max_mb allows {most}: write the value to an object "
            "store and return its address, or set airflow_logging_xcom_threshold_kb: large XComs go to the bucket then."
        )
        raise AirflowFailException(message)
    return stored


class XCom(BaseXCom):
    """Airflow's own, in the database."""

    @staticmethod
    def serialize_value(value: object, *, key: str | None = None, **coordinates: str | int | None) -> str:
        """Make of a value what goes to the database.

        Args:
            value: What the task hands over.
            key: The XCom's.
            coordinates: Of the task.

        Returns:
            Its JSON.
        """
        return bounded(BaseXCom.serialize_value(value, key=key, **coordinates), key)


class BucketXCom(XComObjectStorageBackend):
    """Large ones go to the bucket, and their addresses to the database."""

    @staticmethod
    def serialize_value(value: object, *, key: str | None = None, **coordinates: str | int | None) -> str:
        """Make of a value what goes to the database, and write the value to the bucket if it is large.

        Args:
            value: What the task hands over.
            key: The XCom's.
            coordinates: Of the task.

        Returns:
            The JSON of the value, or of its address.
        """
        return bounded(XComObjectStorageBackend.serialize_value(value, key=key, **coordinates), key)
