"""Are all countries served alike (RQ2): tiers, gaps, gains, convergence; unseen personas (Fig. 4).

Functions of `scores` take a table with columns granularity, country and score, such as
`alignment.alignment_table` of one run or a published table, and compute plain means: countries in
a tier, then granularities. Rows `ALL` are left aside. `gap_table` has intervals, and takes cells.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ace_jax.evaluation.alignment import ALL
from ace_jax.evaluation.comparison import Cells, compared, gain_table, stacked
from ace_jax.evaluation.uncertainty import Average

# The paper's 14 countries: Western and developed, in transition, Africa. It does not say what tier
# another country would be in, so others have none and enter no gap.
TIERS = {
    **dict.fromkeys(("USA", "DEU", "GBR", "AUS", "NZL"), 1),
    **dict.fromkeys(("CHL", "MEX", "RUS", "IND", "JPN", "PHL"), 2),
    **dict.fromkeys(("EGY", "ETH", "NGA"), 3),
}
MEAN = "mean"


def untiered(scores: pd.DataFrame, tiers: Mapping[str, int] = TIERS) -> list[str]:
    """Returns the countries that have no tier, and so are in no gap."""
    return sorted(set(scores["country"]) - set(tiers) - {ALL})


def tier_scores(scores: pd.DataFrame, tiers: Mapping[str, int] = TIERS) -> pd.DataFrame:
    """Returns the mean score of each tier by granularity, and over granularities (`mean`).

    Columns granularity, tier, n_countries, score.
    """
    tier = scores["country"].map(tiers)
    known = scores[tier.notna()].assign(tier=tier.dropna().astype(int))
    groups = known.groupby(["granularity", "tier"], as_index=False)
    by = groups.agg(n_countries=("score", "size"), score=("score", "mean"))
    overall = by.groupby("tier", as_index=False).agg({"n_countries": "max", "score": "mean"})
    overall = overall.assign(granularity=MEAN)[list(by)]
    return pd.concat([by.astype({"granularity": object}), overall], ignore_index=True)


def tier_gap(scores: pd.DataFrame, tiers: Mapping[str, int] = TIERS) -> pd.DataFrame:
    """Returns tier 1 less tier 3 by granularity and over granularities: columns granularity, gap.

    Empty where one of the two tiers has no country.
    """
    table = tier_scores(scores, tiers).pivot(index="granularity", columns="tier", values="score")
    if not {1, 3} <= set(table):
        return pd.DataFrame({"granularity": [], "gap": []})
    return (table[1] - table[3]).rename("gap").dropna().reset_index()


def tier_gains(
    base: pd.DataFrame, trained: pd.DataFrame, tiers: Mapping[str, int] = TIERS
) -> pd.DataFrame:
    """Returns what each tier gains: columns granularity, tier, n_countries, base, trained, gain."""
    before, after = (tier_scores(scores, tiers) for scores in (base, trained))
    table = before.rename(columns={"score": "base"}).merge(
        after.drop(columns="n_countries").rename(columns={"score": "trained"})
    )
    return table.assign(gain=table["trained"] - table["base"])


def country_gap(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns the countries of highest and lowest score: columns granularity, best, worst, gap."""
    rows = []
    for granularity, of in scores[scores["country"] != ALL].groupby("granularity"):
        score = of.set_index("country")["score"]
        rows.append((granularity, score.idxmax(), score.idxmin(), score.max() - score.min()))
    return pd.DataFrame(rows, columns=["granularity", "best", "worst", "gap"])


def convergence(runs: Mapping[str, pd.DataFrame], tiers: Mapping[str, int] = TIERS) -> pd.DataFrame:
    """Returns whether runs bring countries together, compared with the first run.

    Args:
      runs: name -> scores.
      tiers: tier of each country.

    Returns:
      Columns run, granularity (and `mean`), gap (tier 1 less tier 3), closed (share of the first
      run's gap that is gone, 0-100), spread (standard deviation over countries) and slope (gain in
      points for each point that the first run scores more; below zero, weak countries gain most).
    """
    first = next(iter(runs.values()))
    tables = []
    for name, scores in runs.items():
        table = _spread(first, scores)
        for column, of in (("gap", scores), ("before", first)):
            gap = tier_gap(of, tiers).set_index("granularity")["gap"]
            table[column] = table["granularity"].map(gap).astype(float)
        table["closed"] = 100 * (1 - table["gap"] / table["before"])
        tables.append(table.assign(run=name))
    columns = ["run", "granularity", "gap", "closed", "spread", "slope"]
    return pd.concat(tables, ignore_index=True)[columns]


def gap_table(
    methods: Mapping[str, Cells],
    average: Average,
    *,
    tiers: Mapping[str, int] = TIERS,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns the gap between tiers 1 and 3 with intervals (module `averages`).

    Args:
      methods: as `comparison.gain_table` takes them.
      average: `nested` or `flat`.
      tiers: tier of each country.
      seed: of the permutations.

    Returns:
      Columns average, granularity (and `mean`), run, n_questions, gap, gap_low, gap_high, change
      (from the first method's gap; below zero, closer), change_low, change_high, p_value. Empty
      where one of the two tiers has no country.
    """
    side = {1: 1.0, 3: -1.0}
    tables = []
    for name, cells in stacked(methods).items():
        signs = cells["country"].map(tiers).map(side)
        cells = cells[signs.notna()].assign(side=signs)
        if cells["side"].nunique() < 2:
            continue
        for by, over in ((["granularity"], ("country",)), ([], ("granularity", "country"))):
            table = compared(cells, by, average, over=over, contrast="side", seed=seed)
            tables.append(table.assign(run=name, **({} if by else {"granularity": MEAN})))
    columns = {"score": "gap", "ci_low": "gap_low", "ci_high": "gap_high", "gain": "change"}
    columns |= {"gain_low": "change_low", "gain_high": "change_high"}
    names = ["average", "granularity", "run", "n_questions", *columns.values(), "p_value"]
    if not tables:
        return pd.DataFrame(columns=names)
    table = pd.concat(tables, ignore_index=True).rename(columns=columns)
    return table.assign(average=average)[names]


def composition_table(
    methods: Mapping[str, Cells], average: Average, *, seed: int = 0
) -> pd.DataFrame:
    """Returns how well personas that training never saw are answered for, by topic (Fig. 4).

    Args:
      methods: as `comparison.gain_table` takes them, of held-out personas only (column persona;
        the paper's are `survey.holdout.PAPER_PERSONAS`).
      average: `nested` or `flat`.
      seed: of the permutations.

    Returns:
      Columns of `gain_table` by persona and topic; rows of topic `ALL` after the others.
    """
    by_topic = gain_table(methods, average, ("persona", "topic"), seed=seed)
    overall = gain_table(methods, average, ("persona",), seed=seed).assign(topic=ALL)
    return pd.concat([by_topic, overall[list(by_topic)]], ignore_index=True)


def _spread(first: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Columns granularity (and `mean`), spread, slope."""
    key = ["granularity", "country"]
    both = first.loc[first["country"] != ALL, [*key, "score"]].rename(columns={"score": "before"})
    both = both.merge(scores[[*key, "score"]], on=key)
    overall = both.groupby("country", as_index=False)[["before", "score"]].mean()
    parts = [*both.groupby("granularity"), (MEAN, overall)]
    rows = []
    for granularity, of in parts:
        before, gain = of["before"].to_numpy(), (of["score"] - of["before"]).to_numpy()
        enough = len(of) > 1 and np.ptp(before) > 0
        slope = np.polyfit(before, gain, 1)[0] if enough else np.nan
        rows.append((granularity, of["score"].std(ddof=1), slope))
    return pd.DataFrame(rows, columns=["granularity", "spread", "slope"])
