"""The one exception a user is meant to see, and the commonest reason for it."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line that says what is wrong, where, and what to do.
    Commands print it without a traceback and exit with status 1.
    """


def check_positive(field: str, number: int) -> None:
    """Raises `InputError` naming the config field where a count is below one."""
    if number < 1:
        raise InputError(f"{field}: {number} is not a positive number")
