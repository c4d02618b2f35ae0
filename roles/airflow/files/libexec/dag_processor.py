"""Airflow's DAG processor, which one DAG file cannot end.

In Airflow 3.3.2, what cannot be written to the database ends the whole process: a warning about a DAG that could not
be serialized, text with a NUL, a number that is too large. systemd starts it again, it meets the same file, and other
DAGs come late or never. Here the file gets an import error instead, and the next file its turn.

apache/airflow#68263 is about that. Once Airflow goes on by itself, the test `test_airflow_still_ends` fails: then
`airflow dag-processor` can take the place of this file.
"""

import sys
import traceback

import task_process
from airflow.__main__ import main
from airflow.cli.commands import dag_processor_command
from airflow.configuration import conf
from airflow.dag_processing.manager import DagFileProcessorManager
from airflow.dag_processing.processor import DagFileParsingResult
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session


def storable(text: str) -> str:
    """Escape what PostgreSQL takes in no text: NUL, and halves of surrogate pairs."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


class Manager(DagFileProcessorManager):
    """Airflow's own, which turns what the database refuses into an import error of the file."""

    def persist_parsing_result(
        self, *, parsing_result: DagFileParsingResult, relative_fileloc: str, session: Session, **others: object
    ) -> None:
        """Write what a file came to.

        Args:
            parsing_result: The file's DAGs and errors.
            relative_fileloc: Its path in the DAGs folder.
            session: Of the database: it can be used afterwards, also if this fails.
            others: What Airflow knows of the bundle.

        Raises:
            Exception: The database did not take it. The caller logs it, with the file's name, and goes on.
        """
        if errors := parsing_result.import_errors:
            parsing_result.import_errors = {file: storable(error) for file, error in errors.items()}
        others |= {"relative_fileloc": relative_fileloc, "session": session}
        try:
            super().persist_parsing_result(parsing_result=parsing_result, **others)
        except OperationalError:
            # The database is away, which is not the file's fault.
            session.rollback()
            raise
        except Exception:
            session.rollback()
            lines = conf.getint("core", "dagbag_import_error_traceback_depth")
            error = (parsing_result.import_errors or {}).get(relative_fileloc) or traceback.format_exc(limit=-lines)
            refused = DagFileParsingResult(
                fileloc=parsing_result.fileloc,
                serialized_dags=[],
                import_errors={**(parsing_result.import_errors or {}), relative_fileloc: storable(error)},
            )
            try:
                super().persist_parsing_result(parsing_result=refused, **others)
            except Exception:
                # As where the database cannot take the file's name: the log alone says so.
                session.rollback()
                raise
            raise


if __name__ == "__main__":
    task_process.protect_secrets()
    dag_processor_command.DagFileProcessorManager = Manager
    sys.argv = ["airflow", "dag-processor", *sys.argv[1:]]
    main()
