"""What a score should not depend on, and how much it does.

The same cells are put to the same model in other ways: options in reverse order, labelled with
letters for numbers, persona and question in the other order. A model that answers a question, not
its form, gives the same distributions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from ace_jax.evaluation.alignment import alignment_distance, score_table
from ace_jax.evaluation.answers import Answers, predictions_table
from ace_jax.prompts.encode import PromptStyle, PromptText, render_cells
from ace_jax.prompts.template import STYLES
from ace_jax.survey.dataset import Dataset

UNALTERED = "unaltered"
ORDERS = ("persona_first", "question_first")


@dataclass(frozen=True)
class Variant:
    """A way to put cells to a model.

    Attributes:
      style: template and option labels.
      reverse: list the options from the last to the first; labels keep their order.
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
        """Returns the answers by the survey's order of options."""
        return replace(answers, p=[p[::-1] for p in answers.p]) if self.reverse else answers


def alterations(style: PromptStyle) -> dict[str, Variant]:
    """Returns other ways to ask, by name; each differs from `style` in one thing.

    Args:
      style: as the config has it.
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
    """Returns, by variant and granularity, the score over all countries and what moved.

    Args:
      cells: those that were put to the model.
      answers: by variant, UNALTERED among them.

    Returns:
      Columns variant, granularity, n_cells, score, ci_low, ci_high (as `score_table` has them in
      its rows ALL), moved (mean of W1 / (K - 1) between a cell's answers and the unaltered ones)
      and option_mass (mean).
    """
    tables = []
    for name, given in answers.items():
        moved = map(alignment_distance, given.p, answers[UNALTERED].p)
        predictions = predictions_table(cells, given).assign(moved=list(moved))
        scores = score_table(predictions)
        means = predictions.groupby(["granularity", "country"])[["moved", "option_mass"]].mean()
        means = means.groupby("granularity").mean().reset_index()
        overall = scores[scores["country"] == "ALL"].drop(columns="country")
        tables.append(overall.merge(means, on="granularity").assign(variant=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["variant", *table.columns.drop("variant")]]
