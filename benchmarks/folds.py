"""What a method does on every question of a survey, each held out from one of its adapters.

    python benchmarks/folds.py --output runs/eqls/folds.csv runs/eqls/fold{1,2,3,4,5}-0/held_out

The directories are those of `evaluate`, of adapters that held out fold:1/5, fold:2/5 and so on. The
table has the columns of a report's blocks.csv, for cells whose question training had not seen. Two
more runs join the model with tables: its differences on the level of `mean`, and the average of
these answers and `mean_nearest`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.blocks import MODEL, block_table
from ace_jax.evaluation.combined import levelled
from ace_jax.report.runs import Run, read_runs, reference_runs
from ace_jax.survey.split import HeldOut


def pooled(folds: Sequence[Run]) -> pd.DataFrame:
    """Returns the blocks of cells whose question one of the folds held out, for all folds together.

    Raises InputError if two folds held out the same question, or other countries.
    """
    held_out = [
        HeldOut(**{unit: tuple(ids) for unit, ids in fold.identity["held_out"].items()})
        for fold in folds
    ]
    questions = [question for of in held_out for question in of.questions]
    if len(set(questions)) < len(questions):
        raise InputError("two folds held out the same question; give each fold once")
    if len({of.countries for of in held_out}) > 1:
        raise InputError("the folds held out different countries; give folds of one study")
    tables: dict[str, list[pd.DataFrame]] = {}
    for fold, of in zip(folds, held_out, strict=True):
        cells = fold.predictions
        own = replace(fold, predictions=cells[cells["question_id"].isin(of.questions)])
        found = {MODEL: own, **{name: run for name, (run, *_) in reference_runs(own).items()}}
        for name, run in found.items():
            tables.setdefault(name, []).append(run.predictions)
        if "mean_nearest" in found:
            means, near = (found[name].predictions["p_model"] for name in ("mean", "mean_nearest"))
            level = levelled(own.predictions, means)
            both = [np.mean(each, axis=0) for each in zip(level["p_model"], near, strict=True)]
            tables.setdefault(f"mean + {MODEL}", []).append(level)
            tables.setdefault(f"mean_nearest + {MODEL}", []).append(level.assign(p_model=both))
    whole = HeldOut(tuple(questions), held_out[0].countries)
    runs = {name: [pd.concat(of, ignore_index=True)] for name, of in tables.items()}
    min_n = int(folds[0].identity["data"]["min_n"])
    return block_table(runs, whole, folds[0].attributes, min_n)


def main() -> None:
    """Writes the table and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folds", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    table = pooled([read_runs(str(path), path)[0] for path in given.folds])
    table.to_csv(given.output, index=False, float_format="%.6g")
    shown = [name for name in table if "correlation" not in name]
    print(table[shown].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
