"""Pairs of cells that differ by one toggle, everything else equal (paper 3.2.3)."""

from itertools import combinations

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.personas import Attribute


def toggle_pairs(
    cells: pd.DataFrame, attributes: tuple[Attribute, ...], *, min_n: int
) -> pd.DataFrame:
    """Pairs the finest cells (all attributes named) along each attribute.

    An attribute of more than two levels is toggled between every two of them.

    Returned columns: `attribute` (its name), `cell_0` and `cell_1` (int64 row positions in
    `cells`; A=0, the earlier level, and A=1), `country`, `question_id`, `context` (int64,
    0-based). Both cells have n >= `min_n` respondents (paper: 10). A context's pairs are
    contiguous, contexts in the order in which they first appear in `cells`. Raises InputError if
    there is no pair.
    """
    pairs = _pairs(cells, attributes, min_n)
    if pairs.empty:
        names = ", ".join(attribute.name for attribute in attributes)
        raise InputError(
            f"no pair among {len(cells)} cells: none that name all of {names} and have "
            f"n >= {min_n} differ by one attribute only; use a larger survey or a smaller minimum"
        )
    pairs = pairs.sort_values("context", kind="stable", ignore_index=True)
    return pairs.assign(context=pd.factorize(pairs["context"])[0])


def count_pairs(
    cells: pd.DataFrame, attributes: tuple[Attribute, ...], *, min_n: int
) -> dict[int, int]:
    """Returns the number of pairs by granularity. (Training takes those of the finest.)"""
    return {
        granularity: sum(
            len(_pairs(cells[cells["granularity"] == granularity], chosen, min_n))
            for chosen in combinations(attributes, granularity)
        )
        for granularity in range(1, len(attributes) + 1)
    }


def mode(p: np.ndarray) -> int:
    """Returns the position of the most frequent option; of equals, the lowest (paper Eq. 13)."""
    return int(np.argmax(p))


def _pairs(cells: pd.DataFrame, attributes: tuple[Attribute, ...], min_n: int) -> pd.DataFrame:
    names = [attribute.name for attribute in attributes]
    keys = ["country", "question_id", "context"]
    kept = cells[["country", "question_id", *names]].assign(
        cell=np.arange(len(cells)),
        context=cells.groupby(["country", "question_id"], sort=False).ngroup(),
    )[cells[names].notna().all(axis=1) & (cells["n"] >= min_n)]
    parts = []
    for attribute in attributes:
        fixed = [*keys, *(name for name in names if name != attribute.name)]
        for levels in combinations(attribute.levels, 2):
            cell_0, cell_1 = (
                kept.loc[kept[attribute.name] == level, [*fixed, "cell"]] for level in levels
            )
            pairs = cell_0.merge(cell_1, on=fixed, suffixes=("_0", "_1"))
            parts.append(pairs.assign(attribute=attribute.name))
    return pd.concat(parts)[["attribute", "cell_0", "cell_1", *keys]]
