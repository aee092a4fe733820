"""How much of the survey's measured differences is true: 1 - sum v / sum d^2 (docs/estimators.md).

python benchmarks/reliability.py
"""

import numpy as np
import pandas as pd

import ace_jax as ace
from ace_jax.evaluation.alignment import Distributions
from ace_jax.survey.estimators import share_variance
from ace_jax.survey.pairs import COUNTRY, toggle_pairs


def main() -> None:
    """Prints a row a survey, granularity and kind of toggle."""
    rows = []
    for name, countries in (("gss2018", False), ("eqls2011", True)):
        survey = ace.load_survey(name)
        data = Distributions.of(survey.cells["p"])
        shares = data.cumulative
        variance = share_variance(shares, survey.cells["effective_n"].to_numpy(np.float64))
        for granularity in (1, len(survey.attributes)):
            pairs = toggle_pairs(
                survey.cells,
                survey.attributes,
                min_n=10,
                granularity=granularity,
                countries=countries,
            )
            zero, one = pairs["cell_0"].to_numpy(), pairs["cell_1"].to_numpy()
            moved, noise = shares[one] - shares[zero], variance[one] + variance[zero]
            of_country = (pairs["attribute"] == COUNTRY).to_numpy()
            for kind, these in (("attributes", ~of_country), ("country", of_country)):
                if not these.any():
                    continue
                unit = pairs[these].groupby(["question_id", "attribute"]).ngroup().to_numpy()
                mean, error = _means(moved[these], noise[these], unit)
                rows.append(
                    {
                        "survey": name,
                        "G": granularity,
                        "toggle": kind,
                        "pairs": int(these.sum()),
                        "a pair": 1 - noise[these].sum() / (moved[these] ** 2).sum(),
                        "a question": np.nan if kind == "country" else 1 - error / mean,
                    }
                )
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))


def _means(moved: np.ndarray, noise: np.ndarray, unit: np.ndarray) -> tuple[float, float]:
    """Returns the sum of squares of the units' mean effects, and that of their sampling errors."""
    count = np.bincount(unit)[:, None]
    mean = pd.DataFrame(moved).groupby(unit).sum().to_numpy() / count
    error = pd.DataFrame(noise).groupby(unit).sum().to_numpy() / count**2
    return float((mean**2).sum()), float(error.sum())


if __name__ == "__main__":
    main()
