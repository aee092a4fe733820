"""A country's answer from the answers of its personas, weighed by how many people each stands for.

Margins are a table with the columns country, attributes, and `count` or `share`. Rows that name
the same attributes make one margin; rows that name all of them are the full cross. Several margins
are raked (iterative proportional fitting, Deming and Stephan 1940): attributes are taken to be
independent but for what the margins say.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.errors import InputError, check_known
from ace_jax.evaluation.alignment import Distributions, alignment_distances
from ace_jax.files import read_rows

SIZES = ("count", "share")
ROUNDS, CLOSE = 1000, 1e-9

Joint = Float[np.ndarray, "..."]


def read_margins(path: Path) -> pd.DataFrame:
    """Reads a CSV of margins: country, attributes (missing where not named) and weight."""
    rows = read_rows(path, ["country"])
    table = pd.DataFrame(list(rows.values()), index=list(rows))
    sizes = [name for name in SIZES if name in table]
    if len(sizes) != 1:
        raise InputError(f"{path}: needs one column count or share, beside country and attributes")
    weight = pd.to_numeric(table.pop(sizes[0]), errors="coerce")
    if len(bad := table.index[~(np.isfinite(weight) & (weight >= 0))]):
        raise InputError(f"{path}: row {bad[0]}: {sizes[0]} is not a number of 0 or more")
    if len(twice := table.index[table.duplicated()]):
        raise InputError(f"{path}: row {twice[0]}: names the group of another; take one out")
    return table.replace("", None).assign(weight=weight)


def persona_weights(
    margins: pd.DataFrame, countries: Sequence[str], attributes: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Returns the share of each persona in its country: country, attributes, weight (sum 1).

    Args:
      margins: of `read_margins`; the attributes it names are those of the personas.
      countries: those asked for.
      attributes: known levels by attribute; empty: the margins' own.

    Raises:
      InputError: a country without margins, an unknown attribute or level, a level or cell that
        is missing, weights of sum 0, margins that contradict one another, or no country.
    """
    names = [str(name) for name in margins if name not in ("country", "weight")]
    if not countries:
        raise InputError("--country: name the countries whose margins are to be used")
    if not names:
        raise InputError("margins: name no attribute; give a column an attribute")
    for name in names:
        if attributes:
            check_known(name, attributes, "margins: attribute")
            for level in margins[name].dropna().unique():
                check_known(level, attributes[name], f"margins: level of {name}")
    tables = []
    for country in countries:
        check_known(country, margins["country"], "margins: country")
        its = margins[margins["country"] == country]
        levels = {name: [*attributes.get(name, its[name].dropna().unique())] for name in names}
        weight = _weights(its, levels, f"margins of {country}")
        grid = pd.MultiIndex.from_product(list(levels.values()), names=names)
        tables.append(grid.to_frame(index=False).assign(weight=weight.reshape(-1)))
        tables[-1].insert(0, "country", country)
    return pd.concat(tables, ignore_index=True)


def national_answers(answers: pd.DataFrame, weights: pd.DataFrame) -> pd.DataFrame:
    """Returns each country's answer: the weighted mean of its personas', and their plain mean.

    `answers` are those of every persona of `weights` (columns as `Asked.table`). Columns are those
    that say who is asked what, without attributes, then option, p, p_unweighted and n_personas.
    """
    names = [name for name in weights if name not in ("country", "weight")]
    keys = [name for name in ("model", "country", "question_id") if name in answers]
    # Who is named by other attributes too is no persona of the margins.
    who = answers.columns[: answers.columns.get_loc("question_id")]
    others = who.drop([name for name in (*keys, *names) if name in who])
    people = answers[answers[others].isna().all(axis=1)]
    joined = people.merge(weights, on=["country", *names], validate="many_to_one")
    weighed = joined.assign(weighed=joined["p"] * joined["weight"])
    by = weighed.groupby([*keys, "option"], sort=False)
    table = by.agg(
        p=("weighed", "sum"), total=("weight", "sum"), p_unweighted=("p", "mean"), n=("p", "size")
    )
    table["p"] /= table.pop("total")
    return table.rename(columns={"n": "n_personas"}).reset_index()


def national_table(predictions: pd.DataFrame, granularity: int) -> pd.DataFrame:
    """Returns how far a model's national answers are from the survey's, by country and question.

    The survey's answer is the mean of its finest cells, weighed by their respondents. The model's
    is that of its answers, weighed alike, and their plain mean.

    Args:
      predictions: cells and answers (`answers.predictions_table`).
      granularity: of the finest cells.

    Returns:
      Columns country, question_id, n_cells, n (respondents), distance (alignment distance, Eq. 15,
      of the weighed answer) and distance_unweighted; no row where there are no finest cells.
    """
    finest = predictions[predictions["granularity"] == granularity]
    rows = []
    for (country, question), its in finest.groupby(["country", "question_id"], sort=False):
        data, model = (np.stack(list(its[name])) for name in ("p_data", "p_model"))
        weight = its["n"].to_numpy() / its["n"].sum()
        answers = np.stack([weight @ data, weight @ model, model.mean(axis=0)])
        survey, *ours = (Distributions(p[None], np.array([len(p)])) for p in answers)
        distances = [float(alignment_distances(survey, each)[0]) for each in ours]
        rows.append([country, question, len(its), int(its["n"].sum()), *distances])
    columns = ["country", "question_id", "n_cells", "n", "distance", "distance_unweighted"]
    return pd.DataFrame(rows, columns=columns)


def _weights(its: pd.DataFrame, levels: Mapping[str, Sequence[str]], where: str) -> Joint:
    """Returns the joint shares of the levels, with an axis an attribute."""
    named = its[list(levels)].notna()
    targets = {}
    for which, rows in its.groupby([named[name] for name in levels]):
        chosen = [name for name, is_named in zip(levels, which, strict=True) if is_named]
        if not chosen:
            raise InputError(f"{where}: a row names no attribute")
        grid = pd.MultiIndex.from_product([levels[name] for name in chosen], names=chosen)
        sums = rows.set_index(pd.MultiIndex.from_frame(rows[chosen]))["weight"]
        sums = sums.groupby(level=chosen).sum().reindex(grid)
        if len(absent := grid[sums.isna()]):
            lacking = ", ".join("/".join(cell) for cell in absent)
            raise InputError(f"{where}: miss {lacking}; give 0 where there is nobody")
        if sums.sum() <= 0:
            raise InputError(f"{where}: those of {', '.join(chosen)} sum to nothing")
        shape = [len(levels[name]) if name in chosen else 1 for name in levels]
        targets[tuple(chosen)] = (sums / sums.sum()).to_numpy().reshape(shape)
    if lacking := ", ".join(name for name in levels if not named[name].any()):
        raise InputError(f"{where}: say nothing of {lacking}; leave its column out, or fill it in")
    return _raked(list(targets.values()), tuple(map(len, levels.values())), where)


def _raked(targets: list[Joint], shape: tuple[int, ...], where: str) -> Joint:
    """Returns the joint shares with the given margins; their axes of size 1 are summed over."""
    joint = np.full(shape, 1 / np.prod(shape))
    for _ in range(ROUNDS):
        moved = 0.0
        for target in targets:
            axes = tuple(axis for axis, size in enumerate(target.shape) if size < shape[axis])
            has = joint.sum(axis=axes, keepdims=True)
            moved = max(moved, float(np.abs(has - target).max()))
            joint = joint * np.divide(target, has, out=np.zeros_like(has), where=has > 0)
        if moved < CLOSE:
            return joint
    raise InputError(f"{where}: contradict one another; no shares have all of these margins")
