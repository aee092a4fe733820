"""Messages and progress of a running job.

Both go through the logger `ace_jax`. A library user sees nothing unless they turn it on; commands
do (`show_messages`).
"""

import logging
import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm

LOGGER = logging.getLogger("ace_jax")
SECONDS_A_LINE = 10  # between two lines


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a terminal that is gone must not end the job
            print(record.getMessage(), file=sys.stderr, flush=True)


def show_messages() -> None:
    """Sends messages and progress to standard error."""
    LOGGER.handlers = [_StandardError()]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def log(message: str) -> None:
    """Logs a message; of several processes only process 0 shows it (`processes.start`)."""
    LOGGER.info(message)


class _Lines:
    """Standard error for a bar that is no terminal's: each update is a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            LOGGER.info(text.strip("\r\n "))

    def flush(self) -> None:
        """Each line is flushed as it is written."""


def progress(name: str, unit: str, done: int, total: int) -> Any:
    """Returns a tqdm bar on process 0, silent where messages are: lines where there is no terminal.

    `name` is what is going on, `unit` what is counted, `done` of `total` are done already.
    """
    shown: dict[str, Any] = {"dynamic_ncols": True}
    if not sys.stderr.isatty():
        line = "{desc}: {unit} {n_fmt} of {total_fmt}{postfix}"
        shown = {"file": _Lines(), "mininterval": SECONDS_A_LINE, "bar_format": line, "ncols": 200}
    silent = not LOGGER.isEnabledFor(logging.INFO)
    return tqdm(total=total, initial=done, unit=unit, desc=name, disable=silent, **shown)
