"""Methods side by side, paired cell by cell: gains and tests; tiers of countries (RQ2).

A method is one run, or several runs with different seeds. A gain is the difference of two methods
in each cell and seed; only then are means taken.

`tier_scores` and `convergence` take tables of scores instead, with the columns granularity, country
and score: of `alignment.alignment_table`, or a published table. Means over them are plain: over the
countries of a tier, then over granularities. Rows `ALL` are ignored.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import alignment_table, score_means
from ace_jax.evaluation.uncertainty import ALL, Average, averaging
from ace_jax.survey.readers.sources import TIERS

# A method's cells, or the cells of each of its seeds.
Cells = pd.DataFrame | Sequence[pd.DataFrame]
KEY = ["country", "question_id", "persona"]
MEAN = "mean"  # the granularity of rows that are means over granularities


def gain_table(
    methods: Mapping[str, Cells], average: Average, by: Sequence[str] = ()
) -> pd.DataFrame:
    """Returns each method's score and its gain over the first method, by country and over all.

    Intervals and `p_value` (that the gain is 0, two-sided) include the variance between seeds.

    Args:
      methods: name -> cells of its run or runs (`alignment.scored_cells`, or the same part of
        them). All methods have the same number of runs, or a single one, which is compared with
        every run of the other. InputError if their cells are not the same.
      by: columns that define a mean, besides granularity and country.

    Returns:
      Columns average, granularity, those of `by`, country, run, n_cells (of one run), n_questions,
      n_seeds, seed_sd (of the scores; NaN for one), score, ci_low, ci_high, gain, gain_low,
      gain_high, p_value (NaN for the first method), on the scale of 0 to 100.
    """
    table = alignment_table(stacked(methods), average, (*by, "run"))
    n_seeds = table["run"].map({name: len(_runs(cells)) for name, cells in methods.items()})
    return table.assign(n_seeds=n_seeds, seed_sd=table["seed_sd"].where(n_seeds > 1))


def difference_table(
    methods: Mapping[str, Cells],
    average: Average,
    *,
    references: Sequence[str] = (),
) -> pd.DataFrame:
    """Returns the difference between every two methods over all countries, as in `gain_table`.

    `references` are the last of the methods, and are not compared with one another. Columns are
    average, granularity, run, other (which precedes it in `methods`), n_questions, difference (run
    minus other), difference_low, difference_high and p_value, on the scale of 0 to 100. Nothing
    corrects for the number of tests.
    """
    names = list(methods)
    tables = []
    for place, other in enumerate(names[: len(names) - max(len(references), 1)]):
        cells = stacked({name: methods[name] for name in names[place:]})
        cells = cells[cells["run"] != other]
        means = averaging(cells, ["granularity", "run"], average, over=("country",))
        tables.append(score_means(cells, means).assign(other=other))
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(average=average)
    bounds = {"gain": "difference", "gain_low": "difference_low", "gain_high": "difference_high"}
    kept = ["average", "granularity", "run", "other", "n_questions", *bounds, "p_value"]
    table = table.sort_values("granularity", kind="stable", ignore_index=True)
    return table[kept].rename(columns=bounds)


def stacked(methods: Mapping[str, Cells]) -> pd.DataFrame:
    """Returns the cells of all methods and runs with their gain over the first method.

    Adds the columns run, seed (0, 1, ...), gain and gain_variance (from sampling respondents, an
    upper bound). Raises InputError as `gain_table` does.
    """
    first, *_ = names = list(methods)
    before = _runs(methods[first])
    tables = []
    for name in names:
        runs = _runs(methods[name])
        count = max(len(runs), len(before))
        if {len(runs), len(before)} - {1, count}:
            raise InputError(
                f"{first} has {len(before)} seeds and {name} {len(runs)}; give both the same "
                "number of seeds, or one of them a single run"
            )
        for i in range(count):
            gained = _gained(runs[i % len(runs)], before[i % len(before)], (first, name))
            tables.append(gained.assign(run=name, seed=i))
    return pd.concat(tables, ignore_index=True)


def tier_scores(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns the mean score of each tier by granularity, and over granularities (`mean`).

    Columns are run (the key of its scores), granularity, tier, n_countries, score and gain (over
    the first run).
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

    Columns are run, granularity (and `mean`), gap (tier 1 minus tier 3; NaN without both), closed
    (per cent of the first run's gap that is gone), spread (standard deviation over countries) and
    slope (change of the gain for each point of the first run's score; below zero, countries with
    low scores gain most).
    """
    tiers = tier_scores(runs).pivot(index=["run", "granularity"], columns="tier", values="score")
    gap = tiers.reindex(columns=[1, 3]).diff(axis=1, periods=-1)[1]
    first = next(iter(runs))
    before = _by_country(runs[first])
    away = before - before.mean()
    tables = []
    for name, scores in runs.items():
        after = _by_country(scores).reindex(before.index)
        slope = ((after - before) * away).sum() / (away**2).sum()
        tables.append(pd.DataFrame({"run": name, "spread": after.std(), "slope": slope}))
    table = pd.concat(tables).reset_index()
    here, there = (
        gap.reindex(pd.MultiIndex.from_frame(of[["run", "granularity"]])).to_numpy()
        for of in (table, table.assign(run=first))
    )
    columns = ["run", "granularity", "gap", "closed", "spread", "slope"]
    return table.assign(gap=here, closed=100 * (1 - here / there))[columns]


def composition_table(methods: Mapping[str, Cells], average: Average) -> pd.DataFrame:
    """Returns `gain_table` by persona and topic, rows of topic `ALL` last (Fig. 4).

    The methods' cells are of held-out personas only (the paper's: `survey.split.PAPER_PERSONAS`).
    """
    by_topic = gain_table(methods, average, ("persona", "topic"))
    overall = gain_table(methods, average, ("persona",)).assign(topic=ALL)
    return pd.concat([by_topic, overall[list(by_topic)]], ignore_index=True)


def _by_country(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns scores with countries in rows, granularities and their mean in columns."""
    table = scores[scores["country"] != ALL]
    table = table.pivot(index="country", columns="granularity", values="score")
    return table.assign(**{MEAN: table.mean(axis=1)})


def _runs(cells: Cells) -> Sequence[pd.DataFrame]:
    return [cells] if isinstance(cells, pd.DataFrame) else cells


def _gained(run: pd.DataFrame, first: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    if not np.array_equal(run[KEY].to_numpy(), first[KEY].to_numpy()):
        raise InputError(
            f"the runs {names[0]} and {names[1]} were not evaluated on the same cells; "
            "evaluate both with the same data, hold-out and seed"
        )
    gain = run["score"].to_numpy() - first["score"].to_numpy()
    # Both scores' errors come from the same respondents; at worst they have opposite signs.
    error = np.sqrt(run["variance"].to_numpy()) + np.sqrt(first["variance"].to_numpy())
    return run.assign(gain=gain, gain_variance=np.where(gain == 0, 0, error**2))
