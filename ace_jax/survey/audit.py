"""Built cells beside the authors' released ones: under which rule do they agree best?"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Codebook, Threshold
from ace_jax.survey.dataset import Dataset

# How far a threshold is moved to either side of the codebook's own.
REACH = 2


def audit(
    build: Callable[[Mapping[str, float]], Dataset],
    codebook: Codebook,
    rules: Mapping[str, float],
    released: Dataset,
) -> pd.DataFrame:
    """Returns how well the cells agree under the rules given and with each threshold moved.

    Cells are the same if country, question and persona are. A question is known by its survey
    (the release's category; of the World Values Survey there is one) and its variable.

    Args:
      build: makes the dataset under some rules.
      codebook: whose thresholds are moved, one at a time.
      rules: those that hold but for the one moved.
      released: the authors' cells (`release_eval.read_eval`).

    Returns:
      A row a set of rules, the best first; columns rule, cells (in both), same_n (share of them
      with the same number of respondents), n_difference (mean of the absolute differences),
      distance (mean over cells of half the sum of absolute differences between the shares).

    Raises:
      InputError: no cell is in both.
    """
    rows = [
        {"rule": name, **_agreement(build(moved), released)}
        for name, moved in _variants(codebook, rules)
    ]
    table = pd.DataFrame(rows)
    return table.sort_values(["same_n", "distance"], ascending=[False, True], ignore_index=True)


def _variants(
    codebook: Codebook, rules: Mapping[str, float]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    yield "as given", rules
    for recode in codebook.recodes:
        if isinstance(recode.by, Threshold):
            key = f"{recode.attribute.name}.{recode.by.name}"
            given = rules.get(key, recode.by.at_least)
            for step in range(-REACH, REACH + 1):
                if step:
                    yield f"{key}={given + step:g}", {**rules, key: float(given + step)}


def _agreement(built: Dataset, released: Dataset) -> dict[str, int | float]:
    names = [attribute.name for attribute in released.attributes]
    keys = ["country", "question", *names]
    ours, theirs = (
        dataset.cells.assign(question=dataset.cells["question_id"].map(_variables(dataset)))[
            [*keys, "n", "p"]
        ].fillna(dict.fromkeys(names, ""))
        for dataset in (built, released)
    )
    both = ours.merge(theirs, on=keys, suffixes=("", "_released"))
    # Another wording of the options cannot be set beside this one.
    both = both[both["p"].map(len) == both["p_released"].map(len)]
    if both.empty:
        raise InputError(
            "--audit: no country, question and persona is both in the input and in the release; "
            "give the release's data/eval that was made of this survey"
        )
    shares = zip(both["p"], both["p_released"], strict=True)
    return {
        "cells": len(both),
        "same_n": float((both["n"] == both["n_released"]).mean()),
        "n_difference": float((both["n"] - both["n_released"]).abs().mean()),
        "distance": float(np.mean([np.abs(p - q).sum() / 2 for p, q in shares])),
    }


def _variables(dataset: Dataset) -> dict[str, str]:
    """Returns survey and variable by question_id: religion:v5@JPN and issp2018_v5 are the same."""
    table = dataset.questions
    survey = table["topic"].str.lower().str.replace(r"\W+", "_", regex=True)
    survey = survey.mask(table["source"].str.contains("wvs"), "wvs")
    variable = table["question_id"].str.replace(r"^.*[:_]|@.*$", "", regex=True).str.upper()
    return dict(zip(table["question_id"], survey + ":" + variable, strict=True))
