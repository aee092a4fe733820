"""The exceptions that a user is meant to see."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


def check_known(name: object, known: Iterable[str], what: str) -> None:
    """Raises `InputError` with the nearest known names if a name is not among them."""
    names = sorted(map(str, known))
    if name not in names:
        near = get_close_matches(str(name), names, 3, cutoff=0.4) or names[:5]
        raise InputError(f"{what}: {name!r} is not known; did you mean {', '.join(near)}?")
