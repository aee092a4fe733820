"""From a survey's answers to its dataset, and the manifest that says how."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax import __version__
from ace_jax.errors import InputError
from ace_jax.files import sha256_of
from ace_jax.survey.cells import aggregate, complete_cases, from_table
from ace_jax.survey.codebook import Codebook, describe, with_rules
from ace_jax.survey.dataset import Dataset, question_table
from ace_jax.survey.estimators import shrunk
from ace_jax.survey.flags import flags_of, question_counts
from ace_jax.survey.pairs import count_pairs
from ace_jax.survey.personas import Attribute
from ace_jax.survey.readers.tables import Raw

COMPLETE = "level of every attribute known"
MIN_N = 10  # the paper's


def build(
    raw: Raw, paths: Sequence[Path], rules: Mapping[str, float | None], weights: str | None = None
) -> Dataset:
    """Aggregates respondents to cells.

    `raw` is what `sources.read` made of the files `paths`; `rules` move thresholds, such as
    `{"education.college": 4}`; `weights` is as of `from_table`. The manifest has `by_question`
    and `flags`, as `flags` makes them. Raises InputError for a file that is there twice, for an
    attribute whose column is not there, for respondents that leave no cell, and as `with_rules`
    and `from_table` do.
    """
    # By name, so that the order on the command line does not matter.
    inputs = [(path, sha256_of([path])) for path in sorted(paths, key=lambda path: path.name)]
    for (one, its), (other, digest) in combinations(inputs, 2):
        if its == digest:
            raise InputError(f"{one} and {other} are the same file; give it once")
    codebook = with_rules(raw.codebook, rules)
    for recode in codebook.recodes:
        if recode.column not in raw.table:
            name = recode.attribute.name
            raise InputError(
                f"the input has no column {recode.column}, which {name} needs; give a file that "
                f"has it, or leave {name} out with --rule {name}=none"
            )
    attributes, questions = codebook.attributes, codebook.questions
    everyone = from_table(raw.table, codebook, weights)
    complete = complete_cases(everyone, attributes)
    if not complete[[question.question_id for question in questions]].notna().any(axis=None):
        none = everyone[[one.name for one in attributes]].isna().sum().to_dict()
        raise InputError(
            f"none of {len(everyone)} respondents has a level of every attribute and an answer "
            f"(without a level: {none}); correct the codebook's codes"
        )
    cells = aggregate(complete, attributes, questions)
    manifest = {
        "version": __version__,
        "source": codebook.source,
        "citation": codebook.citation,
        "inputs": [{"name": path.name, "sha256": digest} for path, digest in inputs],
        "attributes": {attribute.name: list(attribute.levels) for attribute in attributes},
        **({"languages": codebook.languages} if codebook.languages else {}),
        "rules": describe(codebook)
        | dict(raw.notes)
        | {"weights": weights, "filters": [*raw.notes.get("filters", []), COMPLETE]},
        "estimator": "raw",
        "counts": _respondents(everyone, complete, codebook) | count_cells(cells, attributes),
        "by_question": question_counts(raw.table, everyone, questions),
        "flags": [*flags_of(raw.table, everyone, codebook, weights)],
    }
    return Dataset(question_table(questions), cells, manifest)


def with_shrunk_cells(dataset: Dataset) -> Dataset:
    """Returns the dataset with `p_shrunk` beside the raw shares.

    The manifest records how many respondents the prior of each question is worth.
    """
    estimates, strength = shrunk(dataset.cells, dataset.attributes)
    cells = dataset.cells.assign(p_shrunk=pd.Series(estimates, dataset.cells.index))
    estimator = {"estimator": "shrunk", "prior_respondents": strength}
    return replace(dataset, cells=cells, manifest=dataset.manifest | estimator)


def count_cells(cells: pd.DataFrame, attributes: tuple[Attribute, ...]) -> dict[str, Any]:
    """Returns the manifest's counts of cells and pairs, by granularity."""
    table = pd.DataFrame(
        {
            "cells": cells.groupby("granularity").size(),
            f"cells_min_n_{MIN_N}": cells[cells["n"] >= MIN_N].groupby("granularity").size(),
            f"pairs_min_n_{MIN_N}": count_pairs(cells, attributes, min_n=MIN_N),
        }
    )
    table.index = table.index.map(str)  # JSON has no other keys
    return {"granularity": table.fillna(0).astype(int).to_dict("index")}


def summary(manifest: Mapping[str, Any]) -> str:
    """Returns the manifest's counts as tables for the screen."""
    counts, parts = manifest["counts"], []
    if "respondents_in" in counts:
        missing = ", ".join(f"{name} {n}" for name, n in counts["missing"].items())
        table = pd.concat([pd.DataFrame(counts["by_country"]), pd.DataFrame(counts["answered"])])
        table.insert(0, "questions", pd.Series(counts["questions"]))
        parts += [
            f"{counts['respondents_in']} respondents, {counts['respondents_out']} with a level for "
            f"every attribute (without: {missing}).",
            "Respondents by country, and how many of them answered on each topic:",
            _shown(table),
        ]
    left_out = manifest["rules"].get("left_out", {})
    parts += [f"{n} items left out: {reason}." for reason, n in left_out.items()]
    if asked := manifest.get("by_question"):
        rows = {name: {"n": its["n"]} | _listed(its) for name, its in asked.items()}
        parts += ["By question:", pd.DataFrame.from_dict(rows, "index").to_string()]
    parts += ["By granularity:", _shown(pd.DataFrame.from_dict(counts["granularity"], "index"))]
    if flags := manifest.get("flags"):
        parts += ["\n".join([f"Flags: {len(flags)} (see docs/surveys.md)", *flags])]
    return "\n\n".join(parts)


def _listed(counts: Mapping[str, Any]) -> dict[str, str]:
    shares = (f"{code}: {share:g}" for code, share in counts["shares"].items())
    missing = (f"{code}: {n}" for code, n in counts["missing"].items())
    return {"percent by option": ", ".join(shares), "missing by code": ", ".join(missing)}


def _respondents(asked: pd.DataFrame, kept: pd.DataFrame, codebook: Codebook) -> dict[str, Any]:
    """Returns the manifest's counts of respondents and questions (the paper's Tables 2 to 4).

    `missing`: respondents without a level, by attribute; `answered`: by country and topic, the
    respondents kept who answered a question of the topic.
    """
    topics = pd.Series({question.question_id: question.topic for question in codebook.questions})
    by_country = {
        "respondents_in": asked["country"].value_counts(),
        "respondents_out": kept["country"].value_counts(),
    }
    answered = {
        topic: kept[ids].notna().any(axis=1).groupby(kept["country"]).sum()
        for topic, ids in topics.groupby(topics, sort=False).groups.items()
    }
    missing = asked[[attribute.name for attribute in codebook.attributes]].isna().sum()
    return {
        "respondents_in": len(asked),
        "respondents_out": len(kept),
        "missing": missing.to_dict(),
        "by_country": pd.DataFrame(by_country).fillna(0).astype(int).sort_index().to_dict("index"),
        "questions": topics.value_counts(sort=False).to_dict(),
        "answered": pd.DataFrame(answered).sort_index().to_dict("index"),
    }


def _shown(table: pd.DataFrame) -> str:
    return table.to_string(na_rep="", float_format="{:.0f}".format, line_width=120)
