"""The exceptions that a user is meant to see."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ctypes import c_float
from difflib import get_close_matches


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and what to do. Commands print it without a
    traceback and exit with status 1.
    """


class Stopped(Exception):
    """The job was asked to stop (SIGTERM) and has saved everything it has.

    Commands print the message and exit with status 42, on which launchers start a job again.
    """


@contextmanager
def within(where: object) -> Iterator[None]:
    """Begins the message of an `InputError` with the place where it was found."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def check_positive(field: str, number: int) -> None:
    """Raises `InputError` naming the config field if a count is below one."""
    if number < 1:
        raise InputError(f"{field}: {number} is not a positive number")


def check_in(interval: str, **fields: int | float | None) -> None:
    """Raises `InputError` naming a config field whose number is not in an interval; None passes.

    `interval` is written as in "[0, 1)". A `__` in a field's name stands for a dot. A number counts
    as what float32 makes of it, as devices do: 1e39 is infinite, 1e-60 is 0.
    """
    low, high = map(float, interval[1:-1].split(","))
    for field, number in fields.items():
        held = c_float(number).value if isinstance(number, float) else number
        if held is None or low < held < high:
            continue
        if not (held == low and interval[0] == "[") and not (held == high and interval[-1] == "]"):
            raise InputError(f"{field.replace('__', '.')}: {number} is not in {interval}")


def check_known(name: object, known: Iterable[str], what: str) -> None:
    """Raises `InputError` with the nearest known names if a name is not among them."""
    names = sorted(map(str, known))
    if name not in names:
        near = get_close_matches(str(name), names, 3, cutoff=0.4) or names[:5]
        raise InputError(f"{what}: {name!r} is not known; did you mean {', '.join(near)}?")
