"""The one exception a user is meant to see."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line that says what is wrong, where, and what to do.
    Commands print it without a traceback and exit with status 1.
    """
