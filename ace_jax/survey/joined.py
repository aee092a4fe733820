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

    A survey's name is the last part of its path, or more parts where two are alike; it becomes the
    `source` of its questions and cells. Attributes are matched by name. Those that only some
    surveys have are left out: of such a survey only the cells that do not name them stay; its
    respondents are all in these. Every cell counts alike, whatever survey it is of. A question's id
    gets the survey's name before it (`NAME.ID`) in each survey where another has the id too.

    Raises InputError if two are the same survey, give an attribute other levels, have no attribute
    in common, or if no cell of one is left.
    """
    seen: dict[str, str] = {}
    for dataset in datasets:
        if (before := seen.setdefault(dataset.digest, dataset.path)) != dataset.path:
            raise InputError(f"data.path: {dataset.path} holds the same survey as {before}")
    attributes = _shared(datasets)
    shared = {one.name for one in attributes}
    names = _names([Path(dataset.path) for dataset in datasets])
    counts = pd.concat([dataset.questions["question_id"] for dataset in datasets]).value_counts()
    questions, cells, languages = [], [], dict[str, Any]()
    for name, dataset in zip(names, datasets, strict=True):
        ids = dataset.questions["question_id"]
        new = {each: f"{name}.{each}" for each in ids if counts[each] > 1}
        others = [one.name for one in dataset.attributes if one.name not in shared]
        kept = dataset.cells[dataset.cells[others].isna().all(axis=1)].drop(columns=others)
        if kept.empty:
            raise InputError(
                f"data.path: all cells of {dataset.path} name {', '.join(others)}, which another "
                "survey lacks; prepare it with coarser cells"
            )
        if any(SHRUNK in one.cells for one in datasets):
            kept = kept.assign(**{SHRUNK: dataset.learnt[kept.index]})
        questions.append(dataset.questions.assign(source=name, question_id=ids.replace(new)))
        cells.append(kept.assign(source=name, question_id=kept["question_id"].replace(new)))
        for language, said in dataset.manifest.get("languages", {}).items():
            words = languages.setdefault(language, {"questions": {}, "attributes": {}})
            words["questions"] |= {new.get(of, of): its for of, its in said["questions"].items()}
            words["attributes"] = said["attributes"] | words["attributes"]
    manifest: dict[str, Any] = {
        "source": "+".join(names),
        "attributes": {one.name: list(one.levels) for one in attributes},
        "inputs": [dataset.path for dataset in datasets],
        "languages": languages,
    }
    return Dataset(
        pd.concat(questions, ignore_index=True), pd.concat(cells, ignore_index=True), manifest
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of the paths that differ."""
    sizes = range(1, max(len(path.resolve().parts) for path in paths) + 1)
    ends = ([".".join(path.resolve().parts[-size:]) for path in paths] for size in sizes)
    return next(names for names in ends if len(set(names)) == len(names))


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
