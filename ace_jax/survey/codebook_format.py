"""The form of a codebook's entries: which keys they have, and what each key holds."""

from collections.abc import Callable
from typing import Any

from ace_jax.errors import InputError

LARGEST = 2**63  # codes are kept in 64 bits
FORMAT = "at the top of ace_jax/survey/codebook.py"

Code = int | float | str


def whole(code: Any) -> int:
    """Returns a code as a whole number; raises `ValueError` and its like where it is none."""
    number = int(code)
    if abs(number) >= LARGEST:
        raise ValueError(f"{number} is too large")
    return number


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST


def _is_code(value: Any) -> bool:
    return isinstance(value, str) or _is_number(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_pair_of_codes(value: Any) -> bool:
    return _list_of(_is_code)(value) and len(value) == 2


def _is_any(value: Any) -> bool:
    return True  # what checks it stands where it is read


# What a key holds, wherever in the file it is.
KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("source", "citation", "country", "country_column", "name", "column"), _is_text
    ),
    **dict.fromkeys(("topic", "text", "level"), _is_text),
    **dict.fromkeys(("countries", "levels"), _list_of(_is_text)),
    **dict.fromkeys(("attributes", "questions"), _list_of(_is_any)),
    **dict.fromkeys(("ordinal", "paper"), _is_flag),
    **dict.fromkeys(("missing", "labels", "options", "threshold"), _is_any),
    "scales": lambda value: isinstance(value, dict),
    "codes": _list_of(_list_of(_is_code)),
    "dropped": _list_of(_is_code),
    "merged": _list_of(_is_pair_of_codes),
    "at_least": _is_number,
}


def check_keys(entry: Any, where: str, required: set[str], optional: set[str]) -> None:
    """Raises InputError for what is no table, lacks a key, or has another one or another kind."""
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {entry!r:.40}; write it as a table of keys")
    if missing := sorted(required - set(entry)):
        raise InputError(f"{where} lacks `{missing[0]}`; add it")
    if unknown := sorted(set(entry) - required - optional):
        known = ", ".join(sorted(required | optional))
        raise InputError(f"{where} has the unknown key `{unknown[0]:.40}`; known are {known}")
    for name, value in entry.items():
        if not KINDS[name](value):
            raise InputError(f"{where}: `{name}` is {value!r:.40}; the format is {FORMAT}")
