"""A survey's codebook: how columns and codes become attributes, levels and ordered options.

The file is TOML (`builtin/gss2018.toml` is one to copy from):

    source = "my_survey"             # names the survey in every cell
    citation = "Who made it, when."  # copied into the manifest
    country = "USA"                  # ISO 3166-1 alpha-3; or
    country_column = "B_COUNTRY"     # the column that holds it

    # What follows up to the attributes may be left out.
    countries = ["CHL", "MEX"]       # those prepared unless others are asked for
    id = "respondent"                # a column in which a respondent's id stands: twice is flagged
    encoding = "cp1252"              # of texts in the files; UTF-8, or what a .sav or .dta says
    delimiter = ";"                  # of a CSV file; else the one under which the columns are there
    decimal = ","                    # of a CSV file; "."
    sheet = "answers"                # of a spreadsheet; else the one that has the columns
    include = ["q1*", "trust"]       # the questions that are taken, and those that are not:
    exclude = ["*_text"]             # names, or patterns of names
    # Codes that count as no answer, or as no level, in every column, each with the label that
    # files give it; a code may be there several times.
    missing = [[-1, "Don't know"], [-2, "No answer"]]

    [[attributes]]                   # in the order in which a prompt names them
    name = "gender"
    column = "sex"
    levels = ["Male", "Female"]      # the first is the reference (A=0), the second A=1
    codes = [[1], ["f", "w"]]        # the column's codes (numbers or text) of each level; a text
                                     # in place of a list is a range: codes = ["1-3", "4-9"]
    dropped = [-1, -2]               # codes that count as missing; may be left out
    # The codes' labels in files that have labels in their cells; may be left out.
    labels = [[1, "Male"], ["f", "Female"], ["f", "Woman"]]
    in.de.levels = ["Mann", "Frau"]  # in other languages (prompt.language); may be left out

    [[attributes]]
    name = "education"
    column = "degree"
    levels = ["College Educated", "Not College Educated"]
    # In place of `codes`, with two levels: codes of 3 and more are "College Educated", lower ones
    # the other level. `--rule education.college=4` moves the cut.
    threshold = { name = "college", at_least = 3, level = "College Educated" }

    [[attributes]]
    name = "age"
    column = "years"
    levels = ["Young", "Middle-aged", "Old"]
    bins = [18, 30, 60, 100]         # in place of `codes`: 18 to below 30, to below 60, to 100

    [scales]                         # options that several questions share; may be left out
    agreement = [[1, "Disagree"], [2, "Agree"]]

    [[questions]]
    column = "q1"                    # also the question's id
    topic = "Work"
    text = "Is work important to you?"
    options = [[1, "No"], [2, "A little"], [3, "Very"]]  # code and label, in order; or a scale
    reverse = true                   # the order is the other way round; false if left out
    ordinal = true                   # false for yes/no and unordered options; true if left out
    dropped = [-1, 9]                # codes that count as no answer; may be left out
    merged = [[0, 1]]                # code 0 counts as code 1; may be left out
    labels = [[9, "Can't choose"]]   # as of attributes, beside the options' own; may be left out
    in.de.text = "Ist Ihnen Arbeit wichtig?"
    in.de.options = [[1, "Nein"], [2, "Etwas"], [3, "Sehr"]]  # of the same codes; or a scale
    paper = false                    # not one of the paper's questions; true if left out

With `questions = "questions.csv"`, they are rows of a table beside this file, with the columns id,
text and options ("1=No; 2=Yes", or a scale), and if wanted topic (else the source) and missing
("-1; 9").

The code "" is a blank cell. Codes are numbers or texts (`codes`); options with a text for a code
are numbered 1..K.
"""

import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
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
from ace_jax.survey.codebook_keys import RANGE, check_keys
from ace_jax.survey.codes import Code, plain, spelling
from ace_jax.survey.personas import Attribute, country_names

BUILTIN = Path(__file__).parent / "builtin"
FORM = [field.name for field in fields(Form)]
LONGEST_RANGE = 1000  # codes


def read_codebook(path: Path) -> Codebook:
    """Reads and checks a codebook (format: this module's docstring).

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
    check_keys(given, where, "", " ".join(FORM))
    return Form(**given)


def _codebook(content: dict[str, Any], folder: Path) -> Codebook:
    optional = "country country_column countries missing scales include exclude id"
    optional = " ".join([optional, *FORM])
    check_keys(content, "the file", "source citation attributes questions", optional)
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
        its = [*entry.get("codes", []), *entry.get("merged", []), entry.get("dropped", [])]
        lists = (one for one in its if isinstance(one, list))
        texts = ((code, code) for code in chain(*lists) if isinstance(code, str))
        # A column may serve several attributes.
        labels[column] = (*labels.get(column, ()), *own, *texts, *missing)
    form = {name: content[name] for name in FORM if name in content}
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
        form=Form(**form),
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
            check_keys(its, where, "text options")
            by_code = dict(_options(its["options"], content, where))
            if {*by_code} != {*one.file_codes}:
                raise InputError(f"{where}: `options` are to have the codes {one.file_codes}")
            words = {"text": its["text"], "options": [by_code[code] for code in one.file_codes]}
            _check_words(where, **words)
            said[language]["questions"][one.question_id] = words
    for entry in content["attributes"]:
        for language, its in entry.get("in", {}).items():
            where, levels = f"attribute {entry['name']}, in.{language}", its.get("levels", [])
            check_keys(its, where, "levels")
            if len(levels) != len(entry["levels"]) or _repeated(map(plain, levels)):
                raise InputError(f"{where}: give {len(entry['levels'])} different levels")
            _check_texts(where, levels)
            said[language]["attributes"][entry["name"]] = levels
    return dict(said)


def _pairs(labelled: list[Any]) -> tuple[tuple[Code, str], ...]:
    return tuple((code if isinstance(code, str) else int(code), label) for code, label in labelled)


def _chosen(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the questions that `include` and `exclude` leave."""
    columns = [str(entry.get("column")) for entry in content["questions"]]

    def named(key: str, default: list[str]) -> set[str]:
        patterns = content.get(key, default)
        its = {one: [name for name in columns if fnmatchcase(name, one)] for one in patterns}
        if idle := [one for one in its if not its[one]]:
            raise InputError(f"`{key}`: no question is called {idle[0]!r:.40}; correct it")
        return {*chain(*its.values())}

    kept = named("include", ["*"]) - named("exclude", [])
    if not kept:
        raise InputError("`include` and `exclude` leave no question; change them")
    return [
        entry for entry, name in zip(content["questions"], columns, strict=True) if name in kept
    ]


def _recode(entry: dict[str, Any], missing: tuple[Code, ...]) -> Recode:
    where = f"attribute {entry.get('name')}"
    check_keys(entry, where, "name column levels", "codes threshold bins dropped labels in")
    levels = tuple(entry["levels"])
    if len(levels) < 2 or _repeated(map(plain, levels)):
        raise InputError(f"{where} has levels {levels}; give it at least two different ones")
    if sum(key in entry for key in ("codes", "threshold", "bins")) != 1:
        raise InputError(f"{where}: give either `codes` or `threshold` or `bins`")
    _check_texts(where, levels)
    dropped = tuple(entry.get("dropped", ()))
    of = (Attribute(entry["name"], levels), entry["column"])
    if "threshold" in entry:
        check_keys(entry["threshold"], f"{where}, threshold", "name at_least level")
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
    check_keys(entry, where, "column topic text options", optional)
    labelled = _options(entry["options"], content, where)[:: -1 if entry.get("reverse") else 1]
    codes, labels = tuple(code for code, _ in labelled), tuple(label for _, label in labelled)
    numbers = tuple(code for code in codes if isinstance(code, int))
    dropped, merged = tuple(entry.get("dropped", ())), tuple(map(tuple, entry.get("merged", ())))
    _check_words(where, entry["text"], labels)
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


def _options(
    options: str | list[Any], content: dict[str, Any], where: str
) -> tuple[tuple[Code, str], ...]:
    if isinstance(options, list):
        return _pairs(options)
    if options not in content.get("scales", {}):
        raise InputError(f"{where} uses the scale {options!r}, which [scales] does not have")
    return _pairs(content["scales"][options])


def _check_words(where: str, text: str, options: Sequence[str]) -> None:
    if repeated := _repeated(map(plain, options)):
        raise InputError(f"{where} has two options {repeated[0]!r:.40}; tell them apart")
    _check_texts(where, (text, *options))


def _check_texts(where: str, texts: Iterable[str]) -> None:
    for found in chain(*map(PLACEHOLDER.findall, texts)):
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
