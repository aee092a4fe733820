"""Reads a survey's codebook from TOML. `builtin/example.toml` explains every key.

A code is a number or a text (`codes`), "" a blank cell. Options with a text for a code are numbered
1..K.
"""

import fnmatch
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from ace_jax.errors import InputError, check_known, within
from ace_jax.files import read_rows, reason
from ace_jax.survey.codebook import (
    COUNTRY,
    PLACEHOLDER,
    Codebook,
    Form,
    Question,
    Recode,
    Threshold,
)
from ace_jax.survey.codes import Code, plain, spelling
from ace_jax.survey.personas import Attribute, country_names

BUILTIN = Path(__file__).parent / "builtin"
FORM = [field.name for field in fields(Form)]
LONGEST_RANGE = 1000  # codes
LARGEST_CODE = 2**63  # codes are held in 64 bits
LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z][a-z]{3})?")
RANGE = re.compile(r"\s*(-?\d{1,18})\s*-\s*(-?\d{1,18})\s*")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_CODE


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_option(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 2 and _is_text(value[1])):
        return False
    return isinstance(value[0], str) or (_is_number(value[0]) and value[0] == int(value[0]))


def _is_encoding(value: Any) -> bool:
    try:
        return "".encode(value) is not None
    except (LookupError, TypeError, ValueError):
        return False


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


_codes = _list_of(lambda value: isinstance(value, str) or _is_number(value))
_options_of = _list_of(_is_option)
_tables = _list_of(_is_table)
OPTIONS = '[code, "label"], the codes whole numbers or texts'
# What keys hold, wherever in the file they are.
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "source citation country country_column id sheet name column topic text level": (
        "a text",
        _is_text,
    ),
    "countries levels include exclude": ("a list of texts", _list_of(_is_text)),
    "ordinal paper reverse": ("true or false", lambda value: isinstance(value, bool)),
    "encoding": ("the name of one, such as cp1252", _is_encoding),
    "decimal": ("a point or a comma", lambda value: value in (".", ",")),
    "delimiter": ("one character", lambda value: isinstance(value, str) and len(value) == 1),
    "missing labels": (f"a list of {OPTIONS}", _options_of),
    "options": (
        f"a list of {OPTIONS}, or the name of a scale",
        lambda value: isinstance(value, str) or _options_of(value),
    ),
    "scales": (
        f"a table of lists of {OPTIONS}",
        lambda value: _is_table(value) and all(map(_options_of, value.values())),
    ),
    "attributes": ("one table or more", lambda value: bool(value) and _tables(value)),
    "questions": (
        "one table or more, or the name of a CSV file",
        lambda value: _is_text(value) or (bool(value) and _tables(value)),
    ),
    "codes": (
        'a list of codes for each level, or a range "1-3"',
        _list_of(lambda its: _codes(its) or (isinstance(its, str) and bool(RANGE.fullmatch(its)))),
    ),
    "dropped": ("a list of codes", _codes),
    "merged": ("a list of pairs of codes", _list_of(lambda of: _codes(of) and len(of) == 2)),
    "threshold": ("a table of keys", _is_table),
    "in": (  # the codebook's own texts are English
        "a table of keys by language, such as in.de.text",
        lambda value: (
            _is_table(value)
            and "en" not in value
            and all(map(LANGUAGE.fullmatch, value))
            and _tables([*value.values()])
        ),
    ),
    "at_least": ("a number", _is_number),
    "bins": ("a list of numbers", _list_of(_is_number)),
}
KINDS = {key: kind for keys, kind in KINDS.items() for key in keys.split()}


def read_codebook(path: Path) -> Codebook:
    """Reads and checks a codebook.

    Raises InputError for a file that cannot be read, is not TOML or breaks the format.
    """
    try:
        return _codebook(tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
    except OSError as error:
        raise InputError(f"cannot read the codebook {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of UTF-8, TOML, or a number of 5,000 digits
        raise InputError(f"codebook {path} is not TOML: {reason(error)}; correct it") from None
    except InputError as error:
        raise InputError(f"codebook {path}: {error}") from None


def form_of(given: dict[str, str], where: str) -> Form:
    """Reads how files are spelt; raises InputError for a key or a value that is not known."""
    _check_keys(given, where, "", " ".join(FORM))
    return Form(**given)


def _check_keys(entry: dict[str, Any], where: str, required: str, optional: str = "") -> None:
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


def _codebook(content: dict[str, Any], folder: Path) -> Codebook:
    optional = "country country_column countries missing scales include exclude id"
    optional = " ".join([optional, *FORM])
    _check_keys(content, "the file", "source citation attributes questions", optional)
    if ("country" in content) == ("country_column" in content):
        raise InputError("give either `country` or `country_column`")
    for country in (*content.get("countries", ()), content.get("country")):
        if country is not None:
            check_known(country, country_names(), "country")
    missing = _pairs(content.get("missing", []))
    nowhere = tuple(dict.fromkeys(code for code, _ in missing))
    recodes = tuple(_recode(entry, nowhere) for entry in content["attributes"])
    if isinstance(content["questions"], str):
        if Path(content["questions"]).name != content["questions"]:
            raise InputError("`questions` names a file beside the codebook, without a directory")
        content["questions"] = _table(folder / content["questions"], content, nowhere)
    entries = _chosen(content)
    questions = tuple(_question(entry, content, nowhere) for entry in entries)
    names = [recode.attribute.name for recode in recodes]
    names += [question.question_id for question in questions]
    if repeated := _repeated(["country", "weight", *names]):
        raise InputError(
            f"the name {repeated[0]} is used twice, or reserved for a column of the cells; "
            "rename the attribute or the question's column"
        )
    labels: dict[str, tuple[tuple[Code, str], ...]] = {
        one.question_id: tuple(zip(one.file_codes, one.option_labels, strict=True))
        for one in questions
    }
    for entry in (*content["attributes"], *entries):
        column, own = entry["column"], _pairs(entry.get("labels", []))
        lists = [*entry.get("codes", []), *entry.get("merged", []), entry.get("dropped", [])]
        codes = chain(*(its for its in lists if isinstance(its, list)))
        texts = ((code, code) for code in codes if isinstance(code, str))
        # A column may serve several attributes.
        labels[column] = (*labels.get(column, ()), *own, *texts, *missing)
    return Codebook(
        source=content["source"],
        citation=content["citation"],
        country=content.get("country"),
        country_column=content.get("country_column"),
        recodes=recodes,
        questions=questions,
        missing=nowhere,
        labels=labels,
        countries=tuple(content.get("countries", ())),
        id_column=content.get("id"),
        form=Form(**{name: content[name] for name in FORM if name in content}),
        languages=_languages(content, zip(questions, entries, strict=True)),
    )


def _languages(
    content: dict[str, Any], asked: Iterable[tuple[Question, dict[str, Any]]]
) -> dict[str, Any]:
    """Returns what questions and attributes have `in` other languages."""
    said: dict[str, Any] = defaultdict(lambda: {"questions": {}, "attributes": {}})
    for one, entry in asked:
        for language, its in entry.get("in", {}).items():
            where = f"question {one.question_id}, in.{language}"
            _check_keys(its, where, "text options")
            by_code = dict(_options(its["options"], content, where))
            if {*by_code} != {*one.file_codes}:
                raise InputError(f"{where}: `options` are to have the codes {one.file_codes}")
            words = [by_code[code] for code in one.file_codes]
            _check_words(where, words, its["text"])
            said[language]["questions"][one.question_id] = {"text": its["text"], "options": words}
    for entry in content["attributes"]:
        for language, its in entry.get("in", {}).items():
            where = f"attribute {entry['name']}, in.{language}"
            _check_keys(its, where, "levels")
            if len(its["levels"]) != len(entry["levels"]):
                raise InputError(f"{where}: give {len(entry['levels'])} levels")
            _check_words(where, its["levels"])
            said[language]["attributes"][entry["name"]] = its["levels"]
    return dict(said)


def _chosen(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the questions that `include` and `exclude` leave."""
    columns = [str(entry.get("column")) for entry in content["questions"]]

    def named(key: str, default: list[str]) -> set[str]:
        its = {one: fnmatch.filter(columns, one) for one in content.get(key, default)}
        if idle := [one for one in its if not its[one]]:
            raise InputError(f"`{key}`: no question is called {idle[0]!r:.40}; correct it")
        return {*chain(*its.values())}

    kept = named("include", ["*"]) - named("exclude", [])
    if not kept:
        raise InputError("`include` and `exclude` leave no question; change them")
    return [entry for entry in content["questions"] if str(entry.get("column")) in kept]


def _recode(entry: dict[str, Any], missing: tuple[Code, ...]) -> Recode:
    where = f"attribute {entry.get('name')}"
    _check_keys(entry, where, "name column levels", "codes threshold bins dropped labels in")
    levels = tuple(entry["levels"])
    if len(levels) < 2:
        raise InputError(f"{where} has levels {levels}; give it two or more")
    if sum(key in entry for key in ("codes", "threshold", "bins")) != 1:
        raise InputError(f"{where}: give either `codes` or `threshold` or `bins`")
    _check_words(where, levels)
    dropped = tuple(entry.get("dropped", ()))
    of = (Attribute(entry["name"], levels), entry["column"])
    if "threshold" in entry:
        _check_keys(entry["threshold"], f"{where}, threshold", "name at_least level")
        threshold = Threshold(**entry["threshold"])
        if len(levels) != 2 or threshold.level not in levels:
            raise InputError(f"{where}: a threshold needs two levels and the name of one of them")
        return Recode(*of, threshold, dropped)
    if "bins" in entry:
        edges = tuple(map(float, entry["bins"]))
        if len(edges) != len(levels) + 1 or any(low >= high for low, high in pairwise(edges)):
            raise InputError(
                f"{where}: `bins` is {entry['bins']!r:.40}; give ascending numbers, one more than "
                "there are levels"
            )
        return Recode(*of, edges, dropped)
    codes = [_range(its, where) if isinstance(its, str) else its for its in entry["codes"]]
    if len(codes) != len(levels) or _repeated(map(spelling, chain(*codes))):
        raise InputError(
            f"{where} has the levels {levels} and `codes` {codes!r:.40}; give each level its "
            "own list, and a code to one level only"
        )
    by = {code: level for level, its in zip(levels, codes, strict=True) for code in its}
    _check_not_dropped(by, (*dropped, *missing), where)
    return Recode(*of, by, dropped)


def _range(text: str, where: str) -> list[int]:
    first, last = map(int, RANGE.fullmatch(text).groups())  # type: ignore[union-attr]
    if not 0 <= last - first < LONGEST_RANGE:
        raise InputError(f"{where}: `codes` has the range {text!r}; give up to 1000, or `bins`")
    return [*range(first, last + 1)]


def _question(
    entry: dict[str, Any], content: dict[str, Any], missing: tuple[Code, ...]
) -> Question:
    where = f"question {entry.get('column')}"
    optional = "ordinal dropped merged labels paper reverse in"
    _check_keys(entry, where, "column topic text options", optional)
    labelled = _options(entry["options"], content, where)[:: -1 if entry.get("reverse") else 1]
    codes, labels = tuple(code for code, _ in labelled), tuple(label for _, label in labelled)
    numbers = tuple(code for code in codes if isinstance(code, int))
    dropped, merged = tuple(entry.get("dropped", ())), tuple(map(tuple, entry.get("merged", ())))
    _check_words(where, labels, entry["text"])
    _check_not_dropped(codes, (*dropped, *missing, *(code for code, _ in merged)), where)
    if strange := [of for _, of in merged if of not in codes]:
        raise InputError(f"{where}: `merged` names {strange[0]!r:.40}, which is no option")
    is_written = numbers != codes
    return Question(
        source=content["source"],
        question_id=entry["column"],
        topic=entry["topic"],
        text=entry["text"],
        option_codes=tuple(range(1, len(codes) + 1)) if is_written else numbers,
        option_labels=labels,
        ordinal=entry.get("ordinal", True),
        paper=entry.get("paper", True),
        dropped=dropped,
        merged=merged,
        written=codes if is_written else (),
    )


def _table(path: Path, content: dict[str, Any], missing: tuple[Code, ...]) -> list[dict[str, Any]]:
    """Returns a CSV file's questions as [[questions]] has them, each row checked by itself."""
    entries = []
    for number, row in read_rows(path, ("id", "text", "options")).items():
        with within(f"{path}: row {number}"):
            if unknown := row.keys() - {"id", "text", "options", "topic", "missing"}:
                raise InputError(f"the column {min(unknown):.40} is not known; take it out")
            parts = [one.partition("=") for one in row["options"].split(";") if one.strip()]
            pairs = [[_code(code), label.strip()] for code, _, label in parts]
            entry = {
                "column": row["id"],
                "topic": row.get("topic") or content["source"],
                "text": row["text"],
                "options": pairs if "=" in row["options"] else row["options"],
                "dropped": [*map(_code, filter(str.strip, row.get("missing", "").split(";")))],
            }
            _question(entry, content, missing)
        entries.append(entry)
    return entries


def _code(text: str) -> Code:
    return int(text) if re.fullmatch(r"\s*-?\d{1,18}\s*", text) else text.strip()


def _pairs(labelled: list[Any]) -> tuple[tuple[Code, str], ...]:
    return tuple((code if isinstance(code, str) else int(code), label) for code, label in labelled)


def _options(
    options: str | list[Any], content: dict[str, Any], where: str
) -> tuple[tuple[Code, str], ...]:
    if isinstance(options, list):
        return _pairs(options)
    if options not in content.get("scales", {}):
        raise InputError(f"{where} uses the scale {options!r}, which [scales] does not have")
    return _pairs(content["scales"][options])


def _check_words(where: str, labels: Sequence[str], *texts: str) -> None:
    if repeated := _repeated(map(plain, labels)):
        raise InputError(f"{where} says {repeated[0]!r:.40} twice; tell them apart")
    for found in chain(*map(PLACEHOLDER.findall, (*texts, *labels))):
        if found != COUNTRY:
            raise InputError(f"{where}: {found} is no placeholder; write {COUNTRY}, or the words")


def _check_not_dropped(codes: Iterable[Code], dropped: Iterable[Code], where: str) -> None:
    out = {*map(spelling, dropped)}
    if both := [code for code in codes if spelling(code) in out]:
        raise InputError(
            f"{where}: the code {both[0]!r:.40} counts, and is also in `dropped`, `missing` or "
            "`merged`; take it out of one"
        )


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
