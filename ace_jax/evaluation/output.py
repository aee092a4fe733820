"""What `evaluate` writes into its directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import score_table
from ace_jax.evaluation.answers import Answers, answers_table, predictions_table
from ace_jax.evaluation.pitfalls import UNALTERED, audit_table
from ace_jax.evaluation.record import EvaluationSet


def result_tables(scored: EvaluationSet, answers: Mapping[str, Answers]) -> dict[str, pd.DataFrame]:
    """Returns the tables by file name; audit.csv is there if cells were asked in several ways."""
    cells, questions = scored.cells, scored.questions_scored
    predictions = predictions_table(cells, answers[UNALTERED])
    tables = {
        "predictions.parquet": predictions,
        "answers.csv": answers_table(predictions, questions),
        "scores.csv": score_table(predictions),
        "questions.parquet": questions,
    }
    if len(answers) > 1:
        tables["audit.csv"] = audit_table(cells, answers)
    return tables


def write_output(workdir: Path, tables: Mapping[str, pd.DataFrame], run: Mapping[str, Any]) -> None:
    """Writes the tables, and run.json last: without it the directory is not complete.

    Raises `InputError` if they cannot be written.
    """
    whole = workdir / "run.json.new"
    try:
        for before in ("run.json", "audit.csv"):
            (workdir / before).unlink(missing_ok=True)
        for name, table in tables.items():
            if name.endswith(".parquet"):
                table.to_parquet(workdir / name, index=False)
            else:
                table.to_csv(workdir / name, index=False)
        whole.write_text(json.dumps(run, indent=2) + "\n")
        whole.replace(workdir / "run.json")
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror or error}); make room and run the "
            "same command again"
        ) from None


def shown(tables: Mapping[str, pd.DataFrame]) -> str:
    """Returns the scores, and the audit if there is one, as text."""
    names = [name for name in ("scores.csv", "audit.csv") if name in tables]
    texts = [tables[name].to_string(index=False, float_format="{:.4f}".format) for name in names]
    return "\n\n".join(texts)
