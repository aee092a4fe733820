"""What the keys of a codebook hold, wherever in the file they are."""

import re
from collections.abc import Callable
from typing import Any

from ace_jax.errors import InputError

LARGEST_CODE = 2**63  # codes are held in 64 bits


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_CODE


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_labelled(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 2 and _is_text(value[1])):
        return False
    code = value[0]
    return isinstance(code, str) or (_is_number(code) and code == int(code))


def _by_language(value: Any) -> bool:
    # The codebook's own texts are English.
    is_table = isinstance(value, dict) and "en" not in value
    return is_table and all(map(LANGUAGE.fullmatch, value)) and _tables([*value.values()])


def _is_encoding(value: Any) -> bool:
    try:
        return "".encode(value) is not None
    except (LookupError, TypeError, ValueError):
        return False


_codes = _list_of(lambda value: isinstance(value, str) or _is_number(value))
_labelled = _list_of(_is_labelled)
_tables = _list_of(lambda value: isinstance(value, dict))
LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z][a-z]{3})?")
RANGE = re.compile(r"\s*(-?\d{1,18})\s*-\s*(-?\d{1,18})\s*")
LABELLED = '[code, "label"], the codes whole numbers or texts'
TEXTS = "source citation country country_column id sheet name column topic text level"
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    key: (kind, fits)
    for keys, kind, fits in (
        (TEXTS, "a text", _is_text),
        ("countries levels include exclude", "a list of texts", _list_of(_is_text)),
        ("ordinal paper reverse", "true or false", lambda value: isinstance(value, bool)),
        ("encoding", "the name of one, such as cp1252", _is_encoding),
        ("decimal", "a point or a comma", lambda value: value in (".", ",")),
        ("delimiter", "one character", lambda value: isinstance(value, str) and len(value) == 1),
        ("missing labels", f"a list of {LABELLED}", _labelled),
        (
            "options",
            f"a list of {LABELLED}, or the name of a scale",
            lambda value: isinstance(value, str) or _labelled(value),
        ),
        (
            "scales",
            f"a table of lists of {LABELLED}",
            lambda value: isinstance(value, dict) and all(map(_labelled, value.values())),
        ),
        ("attributes", "one table or more", lambda value: bool(value) and _tables(value)),
        (
            "questions",
            "one table or more, or the name of a CSV file",
            lambda value: _is_text(value) or (bool(value) and _tables(value)),
        ),
        (
            "codes",
            'a list of codes for each level, or a range "1-3"',
            _list_of(
                lambda its: _codes(its) or (isinstance(its, str) and bool(RANGE.fullmatch(its)))
            ),
        ),
        ("dropped", "a list of codes", _codes),
        ("merged", "a list of pairs of codes", _list_of(lambda of: _codes(of) and len(of) == 2)),
        ("threshold", "a table of keys", lambda value: isinstance(value, dict)),
        ("in", "a table of keys by language, such as in.de.text", _by_language),
        ("at_least", "a number", _is_number),
        ("bins", "a list of numbers", _list_of(_is_number)),
    )
    for key in keys.split()
}


def check_keys(entry: dict[str, Any], where: str, required: str, optional: str = "") -> None:
    """Raises InputError for a key that is missing or not known, or holds something else."""
    known = [*required.split(), *optional.split()]
    if missing := [name for name in required.split() if name not in entry]:
        raise InputError(f"{where} lacks `{missing[0]}`; add it")
    if unknown := sorted(entry.keys() - {*known}):
        raise InputError(
            f"{where} has the unknown key `{unknown[0]:.40}`; known are {', '.join(known)}"
        )
    for name, value in entry.items():
        kind, fits = KINDS[name]
        if not fits(value):
            raise InputError(f"{where}: `{name}` is {value!r:.40}; give {kind}")
