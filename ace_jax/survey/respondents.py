"""Respondents: a raw table read through its codebook."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Codebook, Question, Recode, Threshold
from ace_jax.survey.personas import Attribute


@dataclass(frozen=True)
class Respondents:
    """One row a respondent. They stay in memory: no survey allows passing its respondents on.

    `frame` columns: `country` (ISO 3166-1 alpha-3), one column an attribute (ordered category of
    level names, or missing), one column a question (float64: the option's code, or NaN), and
    `weight` (float64, > 0).
    """

    frame: pd.DataFrame
    attributes: tuple[Attribute, ...]
    questions: tuple[Question, ...]


def from_table(table: pd.DataFrame, codebook: Codebook, weights: str | None = None) -> Respondents:
    """Reads a raw table (one row a respondent, codes as in the file) through its codebook.

    `weights` names the table's column of survey weights; None gives every respondent weight 1.
    Raises InputError for a column that is not there, a code that the codebook does not declare,
    a country that is not an alpha-3 code, or a weight that is not a positive number.
    """
    columns: dict[str, pd.Series] = {"country": _country(table, codebook)}
    for recode in codebook.recodes:
        columns[recode.attribute.name] = _levels(_column(table, recode.column), recode)
    for question in codebook.questions:
        name = question.question_id
        columns[name] = _answers(_column(table, name), question)
    columns["weight"] = _weights(table, weights)
    return Respondents(pd.DataFrame(columns), codebook.attributes, codebook.questions)


def complete_cases(respondents: Respondents) -> Respondents:
    """Keeps the respondents whose level is known for every attribute.

    They are dropped from every cell, coarse ones too, as in the paper's released data: so a
    coarser cell is exactly the mean of its finer ones.
    """
    names = [attribute.name for attribute in respondents.attributes]
    return replace(respondents, frame=respondents.frame.dropna(subset=names).reset_index(drop=True))


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        raise InputError(
            f"the input has no column {name}; give a file that has it, or change the codebook"
        )
    return table[name]


def _country(table: pd.DataFrame, codebook: Codebook) -> pd.Series:
    if codebook.country_column is None:
        country = pd.Series(codebook.country, index=table.index, dtype=object)
    else:
        country = _column(table, codebook.country_column)
    alpha3 = country.astype(object).map(
        lambda code: isinstance(code, str) and len(code) == 3 and code.isalpha() and code.isupper()
    )
    if not alpha3.all():
        raise InputError(
            f"country {country[~alpha3].iloc[0]!r:.40} ({int((~alpha3).sum())} respondents) is not "
            "an ISO 3166-1 alpha-3 code; correct it in the codebook or the input"
        )
    return country


def _levels(column: pd.Series, recode: Recode) -> pd.Series:
    levels = list(recode.attribute.levels)
    if isinstance(recode.by, Threshold):
        other = next(level for level in levels if level != recode.by.level)
        number = pd.to_numeric(column, errors="coerce")
        named = pd.Series(
            np.where(number >= recode.by.at_least, recode.by.level, other), index=column.index
        ).where(number.notna())
    else:
        named = column.astype(object).map(dict(recode.by))
    dropped = column.isin(recode.dropped)
    _check_codes(column, named.notna() | dropped, "a level")
    return named.mask(dropped).astype(pd.CategoricalDtype(levels, ordered=True))


def _answers(column: pd.Series, question: Question) -> pd.Series:
    column = column.replace(dict(question.merged))
    is_option = column.isin(question.option_codes)
    _check_codes(column, is_option | column.isin(question.dropped), "an option")
    return column.where(is_option).astype("float64")


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
    bad = ~(np.isfinite(weights) & (weights > 0))
    if bad.any():
        raise InputError(
            f"weights column {name}: {int(bad.sum())} respondents have no positive weight; "
            "take them out of the input or choose another column"
        )
    return weights
