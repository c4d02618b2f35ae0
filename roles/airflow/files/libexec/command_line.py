"""Airflow's command line in the sandbox: its results alone on standard output, and files by standard input and output.

- Airflow writes its log to standard output, warnings too, amid what `-o json` prints (apache/airflow#66139, which is
  about that; apache/airflow#68598 left out what structlog writes itself). Here the log goes to standard error. Once
  Airflow does so, the test `test_airflow_still_logs_to_standard_output` fails, and `import_airflow` can go.
- `/dev/stdin` and `/dev/stdout`, alone or with a file's name behind, are what the program `airflow` makes of the
  caller's files. Airflow opens files by their names, and wants to know their formats by these: it gets files of its
  own in the sandbox's /tmp.

Usage, by the release's Python: command_line.py <arguments of airflow>
"""

import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

# No news to an operator, who cannot change it: the first comes with `airflow dags`, the second with `airflow users`.
KNOWN_WARNINGS = ("Could not import graphviz", "Using `httpx` with `starlette.testclient`")


def import_airflow() -> Callable[[], None]:
    """Import Airflow, with its log on standard error.

    Returns:
        its command line.
    """
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(message))
    # A logger keeps what standard output is when it is made.
    with redirect_stdout(sys.stderr):
        main = import_module("airflow.__main__").main
    structlog = import_module("structlog")
    make_logger = structlog.get_config()["logger_factory"]

    def on_standard_error(*arguments: object) -> object:
        with redirect_stdout(sys.stderr):
            return make_logger(*arguments)

    structlog.configure(logger_factory=on_standard_error)
    return main


def suffix_of(content: bytes) -> str:
    """Tell the format of connections, variables and the like by their content.

    Args:
        content: of a file whose name is not known.

    Returns:
        the end of a file's name that Airflow knows the format by.
    """
    text = content.decode(errors="replace")
    try:
        json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return ".env" if all(re.match(r"[\w.-]+\s*=", line) for line in lines) else ".yaml"
    return ".json"


def run(arguments: list[str], folder: Path, main: Callable[[], None]) -> None:
    """Run Airflow's command line with the caller's files.

    Args:
        arguments: what follows `airflow`.
        folder: an empty one, for copies of the files.
        main: Airflow's command line, which finds the arguments in sys.argv.

    Raises:
        SystemExit: as Airflow ends.
    """
    out = None
    for place, argument in enumerate(arguments):
        match = re.fullmatch("(/dev/stdin|/dev/stdout)(?:/([^/]+))?", argument)
        if not match:
            continue
        name = match[2] or "stdin"
        if match[1] == "/dev/stdin":
            content = sys.stdin.buffer.read()
            file = folder / (name if Path(name).suffix else name + suffix_of(content))
            file.write_bytes(content)
        else:
            file = folder / (match[2] or "stdout.json")
            # What Airflow says about the file is not of the file.
            out = os.dup(1)
            os.dup2(2, 1)
            result = file
        # Airflow names the file in its messages.
        arguments[place] = f"./{file.name}"
        os.chdir(folder)
    sys.argv = ["airflow", *arguments]
    try:
        main()
    except SystemExit as error:
        if error.code:
            raise
    if out is not None:
        with os.fdopen(out, "wb") as stream:
            stream.write(result.read_bytes())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        run(sys.argv[1:], Path(temporary), import_airflow())
