"""From a survey's answers to its dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ace_jax.survey.cells import aggregate
from ace_jax.survey.codebook import with_rules
from ace_jax.survey.dataset import Dataset, question_table
from ace_jax.survey.estimators import main_effects, posterior
from ace_jax.survey.manifest import count_cells, count_respondents, make_manifest
from ace_jax.survey.respondents import complete_cases, from_table
from ace_jax.survey.selection import Raw


def build(
    raw: Raw, paths: Sequence[Path], rules: Mapping[str, float], weights: str | None = None
) -> Dataset:
    """Aggregates respondents to cells.

    Args:
      raw: the survey's answers (`readers.sources.read`).
      paths: the files that it read, for the manifest.
      rules: thresholds to move, such as `{"education.college": 4}`.
      weights: the column of survey weights; None gives every respondent weight 1.

    Raises InputError for a rule or a column that is not there, and for codes that the codebook
    does not declare.
    """
    raw = replace(raw, codebook=with_rules(raw.codebook, rules))
    everyone = from_table(raw.table, raw.codebook, weights)
    complete = complete_cases(everyone)
    cells = aggregate(complete)
    counts = count_respondents(everyone, complete) | count_cells(cells, everyone.attributes)
    manifest = make_manifest(raw, paths, weights) | {"counts": counts}
    return Dataset(question_table(everyone.questions), cells, manifest)


def with_shrunk_cells(dataset: Dataset) -> Dataset:
    """Returns the dataset with `p_shrunk` beside the raw shares.

    The manifest records how many respondents the prior of each question is worth.
    """
    prior = main_effects(dataset.cells, dataset.attributes)
    estimates = posterior(dataset.cells, dataset.attributes, prior)
    cells = dataset.cells.assign(p_shrunk=pd.Series(estimates, dataset.cells.index))
    estimator = {"estimator": "shrunk", "prior_respondents": prior.strength}
    return replace(dataset, cells=cells, manifest=dataset.manifest | estimator)
