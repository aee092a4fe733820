"""Respondents, read through the codebook, and their cells: what each persona answered (Eq. 8)."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Codebook, Question, Recode
from ace_jax.survey.personas import Attribute, alpha_3
from ace_jax.survey.readers.tables import Raw

# No survey's weights are apart by more, or so large or small that their squares are no numbers.
WEIGHTS_APART, LARGEST_WEIGHT = 1e9, 1e100
PARTS = ("sample", "rest")  # of `split_respondents`
SAMPLE = re.compile(r"(0?\.\d+)(?:@(\d+))?")


def from_table(table: pd.DataFrame, codebook: Codebook, weights: str | None = None) -> pd.DataFrame:
    """Reads a raw table (one row a respondent, codes as in the file) through its codebook.

    Returned columns: `country` (ISO 3166-1 alpha-3), one column an attribute (ordered category of
    level names, or missing), one column a question (float64: the option's code, or NaN), and
    `weight` (float64, > 0, or NaN for none that is positive): the table's column called `weights`,
    or 1. Respondents stay in memory: no survey allows passing them on.

    Raises InputError for a column that is not there, a code that the codebook does not declare,
    a country that is no ISO 3166-1 code, or weights that cannot be.
    """

    def answered(name: str) -> pd.Series:
        column = _column(table, name)
        return column.mask(column.isin(codebook.missing))

    columns: dict[str, pd.Series] = {"country": countries(table, codebook)}
    for recode in codebook.recodes:
        columns[recode.attribute.name] = _levels(answered(recode.column), recode)
    for question in codebook.questions:
        name = question.question_id
        columns[name] = _answers(answered(name), question)
    columns["weight"] = _weights(table, weights)
    return pd.DataFrame(columns)


def countries(table: pd.DataFrame, codebook: Codebook) -> pd.Series:
    """Returns each respondent's country (alpha-3).

    The column may hold alpha-2 codes too. Raises InputError for what is neither.
    """
    if codebook.country_column is None:
        country = pd.Series(codebook.country, index=table.index, dtype=object)
    else:
        country = _column(table, codebook.country_column)
    codes = alpha_3()
    unknown = ~country.isin([*codes])
    if unknown.any():
        raise InputError(
            f"country {country[unknown].iloc[0]!r:.40} ({int(unknown.sum())} respondents) is not "
            "an ISO 3166-1 alpha-3 or alpha-2 code; correct it in the codebook or the input"
        )
    return country.map(codes)


def split_respondents(raw: Raw, spec: str) -> dict[str, Raw]:
    """Draws a share of each country's respondents, such as `0.1@7`: a tenth, drawn by seed 7.

    Returns the PARTS, each with what it is in its notes. At least one respondent of a
    country is in each. Raises InputError for another spec, or a country of a single respondent.
    """
    given = SAMPLE.fullmatch(spec)
    if given is None or not float(given[1]):
        raise InputError(f"--sample {spec}: write SHARE@SEED with 0 < SHARE < 1, such as 0.1@0")
    share, seed = float(given[1]), int(given[2] or 0)
    country = countries(raw.table, raw.codebook)
    drawn = np.zeros(len(raw.table), bool)
    generator = np.random.default_rng(seed)
    for name, rows in sorted(country.groupby(country).indices.items()):
        if len(rows) < 2:
            raise InputError(f"--sample {spec}: {name} has a single respondent; leave it out")
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        drawn[generator.permutation(rows)[:count]] = True
    return {
        name: replace(
            raw,
            table=raw.table[rows].reset_index(drop=True),
            notes={**raw.notes, "sample": {"part": name, "share": share, "seed": seed}},
        )
        for name, rows in zip(PARTS, (drawn, ~drawn), strict=True)
    }


def complete_cases(respondents: pd.DataFrame, attributes: tuple[Attribute, ...]) -> pd.DataFrame:
    """Keeps the respondents who have a weight, and whose level is known for every attribute.

    They are dropped from every cell, coarse ones too, as in the paper's released data: so a
    coarser cell is exactly the mean of its finer ones.
    """
    names = [attribute.name for attribute in attributes]
    return respondents.dropna(subset=[*names, "weight"]).reset_index(drop=True)


def aggregate(
    respondents: pd.DataFrame,
    attributes: tuple[Attribute, ...],
    questions: tuple[Question, ...],
) -> pd.DataFrame:
    """Returns a cell for every persona of every granularity, country and question answered.

    `respondents`: the result of `from_table`.

    Columns: `source`, `country` (alpha-3), `question_id`, `granularity` (int64), one column an
    attribute (level name, missing where the persona does not name it), `n` (int64, respondents
    with a valid answer), `effective_n` (float64, Kish's (sum w)^2 / sum w^2), `p` (float64 array,
    weighted shares in option order). Cells that nobody answered are left out. Respondents that
    lack the level of an attribute are in no cell.
    """
    frame = respondents.assign(country=respondents["country"].astype("category"))
    names = [attribute.name for attribute in attributes]
    width = max(len(question.option_codes) for question in questions)
    finest = pd.concat([_sums(frame, names, question, width) for question in questions])
    order = pd.CategoricalDtype([question.question_id for question in questions])
    finest["question_id"] = finest["question_id"].astype(order)
    parts = []
    for granularity in range(1, len(names) + 1):
        for chosen in combinations(names, granularity):
            keys = ["question_id", "country", *chosen]
            part = finest.groupby(keys, observed=True).sum(numeric_only=True).reset_index()
            # Levels as plain text, because the next part may not name these attributes at all.
            parts.append(part.astype(dict.fromkeys(chosen, object)))
    sums = pd.concat(parts).sort_values("question_id", kind="stable", ignore_index=True)
    return _cells(sums, names, questions)


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        raise InputError(
            f"the input has no column {name}; give a file that has it, or change the codebook"
        )
    return table[name]


def _levels(column: pd.Series, recode: Recode) -> pd.Series:
    dropped = column.isin(recode.dropped)
    named = recode.levels(column)
    _check_codes(column, named.notna() | dropped, "a level")
    levels = pd.CategoricalDtype(list(recode.attribute.levels), ordered=True)
    return named.mask(dropped).astype(levels)


def _answers(column: pd.Series, question: Question) -> pd.Series:
    answers = column.map(question.answers).astype("float64")
    _check_codes(column, answers.notna() | column.isin(question.dropped), "an option")
    return answers


def _check_codes(column: pd.Series, known: pd.Series, what: str) -> None:
    unknown = column[column.notna() & ~known]
    if len(unknown):
        code = unknown.iloc[0]
        shown, count = " ".join(str(code).split()), int((unknown == code).sum())
        raise InputError(
            f"column {column.name} holds the code {shown:.40} ({count} respondents), which is "
            f"neither {what} nor dropped; declare it in the codebook"
        )


def _weights(table: pd.DataFrame, name: str | None) -> pd.Series:
    if name is None:
        return pd.Series(1.0, index=table.index)
    weights = pd.to_numeric(_column(table, name), errors="coerce").astype("float64")
    weights = weights.where(np.isfinite(weights) & (weights > 0))
    low, high = weights.min(), weights.max()
    if not max(high, 1 / low) < LARGEST_WEIGHT or high > WEIGHTS_APART * low:
        found = "no positive number" if np.isnan(low) else f"numbers from {low:g} to {high:g}"
        raise InputError(f"weights column {name} holds {found}; choose another column")
    return weights


def _sums(frame: pd.DataFrame, names: list[str], question: Question, width: int) -> pd.DataFrame:
    """Sums over finest personas: `n`, `w2` (squared weights), 0..width-1 (weight an option).

    Everything a coarser cell needs is a sum of these, so respondents are passed over once.
    """
    keys = ["country", *names]
    answered = frame[frame[question.question_id].notna()]
    answer = answered[question.question_id].to_numpy()
    weight = answered["weight"].to_numpy()
    chosen = answer[:, None] == np.array(question.option_codes)
    sums = pd.DataFrame(chosen * weight[:, None], index=answered.index)
    sums = sums.reindex(columns=range(width), fill_value=0.0).assign(n=1, w2=weight**2)
    sums = pd.concat([answered[keys], sums], axis=1).groupby(keys, observed=True).sum()
    return sums.reset_index().assign(question_id=question.question_id)


def _cells(sums: pd.DataFrame, names: list[str], questions: tuple[Question, ...]) -> pd.DataFrame:
    source = {question.question_id: question.source for question in questions}
    options = {question.question_id: len(question.option_codes) for question in questions}
    question_id = sums["question_id"].astype(object)
    weight = sums.drop(columns=["question_id", "country", *names, "n", "w2"]).to_numpy()
    total = weight.sum(axis=1)
    return pd.DataFrame(
        {
            "source": question_id.map(source),
            "country": sums["country"].astype(object),
            "question_id": question_id,
            "granularity": sums[names].notna().sum(axis=1),
            **{name: sums[name] for name in names},
            "n": sums["n"],
            "effective_n": total**2 / sums["w2"],
            "p": [
                row[:size]
                for row, size in zip(weight / total[:, None], question_id.map(options), strict=True)
            ],
        }
    )
