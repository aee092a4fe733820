"""The audit: how much a score depends on the form of the prompt.

The same model answers the same cells in other forms: options in reverse order, letters instead of
numbers as labels, persona and question in the other order. A model that answers the question and
not its form gives the same distributions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from ace_jax.evaluation.alignment import score_table
from ace_jax.evaluation.answers import Answers, predictions_table
from ace_jax.evaluation.distributions import Distributions, alignment_distances
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.prompts.encode import PromptStyle, PromptText, render_cells
from ace_jax.prompts.template import STYLES
from ace_jax.survey.dataset import Dataset

UNALTERED = "unaltered"
ORDERS = ("persona_first", "question_first")


@dataclass(frozen=True)
class Variant:
    """A form of the prompt.

    Attributes:
      style: template and option labels.
      reverse: list the options from last to first; labels keep their order.
    """

    style: PromptStyle
    reverse: bool = False

    def texts(self, cells: pd.DataFrame, dataset: Dataset) -> list[PromptText]:
        """Returns the prompt of each cell, in order."""
        if self.reverse:
            turned = dataset.questions["option_labels"].map(lambda texts: texts[::-1])
            dataset = replace(dataset, questions=dataset.questions.assign(option_labels=turned))
        return render_cells(cells, dataset, self.style)

    def in_order(self, answers: Answers) -> Answers:
        """Returns the answers in the survey's order of options."""
        return replace(answers, p=[p[::-1] for p in answers.p]) if self.reverse else answers


def alterations(style: PromptStyle) -> dict[str, Variant]:
    """Returns other forms by name; each differs from `style` in one respect.

    Args:
      style: as configured.
    """
    labels = [other for other in STYLES if other != style.option_style]
    orders = [order for order in ORDERS if order != style.template.name]
    return {
        "reversed_options": Variant(style, reverse=True),
        **{f"{other}_labels": Variant(replace(style, option_style=other)) for other in labels},
        **{
            order: Variant(PromptStyle.of(order, style.option_style, style.chat))
            for order in orders
        },
    }


def audit_table(cells: pd.DataFrame, answers: Mapping[str, Answers]) -> pd.DataFrame:
    """Returns the score over all countries by variant and granularity, and how far answers moved.

    Args:
      cells: those that the model answered.
      answers: by variant, UNALTERED among them.

    Returns:
      Columns variant, granularity, n_cells, n_questions, score, ci_low, ci_high (as in the rows ALL
      of `score_table`), moved (mean alignment distance from the unaltered answers) and option_mass
      (mean).
    """
    p = {
        name: Distributions.of(pd.Series(given.p, dtype=object)) for name, given in answers.items()
    }
    tables = []
    for name, given in answers.items():
        moved = alignment_distances(p[name], p[UNALTERED])
        predictions = predictions_table(cells, given).assign(moved=moved)
        scores = score_table(predictions)
        means = predictions.groupby(["granularity", "country"])[["moved", "option_mass"]].mean()
        means = means.groupby("granularity").mean().reset_index()
        overall = scores[scores["country"] == ALL].drop(columns="country")
        tables.append(overall.merge(means, on="granularity").assign(variant=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["variant", *table.columns.drop("variant")]]
