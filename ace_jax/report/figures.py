"""The pictures that `evaluate` and `prepare` write, as PNG."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ace_jax.evaluation.distributions import Distributions, alignment_distances
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.report.paper_style import COLUMN, drawn, heatmap, looks_of, score_lines
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.pairs import count_pairs, toggle_pairs
from ace_jax.survey.personas import Attribute


def score_by_granularity(runs: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draws the alignment score over all countries against granularity, one line a run.

    Args:
      runs: name -> table of `alignment.score_table`.
      path: of the PNG.
    """
    tables = [table[table["country"] == ALL].assign(run=name) for name, table in runs.items()]
    scores = pd.concat(tables, ignore_index=True)
    percent = ["score", "ci_low", "ci_high"]
    scores[percent] *= 100
    with drawn(path, (1.3 * COLUMN, 3.2), ("png",)) as (_, [[axes]]):
        score_lines(axes, scores, looks_of(list(runs)))
        axes.set_title("Alignment with the survey, 95 % intervals over questions")
        axes.legend()


def effect_sizes(dataset: Dataset, path: Path) -> None:
    """Draws how far each attribute moves answers, by topic (as the paper's Fig. 5).

    A field is the mean distance (0-100) between the answers of two levels of the attribute, with
    nothing else named (G = 1), over countries and questions. It includes sampling noise, more so
    where few respondents answered.

    Args:
      dataset: cells and topics.
      path: of the PNG.
    """
    topic = dataset.questions.set_index("question_id")["topic"]
    columns = {
        attribute.name: _distances(dataset, attribute).groupby(topic).mean()
        for attribute in dataset.attributes
    }
    table = pd.DataFrame(columns).reindex(topic.drop_duplicates())
    highest = np.nanmax(table.to_numpy())
    size = (2.4 + 0.6 * len(columns), 1.2 + 0.25 * len(table))
    with drawn(path, size, ("png",)) as (figure, [[axes]]):
        image = heatmap(axes, table, highest)
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            colour = "black" if value > 0.6 * highest else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
        axes.set_title("How far an attribute moves answers")
        figure.colorbar(image, label="distance of answers (0-100)")


def _distances(dataset: Dataset, attribute: Attribute) -> pd.Series:
    """Returns the mean distance by question_id, over countries and pairs of levels at G = 1."""
    cells = dataset.cells[dataset.cells["granularity"] == 1].reset_index(drop=True)
    if not count_pairs(cells, (attribute,), min_n=1)[1]:
        return pd.Series(dtype=float)
    pairs = toggle_pairs(cells, (attribute,), min_n=1)
    answers = Distributions.of(cells["p"])
    ends = (answers.take(pairs[end].to_numpy()) for end in ("cell_0", "cell_1"))
    distance = pd.Series(100 * alignment_distances(*ends))
    return distance.groupby(pairs["question_id"]).mean()
