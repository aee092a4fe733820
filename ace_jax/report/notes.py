"""Notes: what readers must know about the runs, and what the report lacks."""

from collections.abc import Sequence

import pandas as pd

from ace_jax.evaluation.equity import TIERS
from ace_jax.report.runs import Method, Run

NO_TOPIC = "(topic not known)"


def marks_of(runs: Sequence[Run]) -> list[str]:
    """Returns the marks that runs recorded, each with its run's name, and differences of bases."""
    marks = [
        f"{run.name}: {str(mark).rstrip('.')}."
        for run in runs
        for mark in run.identity.get("marks") or ()
    ]
    bases: dict[str, list[str]] = {}
    for run in runs:
        if found := (run.identity.get("model") or {}).get("fingerprint"):
            bases.setdefault(str(found), []).append(run.name)
    if len(bases) > 1:
        apart = "; ".join(f"{', '.join(names)}: {base[:12]}" for base, names in bases.items())
        marks.append(f"The runs were scored on different base models (fingerprints: {apart}).")
    return marks


def missing(methods: Sequence[Method], questions: pd.DataFrame) -> list[str]:
    """Returns sentences on what a full report shows and this one cannot."""
    cells = methods[0].first.predictions
    granularities = cells["granularity"].unique()
    unknown = int((questions["topic"] == NO_TOPIC).sum())
    unaudited = [method.name for method in methods if method.audit is None]
    untiered = sorted(set(cells["country"]) - set(TIERS))
    runs = [run for method in methods for run in method.seeds]
    sentences = {
        "There is one run only, so nothing is compared.": len(methods) == 1,
        "No run has an adapter: all of them are base models.": not any(
            run.identity.get("adapter") for run in runs
        ),
        f"Only granularity {granularities[0]} was evaluated.": len(granularities) == 1,
        f"Topic, text and options of {unknown} of {len(questions)} questions are not known: "
        "the runs were evaluated before evaluate wrote questions.parquet.": unknown > 0,
        f"No tier for {', '.join(untiered)}: the paper assigns 14 countries only.": untiered,
        f"No audit of {', '.join(unaudited)} (evaluate with --config.audit=True).": unaudited,
    }
    return [sentence for sentence, holds in sentences.items() if holds]


def known_questions(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns question_id, topic, text, option_labels of the questions scored.

    Where no run knows them: the question's id as text, NO_TOPIC, and the options' numbers.
    """
    recorded = [run.questions for run in runs if run.questions is not None]
    known = {row["question_id"]: row for of in recorded for row in of.to_dict("records")}
    scored = runs[0].predictions.drop_duplicates("question_id")
    rows = []
    for question_id, p in zip(scored["question_id"], scored["p_data"], strict=True):
        found = known.get(question_id, {"topic": NO_TOPIC, "text": question_id})
        labels = [str(label) for label in found.get("option_labels", ())]
        if len(labels) != len(p):
            labels = [str(k + 1) for k in range(len(p))]
        rows.append((str(question_id), str(found["topic"]) or NO_TOPIC, str(found["text"]), labels))
    return pd.DataFrame(rows, columns=["question_id", "topic", "text", "option_labels"])
