"""What is shown while something long goes on."""

import sys
import time

from tqdm import tqdm

SECONDS_A_LINE = 10  # between two lines, where there is no terminal


class Bar:
    """Progress in a terminal; arguments as of `progress`."""

    def __init__(self, name: str, unit: str, done: int, last: int):
        self._bar = tqdm(total=last, initial=done, unit=unit, desc=name, dynamic_ncols=True)

    def show(self, number: int, words: str) -> None:
        """Moves on to a number, with a few words beside it."""
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(number - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


class Lines:
    """Progress in a file: plain lines, of the first number, the last and every few seconds."""

    def __init__(self, name: str, unit: str, last: int):
        self._name, self._unit, self._last = name, unit, last
        self._next = time.monotonic()

    def show(self, number: int, words: str) -> None:
        """Prints a line if it is time for one."""
        now = time.monotonic()
        if now < self._next and number != self._last:
            return
        self._next = now + SECONDS_A_LINE
        where = f"{self._name}: {self._unit} {number} of {self._last}"
        print(f"{where}, {words}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Has nothing to do."""


def progress(name: str, unit: str, done: int, last: int) -> Bar | Lines:
    """Returns what shows progress: a bar in a terminal, else lines.

    Args:
      name: of what goes on.
      unit: of what is counted.
      done: how many are done.
      last: how many there are to be.
    """
    return Bar(name, unit, done, last) if sys.stderr.isatty() else Lines(name, unit, last)
