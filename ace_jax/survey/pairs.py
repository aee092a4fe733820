"""Pairs of cells that differ by one toggle, everything else equal (paper 3.2.3)."""

from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.errors import InputError
from ace_jax.survey.personas import Attribute

KEYS = ["country", "question_id", "context", "named"]
COUNTRY = "country"  # the toggle that is no attribute of a persona


def toggle_pairs(
    cells: pd.DataFrame,
    attributes: tuple[Attribute, ...],
    *,
    min_n: int,
    granularity: int | None = None,
    countries: bool = False,
) -> pd.DataFrame:
    """Pairs the cells of one granularity along each attribute they name.

    An attribute of more than two levels is toggled between every two of them. With `countries`,
    the country is toggled too: every two countries, in alphabetical order.

    Args:
      cells: of a dataset, or a part of them.
      attributes: those of its personas.
      min_n: respondents that both cells have at least (paper: 10).
      granularity: how many attributes the cells name; None: all of them.
      countries: whether pairs between countries follow those of the attributes.

    Returned columns: `attribute` (its name, or COUNTRY), `cell_0` and `cell_1` (int64 row positions
    in `cells`; A=0, the earlier level, and A=1), `country` and `country_1` (of the two cells),
    `question_id`, `context` (int64, 0-based, of cell_0), `named` (int64, a number for each set of
    attributes that personas name). A context's pairs are contiguous, contexts in the order in which
    they first appear in `cells`. Raises InputError if there is no pair.
    """
    granularity = granularity or len(attributes)
    pairs = _pairs(cells, attributes, min_n, granularity, countries)
    if pairs.empty:
        names = ", ".join(attribute.name for attribute in attributes)
        which = "all" if granularity == len(attributes) else granularity
        raise InputError(
            f"no pair among {len(cells)} cells: none that name {which} of {names} and have "
            f"n >= {min_n} differ by one attribute only; use a larger survey or a smaller minimum"
        )
    pairs = pairs.sort_values("context", kind="stable", ignore_index=True)
    return pairs.assign(context=pd.factorize(pairs["context"])[0])


def count_pairs(
    cells: pd.DataFrame, attributes: tuple[Attribute, ...], *, min_n: int
) -> dict[int, int]:
    """Returns the number of pairs by granularity. (Training takes those of the finest.)"""
    return {
        granularity: len(_pairs(cells, attributes, min_n, granularity, False))
        for granularity in range(1, len(attributes) + 1)
    }


def toggle_weights(toggle: pd.Series) -> Float[np.ndarray, "pairs"]:
    """Returns a weight for each pair, of mean 1.

    All attributes have the same sum, and the country has as much as they have together.
    """
    counts = toggle.value_counts()
    shares = pd.Series(1.0, counts.index)
    if COUNTRY in shares and len(shares) > 1:
        shares[COUNTRY] = len(shares) - 1
    return toggle.map(len(toggle) * shares / shares.sum() / counts).to_numpy(np.float64)


def mode(p: np.ndarray) -> int:
    """Returns the position of the most frequent option; of equals, the lowest (paper Eq. 13)."""
    return int(np.argmax(p))


def _pairs(
    cells: pd.DataFrame,
    attributes: tuple[Attribute, ...],
    min_n: int,
    granularity: int,
    countries: bool,
) -> pd.DataFrame:
    names = [attribute.name for attribute in attributes]
    table = cells[["country", "question_id", *names]].assign(
        cell=np.arange(len(cells)),
        context=cells.groupby(["country", "question_id"], sort=False).ngroup(),
        named=cells[names].notna().to_numpy() @ 2 ** np.arange(len(names)),
    )
    table = table[(cells["n"] >= min_n) & (cells[names].notna().sum(axis=1) == granularity)]
    parts = []
    for attribute in attributes:
        # A missing level equals a missing one: cells of a pair name the same attributes.
        fixed = [*KEYS, *(name for name in names if name != attribute.name)]
        for levels in combinations(attribute.levels, 2):
            ends = (table.loc[table[attribute.name] == level, [*fixed, "cell"]] for level in levels)
            pairs = next(ends).merge(next(ends), on=fixed, suffixes=("_0", "_1"))
            parts.append(pairs.assign(attribute=attribute.name, country_1=pairs["country"]))
    if countries:
        alike = table.merge(table, on=["question_id", "named", *names], suffixes=("_0", "_1"))
        alike = alike[alike["country_0"] < alike["country_1"]]
        of_first = {"country_0": "country", "context_0": "context"}
        parts.append(alike.rename(columns=of_first).assign(attribute=COUNTRY))
    return pd.concat(parts, ignore_index=True)[
        ["attribute", "cell_0", "cell_1", *KEYS, "country_1"]
    ]
