"""How a table of averages does on unseen countries when a model moves it (docs/results.md).

    python benchmarks/combined.py --seen runs/eqls/train --unseen runs/eqls/held_out

Both are directories of `evaluate`, of one adapter: the cells that training saw, and those of
countries that it did not see.
"""

import argparse
from pathlib import Path

import pandas as pd

from ace_jax.evaluation.alignment import Distributions, alignment_distances
from ace_jax.evaluation.combined import combined
from ace_jax.evaluation.slopes import products, slope_table
from ace_jax.report.runs import read_runs


def main() -> None:
    """Prints score and slopes of the model, the table and both together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seen", type=Path, required=True)
    parser.add_argument("--unseen", type=Path, required=True)
    given = parser.parse_args()
    seen, unseen = (read_runs(name, getattr(given, name))[0] for name in ("seen", "unseen"))
    new = unseen.predictions[~unseen.predictions["country"].isin(seen.predictions["country"])]
    names = [attribute.name for attribute in seen.attributes]
    found = combined(seen.predictions, new, names)
    references = pd.read_parquet(given.unseen / "references.parquet")
    table = references[references["reference"] == "persona"].set_index("cell")["p"]
    kept = found.predictions  # with `cell`, the row in predictions.parquet
    own = unseen.predictions.set_index("cell").loc[kept["cell"]]
    answers = {
        "model": own["p_model"].to_numpy(),
        "table (persona)": table.loc[kept["cell"]].to_numpy(),
        f"combined, weight {found.weight:.1f}": kept["p_model"].to_numpy(),
    }
    print(f"{len(kept)} cells of {kept['country'].nunique()} unseen countries")
    for name, p in answers.items():
        predictions = kept.assign(p_model=p)
        slopes = slope_table(products(predictions, seen.attributes, 10)).query("country == 'ALL'")
        shown = ", ".join(
            f"{row.toggle} {row.slope:.2f} [{row.slope_low:.2f}, {row.slope_high:.2f}]"
            for row in slopes.itertuples()
            if row.toggle in ("attributes", "country")
        )
        print(f"{name}: score {score(predictions):.2f}; slopes: {shown}")


def score(predictions: pd.DataFrame) -> float:
    """Returns the mean score (0-100); countries count alike."""
    distance = alignment_distances(
        Distributions.of(predictions["p_data"]), Distributions.of(predictions["p_model"])
    )
    by_country = pd.Series(100 * (1 - distance)).groupby(predictions["country"].to_numpy()).mean()
    return float(by_country.mean())


if __name__ == "__main__":
    main()
