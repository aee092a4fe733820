"""Means of cells and their 95 % intervals.

There are two ways to average. Every table names the one it used.

nested  The mean over the cells of a file, then over the files of a country and granularity, then
        over countries, as in the authors' code. A file is a combination of attributes and a topic.
flat    The mean over the cells of a country and granularity, then over countries, as in Eq. 15.

The standard error is clustered by question: the spread between questions, within topics where the
mean is nested, holds the choice of questions and the sampling of respondents. For one question only
it is that of sampling its respondents. The variance between seeds (column `seed`), divided by their
number, is added. docs/analysis.md says what happens to questions alone in their topic, and what is
not included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import stdtr, stdtrit

Average = Literal["nested", "flat"]
AVERAGES: tuple[Average, ...] = ("nested", "flat")
ALL = "ALL"  # the country of rows that are means over countries
LEVEL = 0.95


@dataclass(frozen=True)
class Averaging:
    """How cells make up the means of groups, and which cells share an error.

    Attributes:
      groups: one row a group: its keys, n_cells (of one seed) and n_questions.
      cells: one row a cell: `weight`, its weight in the mean of its group, and codes 0, 1, ... of
        the sets that it belongs to. Sets of one kind lie within sets of another:
          group     the row in `groups`
          part      within a group: the innermost mean
          seed      within a group: the cells of one seed
          stratum   within a group: the questions to compare with each other
          question  within a stratum
          people    within a stratum: the respondents of one country
          sample    within people: one combination of attributes; its cells share no respondent
    """

    groups: pd.DataFrame
    cells: pd.DataFrame

    def means(self, values: Float[np.ndarray, "cells"], of: str = "group") -> np.ndarray:
        """Returns the mean of each group, or what each set of another kind contributes to it."""
        return np.bincount(self._code(of), self._code("weight") * values)

    def outer(self, inner: str, outer: str = "group") -> Int[np.ndarray, "sets"]:
        """Returns the outer set of each inner one, for example the group of each question."""
        code = self._code(inner)
        of_inner = np.empty(int(code.max(initial=-1)) + 1, np.int64)
        of_inner[code] = self._code(outer)
        return of_inner

    def intervals(
        self,
        values: Float[np.ndarray, "cells"],
        variance: Float[np.ndarray, "cells"] | None = None,
        names: Sequence[str] = ("mean", "low", "high"),
    ) -> pd.DataFrame:
        """Returns the mean of each group, its 95 % interval and the p-value that it is 0.

        Both are Student's, and hold the choice of questions and seeds. `variance` is that of
        `values` from sampling respondents. Only means over a single question use it; without it
        their interval is NaN. With three `names` there is no p-value.
        """
        mean = self.means(values)
        square, spread = self._between_questions(values, variance)
        seeds = np.bincount(self.outer("seed"))
        of_seeds = self.seed_deviations(values) ** 2 / seeds
        square, spread = square + of_seeds, spread + of_seeds**2 / np.maximum(seeds - 1, 1)
        # Satterthwaite's degrees of freedom, infinite if no variance was estimated.
        degrees = np.divide(square**2, spread, out=np.full_like(mean, np.inf), where=spread > 0)
        error = np.sqrt(square)
        half = stdtrit(degrees, (1 + LEVEL) / 2) * error
        with np.errstate(divide="ignore", invalid="ignore"):
            p_value = 2 * stdtr(degrees, -np.abs(mean / error))
        columns = (mean, mean - half, mean + half, p_value)
        return pd.DataFrame(dict(zip(names, columns, strict=False)))

    def sampling_errors(self, variance: Float[np.ndarray, "cells"]) -> Float[np.ndarray, "groups"]:
        """Returns the standard error of each mean from sampling respondents only."""
        # All seeds are scored on the same respondents: more seeds do not shrink this error.
        variance = np.bincount(self.outer("seed"))[self._code("group")] * variance
        error = np.sqrt(self.means(self._code("weight") * variance, "sample"))
        # Combinations of attributes split the same people in other ways: at worst, errors add up.
        people = np.bincount(self.outer("sample", "people"), error)
        return np.sqrt(np.bincount(self.outer("people"), people**2))

    def seed_deviations(self, values: Float[np.ndarray, "cells"]) -> Float[np.ndarray, "groups"]:
        """Returns the standard deviation of each mean over seeds; zero for one seed."""
        group = self.outer("seed")
        seeds = np.bincount(group)
        away = seeds[group] * self.means(values, "seed") - self.means(values)[group]
        return np.sqrt(np.bincount(group, away**2) / np.maximum(seeds - 1, 1))

    def _between_questions(
        self, values: Float[np.ndarray, "cells"], variance: Float[np.ndarray, "cells"] | None
    ) -> tuple[Float[np.ndarray, "groups"], Float[np.ndarray, "groups"]]:
        """Returns the squared standard error of each mean, and sum(part^2 / freedom) of its parts.

        The squared error is sum_h size_h variance_h over strata h. Each variance is that of a
        question in the stratum. Strata whose questions are alone get the others' pooled variance.
        If all are alone, the group is a single stratum.
        """
        part, stratum = self._code("part"), self.outer("question", "stratum")
        group = self.outer("stratum")
        weight = self.means(np.ones(len(values)), "question")
        size, questions = np.bincount(stratum, weight**2), np.bincount(stratum)
        several = _distinct(part, self._code("question"))[part] > 1
        alone = np.bincount(self._code("stratum"), several) == 0
        freedom = np.where(alone, 0.0, questions - 1)
        in_group = np.bincount(group, freedom)
        pooled = freedom / np.maximum(in_group, 1)[group]
        lone = np.bincount(group, np.where(alone, size, 0.0))[group]
        centre = np.bincount(part, values) / np.bincount(part)
        moved = np.bincount(stratum, self.means(values - centre[part], "question") ** 2)
        between = np.where(alone, 0, moved * questions / np.maximum(questions - 1, 1))
        square = (size + pooled * lone) * between / size
        spread = np.divide(square**2, freedom, out=np.zeros_like(square), where=freedom > 0)

        of = self.outer("question")
        count = np.bincount(of)
        mean = self.means(values, "question") / weight
        away = mean - (np.bincount(of, mean) / count)[of]
        single = np.bincount(of, away**2) / np.maximum(count - 1, 1) * np.bincount(of, weight**2)
        sampling = np.nan if variance is None else self.sampling_errors(variance) ** 2
        kinds = [in_group > 0, count > 1]
        return (
            np.select(kinds, [np.bincount(group, square), single], sampling),
            np.select(
                kinds, [np.bincount(group, spread), single**2 / np.maximum(count - 1, 1)], 0.0
            ),
        )

    def _code(self, kind: str) -> np.ndarray:
        return self.cells[kind].to_numpy()


def averaging(
    cells: pd.DataFrame,
    by: Sequence[str],
    average: Average,
    *,
    over: Sequence[str] = (),
) -> Averaging:
    """Returns how the mean of every group is made up of cells.

    Args:
      cells: columns country, question_id, those of `by` and `over`; for `nested` also topic and
        combination (which attributes the persona names); for several seeds also seed.
      by: the columns that define a group; groups are sorted by them, but a `run` keeps its place.
      average: how to average within a group, or within each value of `over`.
      over: columns whose values are averaged afterwards, the outermost first.
    """
    over = ("seed", *over) if "seed" in cells else over
    used = {*by, *over, "country"}
    code = {
        name: pd.factorize(cells[name], sort=name in used - {"run"})[0]
        for name in {*used, "question_id", "topic", "combination"} & set(cells)
    }
    zero = np.zeros(len(cells), np.int64)
    topic, combination = code.get("topic", zero), code.get("combination", zero)
    group = _codes(zero, *(code[name] for name in by))
    levels = [group]
    for name in over:
        levels.append(_codes(levels[-1], code[name]))
    part = _codes(levels[-1], combination, topic) if average == "nested" else levels[-1]
    levels.append(part)
    weight = 1 / np.bincount(part)[part]
    for outer, inner in pairwise(levels):
        weight /= _distinct(outer, inner)[outer]

    stratum = _codes(group, topic if average == "nested" else zero)
    people = _codes(stratum, code["country"])
    seed = _codes(group, code.get("seed", zero))
    table = {
        "weight": weight,
        "group": group,
        "part": part,
        "seed": seed,
        "stratum": stratum,
        "question": _codes(stratum, code["question_id"]),
        "people": people,
        "sample": _codes(people, combination),
    }
    first = np.unique(group, return_index=True)[1]
    groups = cells[list(by)].iloc[first].reset_index(drop=True)
    n_cells = np.bincount(group) // _distinct(group, seed)
    groups = groups.assign(n_cells=n_cells, n_questions=_distinct(group, code["question_id"]))
    return Averaging(groups, pd.DataFrame(table))


def with_all_countries(
    cells: pd.DataFrame,
    by: Sequence[str],
    average: Average,
    summarise: Callable[[Averaging], pd.DataFrame],
) -> pd.DataFrame:
    """Returns `summarise` of each country's means and, in rows `ALL`, of means over countries."""
    each = summarise(averaging(cells, ["country", *by], average))
    overall = summarise(averaging(cells, by, average, over=("country",)))
    return pd.concat([each, overall.assign(country=ALL)], ignore_index=True)


def in_order(table: pd.DataFrame, average: Average, keys: Sequence[str]) -> pd.DataFrame:
    """Returns a table sorted by its keys, rows `ALL` after countries, runs in their order."""
    table = table.assign(average=average, last=table["country"] == ALL)
    by = [name for name in keys if name != "run"]
    table = table.sort_values([*by, "last", "country"], kind="stable", ignore_index=True)
    first = ["average", *by, "country", *(name for name in keys if name == "run")]
    return table[[*first, *table.columns.drop([*first, "last"])]]


def _codes(*columns: Int[np.ndarray, "cells"]) -> Int[np.ndarray, "cells"]:
    """Returns a number for each distinct row: 0, 1, ... in sorted order."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        key = key * (int(column.max(initial=0)) + 1) + column
    return pd.factorize(key, sort=True)[0]


def _distinct(
    outer: Int[np.ndarray, "cells"], inner: Int[np.ndarray, "cells"]
) -> Int[np.ndarray, "sets"]:
    """Returns how many values of `inner` occur in each outer set."""
    width = int(inner.max(initial=0)) + 1
    return np.bincount(pd.unique(outer * width + inner) // width)
