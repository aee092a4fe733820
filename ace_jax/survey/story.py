"""What became of a survey: who and what was counted, dropped and kept (paper, Tables 2-4)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ace_jax.survey.codebook import Question
from ace_jax.survey.pairs import count_pairs
from ace_jax.survey.personas import Attribute
from ace_jax.survey.respondents import Respondents

MIN_N = 10  # the paper's


def count(everyone: Respondents, complete: Respondents) -> dict[str, Any]:
    """Returns what the manifest counts of respondents and questions.

    `respondents_in`, `respondents_out` and, by country, the same; `missing` (respondents without a
    level, by attribute); `questions` by topic; `answered`: by country and topic, the respondents
    kept who answered a question of it.
    """
    kept = complete.frame
    topics = _topics(everyone.questions)
    by_country = pd.DataFrame(
        {
            "respondents_in": everyone.frame["country"].value_counts(),
            "respondents_out": kept["country"].value_counts(),
        }
    ).fillna(0)
    answered = pd.DataFrame(
        {
            topic: kept[ids].notna().any(axis=1).groupby(kept["country"]).sum()
            for topic, ids in topics.items()
        }
    )
    return {
        "respondents_in": len(everyone.frame),
        "respondents_out": len(kept),
        "missing": {
            attribute.name: int(everyone.frame[attribute.name].isna().sum())
            for attribute in everyone.attributes
        },
        "by_country": by_country.astype(int).sort_index().to_dict("index"),
        "questions": {topic: len(ids) for topic, ids in topics.items()},
        "answered": answered.sort_index().to_dict("index"),
    }


def count_cells(cells: pd.DataFrame, attributes: tuple[Attribute, ...]) -> dict[str, Any]:
    """Returns the numbers of cells and pairs by granularity, as the manifest has them."""
    table = pd.DataFrame(
        {
            "cells": cells.groupby("granularity").size(),
            f"cells_min_n_{MIN_N}": cells[cells["n"] >= MIN_N].groupby("granularity").size(),
            f"pairs_min_n_{MIN_N}": count_pairs(cells, attributes, min_n=MIN_N),
        }
    )
    table.index = table.index.map(str)  # JSON has no other keys
    return {"granularity": table.fillna(0).astype(int).to_dict("index")}


def tell(manifest: Mapping[str, Any]) -> str:
    """Returns the manifest's counts as tables for the screen."""
    counts, parts = manifest["counts"], []
    if "respondents_in" in counts:
        missing = ", ".join(f"{name} {n}" for name, n in counts["missing"].items())
        parts.append(
            f"{counts['respondents_in']} respondents, {counts['respondents_out']} with a level for "
            f"every attribute (without: {missing})."
        )
        respondents = pd.DataFrame(counts["by_country"])
        answered = pd.DataFrame(counts["answered"])
        table = pd.concat([respondents, answered])
        table.insert(0, "questions", pd.Series(counts["questions"]))
        parts.append("Respondents by country, and those of them who answered on a topic:")
        parts.append(_shown(table))
    for reason, n in manifest["rules"].get("left_out", {}).items():
        parts.append(f"{n} items left out: {reason}.")
    parts.append("By granularity:")
    parts.append(_shown(pd.DataFrame.from_dict(counts["granularity"], "index")))
    return "\n\n".join(parts)


def _shown(table: pd.DataFrame) -> str:
    return table.to_string(na_rep="", float_format="{:.0f}".format, line_width=120)


def _topics(questions: tuple[Question, ...]) -> dict[str, list[str]]:
    topics: dict[str, list[str]] = {}
    for question in questions:
        topics.setdefault(question.topic, []).append(question.question_id)
    return topics
