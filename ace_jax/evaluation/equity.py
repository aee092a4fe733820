"""Whether all countries are served alike: tiers, gaps and convergence (RQ2); unseen personas.

Tables of `scores` have the columns granularity, country and score, such as
`alignment.alignment_table` of one run or a published table. Means over them are plain: over the
countries of a tier, then over granularities. Rows `ALL` are ignored. `gap_table` takes cells and
has intervals.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ace_jax.evaluation.comparison import Cells, compared, gain_table, stacked
from ace_jax.evaluation.uncertainty import ALL, Average, averaging
from ace_jax.survey.readers.sources import TIERS

MEAN = "mean"  # the granularity of rows that are means over granularities


def tier_scores(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns the mean score of each tier by granularity, and over granularities (`mean`).

    Args:
      runs: name -> scores.

    Returns:
      Columns run, granularity, tier, n_countries, score and gain (over the first run).
    """
    scores = pd.concat([table.assign(run=name) for name, table in runs.items()], ignore_index=True)
    scores = scores.assign(tier=scores["country"].map(TIERS)).dropna(subset="tier")
    scores = scores.astype({"tier": int, "granularity": object})
    by = scores.groupby(["run", "granularity", "tier"], sort=False)["score"]
    table = by.agg(n_countries="size", score="mean").reset_index()
    tiers = table.groupby(["run", "tier"], as_index=False, sort=False)
    overall = tiers.agg({"n_countries": "max", "score": "mean"}).assign(granularity=MEAN)
    table = pd.concat([table, overall], ignore_index=True)
    first = table[table["run"] == next(iter(runs))].set_index(["granularity", "tier"])["score"]
    before = first.reindex(pd.MultiIndex.from_frame(table[["granularity", "tier"]])).to_numpy()
    return table.assign(gain=table["score"] - before)


def convergence(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns whether countries' scores come closer together than in the first run.

    Args:
      runs: name -> scores.

    Returns:
      Columns run, granularity (and `mean`), gap (tier 1 minus tier 3; NaN without both), closed
      (per cent of the first run's gap that is gone), spread (standard deviation over countries) and
      slope (change of the gain for each point of the first run's score; below zero, countries with
      low scores gain most).
    """
    tiers = tier_scores(runs).pivot(index=["run", "granularity"], columns="tier", values="score")
    gaps = tiers.reindex(columns=[1, 3])
    gap = gaps[1] - gaps[3]
    first = next(iter(runs))
    before = _by_country(runs[first])
    rows = []
    for name, scores in runs.items():
        after = _by_country(scores).reindex(before.index)
        for granularity in after:
            of, was = after[granularity].dropna(), before[granularity].dropna()
            enough = len(was) > 1 and np.ptp(was) > 0
            slope = np.polyfit(was, (of - was), 1)[0] if enough else np.nan
            here, there = (gap.get((run, granularity), np.nan) for run in (name, first))
            closed = 100 * (1 - here / there)
            rows.append((name, granularity, here, closed, of.std(ddof=1), slope))
    return pd.DataFrame(rows, columns=["run", "granularity", "gap", "closed", "spread", "slope"])


def gap_table(methods: Mapping[str, Cells], average: Average, *, seed: int = 0) -> pd.DataFrame:
    """Returns the gap between tiers 1 and 3 with intervals (module `uncertainty`).

    Args:
      methods: as `comparison.gain_table` takes them.
      average: `nested` or `flat`.
      seed: of the permutations.

    Returns:
      Columns average, granularity (and `mean`), run, n_questions, gap, gap_low, gap_high, change
      (from the first method's gap; negative if the tiers come closer), change_low, change_high,
      p_value. Empty if one of the two tiers has no country.
    """
    columns = {"score": "gap", "ci_low": "gap_low", "ci_high": "gap_high", "gain": "change"}
    columns |= {"gain_low": "change_low", "gain_high": "change_high"}
    names = ["average", "granularity", "run", "n_questions", *columns.values(), "p_value"]
    tables = [pd.DataFrame(columns=names)]
    for name, cells in stacked(methods).items():
        signs = cells["country"].map(TIERS).map({1: 1.0, 3: -1.0})
        cells = cells.assign(side=signs).dropna(subset="side")
        if cells["side"].nunique() < 2:
            continue
        for by, over in ((["granularity"], ("country",)), ([], ("granularity", "country"))):
            means = averaging(cells, by, average, over=over, contrast="side")
            table = compared(means, cells, seed, lowest=-100.0).rename(columns=columns)
            overall = {} if by else {"granularity": MEAN}
            tables.append(table.assign(run=name, average=average, **overall)[names])
    return pd.concat(tables[1:] or tables, ignore_index=True)


def composition_table(
    methods: Mapping[str, Cells], average: Average, *, seed: int = 0
) -> pd.DataFrame:
    """Returns the scores of personas that training never saw, by topic (Fig. 4).

    Args:
      methods: as `comparison.gain_table` takes them, with held-out personas only (column persona;
        the paper's are `survey.split.PAPER_PERSONAS`).
      average: `nested` or `flat`.
      seed: of the permutations.

    Returns:
      Columns of `gain_table` by persona and topic; rows of topic `ALL` after the others.
    """
    by_topic = gain_table(methods, average, ("persona", "topic"), seed=seed)
    overall = gain_table(methods, average, ("persona",), seed=seed).assign(topic=ALL)
    return pd.concat([by_topic, overall[list(by_topic)]], ignore_index=True)


def _by_country(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns scores with countries in rows, granularities and their mean in columns."""
    table = scores[scores["country"] != ALL]
    table = table.pivot(index="country", columns="granularity", values="score")
    return table.assign(**{MEAN: table.mean(axis=1)})
