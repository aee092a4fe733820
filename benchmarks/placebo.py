"""Makes a placebo of a survey: true answers under labels that are drawn anew for each question.

    python benchmarks/placebo.py --survey eqls2011 --seed 0 --output runs/eqls/placebo_data

Within each question the countries change places, and so do the levels of each attribute. What an
adapter learns of it says nothing of the true survey: slopes on the true cells are around 0.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ace_jax import load_survey
from ace_jax.survey.dataset import Dataset, write_dataset


def permuted(dataset: Dataset, seed: int) -> Dataset:
    """Returns the dataset with countries and levels renamed at random within each question."""
    generator = np.random.default_rng(seed)
    levels = {one.name: list(one.levels) for one in dataset.attributes}
    levels["country"] = sorted(dataset.cells["country"].unique())

    def renamed(cells: pd.DataFrame) -> pd.DataFrame:
        names = {
            of: dict(zip(was, generator.permutation(was), strict=True))
            for of, was in levels.items()
        }
        return cells.assign(**{of: cells[of].map(new) for of, new in names.items()})

    groups = [renamed(cells) for _, cells in dataset.cells.groupby("question_id", sort=False)]
    cells = pd.concat(groups, ignore_index=True)
    return replace(dataset, cells=cells, manifest={**dataset.manifest, "placebo_seed": seed})


def main() -> None:
    """Writes the DATASET."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--survey", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    write_dataset(permuted(load_survey(given.survey), given.seed), given.output)


if __name__ == "__main__":
    main()
