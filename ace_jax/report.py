"""Sets evaluated runs side by side: scores by granularity, effect distances and a picture.

    python -m ace_jax.report --run base=runs/base --run trained=runs/trained --output runs/report

Writes scores.csv (scores of every run, and its gains over the first), effects.csv and scores.png
into OUTPUT.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ace_jax import command
from ace_jax.analysis.alignment import score_table
from ace_jax.analysis.comparison import effect_distances, score_gains
from ace_jax.analysis.figures import score_by_granularity
from ace_jax.command import say
from ace_jax.errors import InputError
from ace_jax.survey.personas import attributes_of


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the whole job; see the module's docstring."""
    options = _parse(argv)
    directories = dict(_named(argument) for argument in options.run)
    runs = {name: pd.read_parquet(out / "predictions.parquet") for name, out in directories.items()}
    first = json.loads((next(iter(directories.values())) / "run.json").read_text())
    attributes = attributes_of(first["attributes"])
    gains = score_gains(runs, attributes, first["seed"])
    effects = effect_distances(runs, attributes, first["data"]["min_n"])
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    gains.to_csv(output / "scores.csv", index=False)
    effects.to_csv(output / "effects.csv", index_label="attribute")
    tables = {name: score_table(predictions, first["seed"]) for name, predictions in runs.items()}
    score_by_granularity(tables, output / "scores.png")
    print("Alignment score (0-100) by persona granularity, mean over countries:\n")
    print(_side_by_side(gains))
    print("\nDistance between the model's and the survey's effects (lower is better):\n")
    print(effects.to_string(float_format="{:.4f}".format))
    say(f"\ntables and picture: {output}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run",
        action="append",
        required=True,
        metavar="NAME=OUT",
        help="a name and what evaluate wrote; the first run is the one to compare with",
    )
    parser.add_argument("--output", required=True, help="directory; made if needed")
    return parser.parse_args(argv)


def _named(argument: str) -> tuple[str, Path]:
    name, equals, directory = argument.partition("=")
    if not (name and equals and directory):
        raise InputError(f"--run {argument}: write NAME=OUT, for example base=runs/base")
    for file in ("predictions.parquet", "run.json"):
        if not Path(directory, file).is_file():
            raise InputError(f"{directory}: {file} is missing; run ace_jax.evaluate first")
    return name, Path(directory)


def _side_by_side(gains: pd.DataFrame) -> str:
    """One line a granularity: every run's score, and the later ones' gains with intervals."""
    names = list(gains["run"].unique())
    lines = []
    for granularity, rows in gains.groupby("granularity"):
        line = {"G": granularity, "cells": rows["n_cells"].iloc[0]}
        for name, row in rows.set_index("run").loc[names].iterrows():
            line[str(name)] = f"{row['score']:.1f}"
            if name != names[0]:
                # Where there is one question only, there is no interval.
                known = "" if pd.isna(row["gain_low"]) else " [{gain_low:+.1f}, {gain_high:+.1f}]"
                line[f"gain of {name} (95 %)"] = ("{gain:+.1f}" + known).format_map(row)
        lines.append(line)
    return pd.DataFrame(lines).to_string(index=False)


if __name__ == "__main__":
    command.run(main)
