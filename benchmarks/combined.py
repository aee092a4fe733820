"""How a table of averages does on unseen countries when a model moves it (docs/results.md).

    python benchmarks/combined.py --seen runs/eqls/train --unseen runs/eqls/held_out

Both are directories of `evaluate`, of one adapter: the cells that training saw, and those of
countries that it did not see.
"""

import argparse
from pathlib import Path

import pandas as pd

from ace_jax.evaluation.blocks import MODEL, block_table
from ace_jax.evaluation.combined import combined
from ace_jax.report.runs import read_runs
from ace_jax.survey.split import HeldOut

TABLES = ("persona", "main_effects")
SHOWN = ["run", "n_cells", "n_countries", "score", "country_slope", "country_slope_low"]
SHOWN += ["country_slope_high", "attributes_slope", "attributes_slope_low", "attributes_slope_high"]


def main() -> None:
    """Prints score and slopes of the model, the tables, and the model and a table together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seen", type=Path, required=True)
    parser.add_argument("--unseen", type=Path, required=True)
    given = parser.parse_args()
    seen, unseen = (read_runs(name, getattr(given, name))[0] for name in ("seen", "unseen"))
    new = unseen.predictions[~unseen.predictions["country"].isin(seen.predictions["country"])]
    found = combined(seen.predictions, new, [attribute.name for attribute in seen.attributes])
    cells = found.predictions
    p = {MODEL: unseen.predictions.set_index("cell")["p_model"]}
    for name, its in pd.read_parquet(given.unseen / "references.parquet").groupby("reference"):
        if name in TABLES:
            p[str(name)] = its.set_index("cell")["p"]
    runs = {name: [cells.assign(p_model=list(of.loc[cells["cell"]]))] for name, of in p.items()}
    runs[f"combined, weight {found.weight:.1f}"] = [cells]
    held_out = HeldOut(countries=tuple(cells["country"].unique()))
    table = block_table(runs, held_out, seen.attributes, min_n=10)
    print(table[SHOWN].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
