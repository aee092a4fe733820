"""Several surveys as one, so that an adapter can learn from all that a user has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.survey.dataset import SHRUNK, Dataset
from ace_jax.survey.personas import Attribute, attributes_of


def joined(datasets: Sequence[Dataset]) -> Dataset:
    """Returns the questions and cells of several surveys in one dataset.

    Attributes are matched by name. Those that only some surveys have are left out: of these surveys
    the cells that do not name them stay, which hold the same respondents. Every cell counts alike,
    whatever survey it is of. A question's id gets the survey's name before it (`NAME.ID`) in each
    survey where another has the id too.

    Raises InputError if two are the same survey, give an attribute other levels, or have no
    attribute in common.
    """
    seen: dict[str, str] = {}
    for dataset in datasets:
        if (before := seen.setdefault(dataset.digest, dataset.path)) != dataset.path:
            raise InputError(f"data.path: {dataset.path} holds the same survey as {before}")
    attributes = _shared(datasets)
    names = {one.name for one in attributes}
    counts = pd.concat([dataset.questions["question_id"] for dataset in datasets]).value_counts()
    questions, cells = [], []
    for dataset in datasets:
        ids = dataset.questions["question_id"]
        new = {name: f"{Path(dataset.path).name}.{name}" for name in ids if counts[name] > 1}
        others = [one.name for one in dataset.attributes if one.name not in names]
        kept = dataset.cells[dataset.cells[others].isna().all(axis=1)].drop(columns=others)
        if any(SHRUNK in one.cells for one in datasets):
            kept = kept.assign(**{SHRUNK: dataset.learnt[kept.index]})
        questions.append(dataset.questions.assign(question_id=ids.replace(new)))
        cells.append(kept.assign(question_id=kept["question_id"].replace(new)))
    manifest: dict[str, Any] = {
        "source": "+".join(dataset.name for dataset in datasets),
        "attributes": {one.name: list(one.levels) for one in attributes},
        "inputs": [dataset.path for dataset in datasets],
    }
    return Dataset(
        pd.concat(questions, ignore_index=True), pd.concat(cells, ignore_index=True), manifest
    )


def _shared(datasets: Sequence[Dataset]) -> tuple[Attribute, ...]:
    """Returns the attributes that all surveys have, in the order of the first."""
    first, *others = datasets
    levels = {one.name: one.levels for one in first.attributes}
    for other in others:
        its = {one.name: one.levels for one in other.attributes}
        for name in levels.keys() & its.keys():
            if set(levels[name]) != set(its[name]):
                raise InputError(
                    f"data.path: {name} has the levels {', '.join(levels[name])} in {first.path} "
                    f"and {', '.join(its[name])} in {other.path}; prepare them with the same"
                )
        levels = {name: of for name, of in levels.items() if name in its}
    if not levels:
        paths = ", ".join(dataset.path for dataset in datasets)
        raise InputError(f"data.path: the surveys {paths} have no attribute in common")
    return attributes_of(levels)
