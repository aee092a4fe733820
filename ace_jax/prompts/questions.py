"""Questions and personas from files that people write: TOML and CSV.

A TOML file has tables [[questions]] with text, options (texts, or pairs of code and text, in
order), and id and topic if wanted. A CSV file has the same as columns; its options are joined
by "|". A CSV file of personas has a column `country` and one an attribute; an empty cell leaves the
attribute out.
"""

import tomllib
from pathlib import Path
from typing import Any

from ace_jax.errors import InputError
from ace_jax.files import read_rows, reason
from ace_jax.prompts.encode import Question

FIELDS = {"id", "text", "options", "topic"}


def read_questions(path: Path) -> list[Question]:
    """Reads a file of questions; raises `InputError` naming the first row that is malformed."""
    if path.suffix == ".toml":
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: cannot be read as TOML ({reason(error)})") from None
        tables, name = content.get("questions"), "[[questions]] number"
        rows = dict(enumerate(tables, 1)) if isinstance(tables, list) else {}
    else:
        rows, name = read_rows(path, ("text", "options")), "row"
    if not rows:
        raise InputError(f"{path}: has no questions; give [[questions]] with text and options")
    questions: dict[str, Question] = {}
    for number, row in rows.items():
        try:
            question = _question(row)
            if question.id in questions:
                raise InputError(f"question {question.id!r}: is there twice; give each its own id")
        except (InputError, TypeError) as error:
            raise InputError(f"{path}: {name} {number}: {error}") from None
        questions[question.id] = question
    return list(questions.values())


def read_personas(path: Path) -> list[dict[str, str]]:
    """Reads a CSV of personas, one a row; raises `InputError` if it cannot be read."""
    rows = read_rows(path)
    return [{name: value for name, value in row.items() if value} for row in rows.values()]


def _question(row: Any) -> Question:
    if not isinstance(row, dict) or (unknown := row.keys() - FIELDS):
        what = f"the field {min(unknown)!r} is" if isinstance(row, dict) else "it is"
        raise InputError(f"{what} not known; use {', '.join(sorted(FIELDS))}")
    options: Any = row.get("options", ())
    codes: tuple[Any, ...] = ()
    if isinstance(options, str):
        options = [option.strip() for option in options.split("|")]
    if options and all(isinstance(option, list) and len(option) == 2 for option in options):
        codes, options = zip(*options, strict=True)
    if not all(isinstance(text, str) for text in (row.get("text", ""), *options)):
        raise InputError("text and options are to be texts, or options pairs of code and text")
    if not all(isinstance(code, int) for code in codes):
        raise InputError("codes of options are to be whole numbers")
    fields = {name: str(row.get(name, "")) for name in ("id", "topic")}
    return Question(row.get("text", ""), tuple(options), codes=tuple(codes), **fields)
