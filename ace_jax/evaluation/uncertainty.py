"""Which cells make up which mean, and how far it may be off.

Two ways to average, named in every table:

nested  cells in a file -> files of a country and granularity -> countries, as the authors' code
        does; a file is a combination of attributes x a topic.
flat    cells in a country and granularity -> countries, as Eq. 15 reads.

The standard error is clustered by question: cells of one question, in whatever country, share its
wording and, within a country, its respondents. What a question adds to a mean varies from question
to question because questions differ and because respondents are a sample, so the spread between
questions holds both, and adding the sampling variance would count it twice. A nested mean compares
questions within topics; one that is alone in its topic is taken to vary as others do in theirs, and
where all are alone they are compared across topics (collapsed strata). Where there is one question
only, it tells nothing of others: then the standard error is that of sampling its respondents alone.

Cells of several seeds (a column `seed`) are averaged by seed first, then seeds alike, and the
variance between seeds, over their number, is added to the square of the standard error.

Not in it: the same respondents answer many questions, so that their sampling error is shared. It
takes respondents' rows to know, and those do not leave `prepare`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student

Average = Literal["nested", "flat"]
AVERAGES: tuple[Average, ...] = ("nested", "flat")
LEVEL = 0.95


@dataclass(frozen=True)
class Averaging:
    """Some groups of cells, each to be averaged.

    Attributes:
      groups: a row a group: its keys, n_cells (of one seed), n_questions.
      group: of each cell, its row in `groups`.
      part: of each cell, the innermost mean that it belongs to; cells count alike there.
      weight: of each cell in the mean of its group.
      seed: of each cell, 0, 1, ...; all 0 where there is one only.
      seeds: of each group, how many there are.
      cluster: of each cell, its question within `stratum`.
      stratum: of each cluster, the questions that it is compared with.
      stratum_group: of each stratum, its row in `groups`.
      alone: of each stratum, whether no innermost mean has two of its questions to compare.
      sample: of each cell, the independent respondents whom a mean over it draws on.
      sample_people: of each sample, people; samples of the same people depend on one another.
      people_stratum: of each such set of people, the stratum.
    """

    groups: pd.DataFrame
    group: Int[np.ndarray, "cells"]
    part: Int[np.ndarray, "cells"]
    weight: Float[np.ndarray, "cells"]
    seed: Int[np.ndarray, "cells"]
    seeds: Int[np.ndarray, "groups"]
    cluster: Int[np.ndarray, "cells"]
    stratum: Int[np.ndarray, "clusters"]
    stratum_group: Int[np.ndarray, "strata"]
    alone: Bool[np.ndarray, "strata"]
    sample: Int[np.ndarray, "cells"]
    sample_people: Int[np.ndarray, "samples"]
    people_stratum: Int[np.ndarray, "people"]

    def means(self, values: Float[np.ndarray, "cells"]) -> Float[np.ndarray, "groups"]:
        """Returns the mean of each group."""
        return np.bincount(self.group, self.weight * values, len(self.groups))

    def contributions(self, values: Float[np.ndarray, "cells"]) -> Float[np.ndarray, "clusters"]:
        """Returns what each question adds to the mean of its group."""
        return np.bincount(self.cluster, self.weight * values, len(self.stratum))

    @property
    def cluster_group(self) -> Int[np.ndarray, "clusters"]:
        """Of each cluster, its row in `groups`."""
        return self.stratum_group[self.stratum]

    def intervals(
        self,
        values: Float[np.ndarray, "cells"],
        variance: Float[np.ndarray, "cells"] | None = None,
    ) -> pd.DataFrame:
        """Returns the mean of each group with its 95 % interval (Student's t).

        Args:
          values: of the cells.
          variance: of `values` under sampling of respondents, for means over a single question;
            without it their interval is NaN.

        Returns:
          Columns mean, low, high.
        """
        mean = self.means(values)
        square, spread = self._of_questions(values, variance)
        of_seeds = self.seed_deviations(values) ** 2 / self.seeds
        square, spread = square + of_seeds, spread + of_seeds**2 / np.maximum(self.seeds - 1, 1)
        # Satterthwaite's degrees of freedom; none is estimated where a variance counts as known.
        degrees = np.divide(square**2, spread, out=np.full_like(mean, np.inf), where=spread > 0)
        half = student.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(square)
        return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})

    def sampling_errors(self, variance: Float[np.ndarray, "cells"]) -> Float[np.ndarray, "groups"]:
        """Returns the standard error of each mean from sampling respondents alone."""
        return np.sqrt(self._by_group(self._sampling(variance)))

    def seed_deviations(self, values: Float[np.ndarray, "cells"]) -> Float[np.ndarray, "groups"]:
        """Returns the standard deviation of each mean over seeds; zero where there is one only."""
        width = int(self.seed.max(initial=0)) + 1
        place, size = self.group * width + self.seed, len(self.groups) * width
        there = np.bincount(place, minlength=size).reshape(-1, width) > 0
        added = np.bincount(place, self.weight * values, size).reshape(-1, width)
        away = there * (self.seeds[:, None] * added - self.means(values)[:, None])
        return np.sqrt((away**2).sum(axis=1) / np.maximum(self.seeds - 1, 1))

    def _of_questions(
        self, values: Float[np.ndarray, "cells"], variance: Float[np.ndarray, "cells"] | None
    ) -> tuple[Float[np.ndarray, "groups"], Float[np.ndarray, "groups"]]:
        """Returns the squared standard error of each mean, and sum(part^2 / freedom) of its parts.

        The error is the root of sum_h size_h variance_h over strata h, the variance that of a
        question there. Strata of a lone question have the variance of the others, pooled.
        """
        of_cluster = np.bincount(self.cluster, np.abs(self.weight), len(self.stratum))
        size = np.bincount(self.stratum, of_cluster**2, len(self.stratum_group))
        questions = np.bincount(self.stratum, minlength=len(size))
        freedom = np.where(self.alone, 0.0, questions - 1)
        in_group = self._by_group(freedom)
        pooled = freedom / np.maximum(in_group, 1)[self.stratum_group]
        lone = self._by_group(np.where(self.alone, size, 0.0))[self.stratum_group]
        square = (size + pooled * lone) * self._between(values, questions) / size
        spread = np.divide(square**2, freedom, out=np.zeros_like(square), where=freedom > 0)
        count = np.bincount(self.cluster_group, minlength=len(self.groups))
        collapsed = self._collapsed(values, of_cluster)
        kinds = [in_group > 0, count > 1]
        sampling = self._by_group(self._sampling(variance))
        return (
            np.select(kinds, [self._by_group(square), collapsed], sampling),
            np.select(
                kinds, [self._by_group(spread), collapsed**2 / np.maximum(count - 1, 1)], 0.0
            ),
        )

    def _between(
        self, values: Float[np.ndarray, "cells"], questions: Int[np.ndarray, "strata"]
    ) -> Float[np.ndarray, "strata"]:
        parts = np.bincount(self.part)
        centre = np.bincount(self.part, values) / parts
        moved = self.contributions(values - centre[self.part])
        square = np.bincount(self.stratum, moved**2, len(questions))
        return np.where(self.alone, 0, square * questions / np.maximum(questions - 1, 1))

    def _collapsed(
        self, values: Float[np.ndarray, "cells"], size: Float[np.ndarray, "clusters"]
    ) -> Float[np.ndarray, "groups"]:
        """Returns the squared standard errors if all questions of a group were of one stratum."""
        group, groups = self.cluster_group, len(self.groups)
        count = np.bincount(group, minlength=groups)
        mean = self.contributions(values) / size
        away = mean - (np.bincount(group, mean, groups) / count)[group]
        variance = np.bincount(group, away**2, groups) / np.maximum(count - 1, 1)
        return variance * np.bincount(group, size**2, groups)

    def _sampling(self, variance: Float[np.ndarray, "cells"] | None) -> Float[np.ndarray, "strata"]:
        if variance is None:
            return np.full(len(self.stratum_group), np.nan)
        # Every seed meets the same respondents: their error does not shrink with seeds.
        variance = self.seeds[self.group] * variance
        error = np.sqrt(np.bincount(self.sample, self.weight**2 * variance))
        # Combinations of attributes split the same people anew: at worst their errors add up.
        people = np.bincount(self.sample_people, error) ** 2
        return np.bincount(self.people_stratum, people, len(self.stratum_group))

    def _by_group(self, of_strata: Float[np.ndarray, "strata"]) -> Float[np.ndarray, "groups"]:
        return np.bincount(self.stratum_group, of_strata, len(self.groups))


def averaging(
    cells: pd.DataFrame,
    by: Sequence[str],
    average: Average,
    *,
    over: Sequence[str] = (),
    contrast: str | None = None,
) -> Averaging:
    """Returns how cells make up the mean of every group.

    Args:
      cells: columns country, question_id, those of `by` and `over`; for `nested` also topic and
        combination (which attributes the persona names); where there are several, also seed.
      by: what a group is.
      average: `nested` or `flat`, within a group or each value of `over`.
      over: columns whose values are then averaged, the first one outermost.
      contrast: a column of 1 and -1: a group's mean is that of the former less the latter.
    """
    over = ("seed", *over) if "seed" in cells else over
    table = {name: pd.factorize(cells[name], sort=True)[0] for name in {*by, *over, "country"}}
    question = pd.factorize(cells["question_id"])[0]
    zero = np.zeros(len(cells), np.int64)
    topic, combination = (
        pd.factorize(cells[name])[0] if name in cells else zero for name in ("topic", "combination")
    )
    group, first = _codes(*(table[name] for name in by), zero)
    levels = [group]
    if contrast is not None:
        levels.append(_codes(group, pd.factorize(cells[contrast])[0])[0])
    for name in over:
        levels.append(_codes(levels[-1], table[name])[0])
    nested = average == "nested"
    levels.append(_codes(levels[-1], combination, topic)[0] if nested else levels[-1])
    weight = 1 / np.bincount(levels[-1])[levels[-1]]
    # A contrast's two sides are not averaged, but subtracted.
    for outer, inner in list(pairwise(levels))[contrast is not None :]:
        weight /= _distinct(outer, inner)[outer]
    if contrast is not None:
        weight *= cells[contrast].to_numpy(np.float64)

    in_stratum = topic if nested else zero
    stratum, of_stratum = _codes(group, in_stratum)
    cluster, of_cluster = _codes(stratum, question)
    part = levels[-1]
    in_part, of_part = _codes(part, cluster)
    several = _distinct(part, in_part)[part[of_part]] > 1
    alone = np.bincount(stratum[of_part], several) == 0
    people, of_people = _codes(stratum, table["country"])
    sample, of_sample = _codes(people, combination)
    seed = table.get("seed", zero)
    seeds = _distinct(group, _codes(group, seed)[0])
    groups = cells[list(by)].iloc[first].reset_index(drop=True)
    groups = groups.assign(
        n_cells=np.bincount(group) // seeds,
        n_questions=_distinct(group, _codes(group, question)[0]),
    )
    return Averaging(
        groups,
        group,
        part,
        weight,
        seed,
        seeds,
        cluster,
        stratum[of_cluster],
        group[of_stratum],
        alone,
        sample,
        people[of_sample],
        stratum[of_people],
    )


def _codes(
    *columns: Int[np.ndarray, "cells"],
) -> tuple[Int[np.ndarray, "cells"], Int[np.ndarray, "codes"]]:
    """Returns a number for each distinct row, in sorted order, and where each is found first."""
    key = columns[0].astype(np.int64)
    for column in columns[1:]:
        key = key * (int(column.max(initial=0)) + 1) + column
    code, distinct = pd.factorize(key, sort=True)
    first = np.empty(len(distinct), np.int64)
    first[code[::-1]] = np.arange(len(key))[::-1]
    return code, first


def _distinct(
    outer: Int[np.ndarray, "cells"], inner: Int[np.ndarray, "cells"]
) -> Int[np.ndarray, "outer"]:
    """Returns how many values of `inner`, which lie within one of `outer` each, are in each."""
    group = np.empty(int(inner.max(initial=-1)) + 1, np.int64)
    group[inner] = outer
    return np.bincount(group)
