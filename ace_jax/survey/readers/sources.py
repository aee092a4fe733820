"""Where datasets come from: a source's files, a DATASET directory, or the authors' release."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax.errors import InputError, check_known
from ace_jax.survey import cells
from ace_jax.survey.codebook import Codebook, Question, Threshold
from ace_jax.survey.codebook_file import read_codebook
from ace_jax.survey.dataset import Dataset, read_dataset
from ace_jax.survey.joined import joined
from ace_jax.survey.readers import eqls, gss, issp, release_eval, wvs
from ace_jax.survey.readers.tables import Raw, read_codes, stacked

# The paper's 240 questions of World Values Survey wave 7 include yes/no and unordered ones.
QUESTIONS: dict[str, Callable[[Question], bool]] = {
    "all": lambda question: True,
    "all-240": lambda question: question.paper,
    "strictly-ordinal": lambda question: question.paper and question.ordinal,
}
WHAT = ("questions", "attributes", "countries")
EVERY_COUNTRY = ["ALL"]
# The paper's tiers (section 4.2, RQ2) of the fourteen countries of its Table 1: Western and
# developed, in transition, Africa. It gives no tier to any other country.
OF_TIER = {
    "TIER1": ("USA", "DEU", "GBR", "AUS", "NZL"),
    "TIER2": ("CHL", "MEX", "RUS", "IND", "JPN", "PHL"),
    "TIER3": ("EGY", "ETH", "NGA"),
}
TIERS = {country: int(tier[-1]) for tier, its in OF_TIER.items() for country in its}


# The sources whose questions are known.
READERS: dict[str, Callable[[Sequence[Path]], Raw]] = {
    "gss2018": gss.read,
    "wvs7": wvs.read,
    "issp": issp.read,
    "eqls2007": partial(eqls.read, wave="2007"),
    "eqls2011": partial(eqls.read, wave="2011"),
}


def read(
    source: str,
    paths: Sequence[Path],
    codebook: Path | None = None,
    weights: str | None = None,
    countries: Sequence[str] | None = None,
    questions: str = "all",
) -> Raw:
    """Reads a survey's files and keeps the countries and questions asked for.

    Args:
      source: one of READERS, or `table`.
      paths: the survey's files.
      codebook: the user's own, for `table`.
      weights: the column of survey weights, which `table` reads too.
      countries: alpha-3 codes, TIER1 to TIER3, or EVERY_COUNTRY; by default the codebook's own
        list, or all where it has none.
      questions: a key of QUESTIONS.

    Raises InputError for files that do not fit, for a choice that the source does not have, and
    if no respondent or question is left.
    """
    if (codebook is None) == (source == "table"):
        raise InputError("--source table needs --codebook FILE, and no other source takes one")
    if codebook is None:
        return select(READERS[source](paths), countries, questions)
    own, whole = read_codebook(codebook), "a file that has it, or change the codebook"
    tables = [read_codes(path, own, whole, [weights] if weights else []) for path in paths]
    return select(Raw(stacked(tables), own), countries, questions)


def load_survey(where: str | Path | Sequence[str | Path]) -> Dataset:
    """Reads a DATASET directory, a built-in dataset by its name, or the authors' data/eval.

    Several, as `paths_of` takes them, make one dataset (`joined.joined`). Raises InputError as
    `read_dataset`, `release_eval.read_eval` and `joined` do, or if one is named twice.
    """
    paths = paths_of(where)
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError(f"data.path: {','.join(paths)}: a survey is named twice; take one out")
    datasets = []
    for path in paths:
        released = release_eval.is_release_eval(Path(path))
        read = release_eval.read_eval(Path(path)) if released else read_dataset(path)
        datasets.append(replace(read, path=path))
    dataset = datasets[0] if len(datasets) == 1 else joined(datasets)
    return replace(dataset, path=",".join(paths))


def paths_of(where: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Returns the surveys that `data.path` names: one, a sequence, or several joined by commas.

    Raises InputError if it names none.
    """
    if isinstance(where, str | Path):
        text = str(where)
        where = [text] if Path(text).exists() else text.split(",")
    named = tuple(text for path in where if (text := str(path).strip()))
    if not named:
        raise InputError("data.path: names no survey")
    return named


def coverage(raw: Raw) -> str | None:
    """Returns one line on what `select` found and what it did not; None where all is there."""
    codebook, notes = raw.codebook, raw.notes
    questions, attributes, countries = (notes.get(f"{what}_not_in_input", ()) for what in WHAT)
    if not (questions or attributes or countries):
        return None
    found = len(codebook.questions)
    taken = f"Taken: {found} of {found + len(questions)} questions"
    for what, names, absent in (
        ("attributes", [attribute.name for attribute in codebook.attributes], attributes),
        ("countries", notes.get("countries", [codebook.country]), countries),
    ):
        lacking = f" (not in the input: {', '.join(absent)})" if absent else ""
        taken += f"; {what} {', '.join(names)}{lacking}"
    return f"{taken}."


def _present(codebook: Codebook, table: pd.DataFrame) -> tuple[Codebook, dict[str, list[str]]]:
    """Returns what a codebook has in the table, and the names of what it has not.

    An attribute that a threshold defines stays: `build` refuses the table without it.
    """
    questions = tuple(one for one in codebook.questions if one.question_id in table)
    recodes = tuple(
        one for one in codebook.recodes if one.column in table or isinstance(one.by, Threshold)
    )
    if not questions:
        ids = ", ".join(one.question_id for one in codebook.questions[:3])
        raise InputError(
            f"the input has no question of {codebook.source} (columns {ids}, ...); "
            "give a file that has some"
        )
    if not any(one.column in table for one in recodes):
        columns = ", ".join(f"{one.column} ({one.attribute.name})" for one in codebook.recodes)
        raise InputError(f"the input has none of the attributes: {columns}; give a file with some")
    absent = {
        "questions": [one.question_id for one in codebook.questions if one not in questions],
        "attributes": [one.attribute.name for one in codebook.recodes if one not in recodes],
    }
    notes = {f"{what}_not_in_input": names for what, names in absent.items() if names}
    return replace(codebook, recodes=recodes, questions=questions), notes


def select(raw: Raw, countries: Sequence[str] | None = None, questions: str = "all") -> Raw:
    """Keeps some countries and questions (as `read` has them), and notes which.

    Questions and attributes that the table lacks are left out and noted. Raises InputError if no
    question, no attribute or no country is left.
    """
    chosen = tuple(filter(QUESTIONS[questions], raw.codebook.questions))
    if not chosen:
        raise InputError(f"--questions {questions}: the survey has no such question; leave it out")
    codebook, absent = _present(replace(raw.codebook, questions=chosen), raw.table)
    left_out = dict(raw.notes.get("left_out", {}))
    if others := len(raw.codebook.questions) - len(chosen):
        left_out[f"not among {questions}"] = others
    notes: dict[str, Any] = {**raw.notes, "questions": questions, "left_out": left_out, **absent}
    asked = [country for name in countries or () for country in OF_TIER.get(name, [name])]
    if codebook.country_column is None:
        if asked not in ([], EVERY_COUNTRY, [codebook.country]):
            raise InputError(f"--countries: all respondents of the input are of {codebook.country}")
        return Raw(raw.table, codebook, notes)
    column = cells.countries(raw.table, codebook)
    found = sorted(column.unique())
    if asked == EVERY_COUNTRY:
        asked = found
    for country in asked:
        check_known(country, found, "--countries")
    wanted = {*(asked or codebook.countries or found)}
    notes["countries"] = sorted(wanted & {*found})
    notes["countries_not_in_input"] = sorted(wanted - {*found})
    if not notes["countries"]:
        raise InputError(
            f"the input has none of the default countries, only {', '.join(found[:5])}; "
            "name those wanted with --countries, or give --countries all"
        )
    return Raw(raw.table[column.isin(wanted)].reset_index(drop=True), codebook, notes)
