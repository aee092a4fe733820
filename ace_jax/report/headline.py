"""What a survey researcher asks first, answered in sentences from a report's tables."""

import pandas as pd

from ace_jax.evaluation.references import ORACLES, REPEATS
from ace_jax.evaluation.slopes import ALIGNED, ATTRIBUTES, PART, UNCLEAR
from ace_jax.report.findings import Findings
from ace_jax.survey.pairs import COUNTRY

TRUSTED = (ALIGNED, PART)


def headline(findings: Findings) -> list[str]:
    """Returns sentences on the method shown, at the finest granularity, over countries.

    They say whether it answers like these people, better than a table would; whether it moves as
    they move; and where it is least to be trusted.
    """
    slopes = findings.slopes
    slopes = slopes[slopes["run"] == findings.shown].set_index("toggle")
    moves = {ATTRIBUTES: "Does it move as they move", COUNTRY: "Does it tell countries apart"}
    answers = [_answers(findings)]
    answers += [
        f"{ask}? {_moves(slopes.loc[[at]].iloc[0])}"
        for at, ask in moves.items()
        if at in slopes.index
    ]
    return [*answers, _least_trusted(findings, slopes)]


def _answers(findings: Findings) -> str:
    scores = _finest(findings, "scores").set_index("run")["score"]
    score = float(scores[findings.shown])
    seen = findings.first.identity["data"].get("split") != "held_out"
    unfair = (*ORACLES, *(REPEATS if seen else ()))
    tables = scores[[name for name in findings.references if name not in unfair]]
    of = f"{findings.shown} has {score:.1f} of 100"
    if tables.empty:
        return f"Does it answer like these people? {of}; no table to compare with."
    best, reached = tables.idxmax(), float(tables.max())
    above = "Yes" if score > reached else "No"
    return (
        f"Does it answer like these people, better than a table would? {above}: {of}, the best "
        f"table ({best}) {reached:.1f}."
    )


def _moves(row: pd.Series) -> str:
    if row["verdict"] == UNCLEAR:
        return "Not clear: there are too few questions, or the survey's differences are too small."
    numbers = f"{row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}]"
    words = str(row["verdict"]).capitalize()
    return f"{words}: slope {numbers}, where 0 is no difference and 1 the survey's."


def _least_trusted(findings: Findings, slopes: pd.DataFrame) -> str:
    topics = _finest(findings, "topics")
    topics = topics[topics["run"] == findings.shown].sort_values("score")
    weak = [
        str(toggle).replace("_", " ")
        for toggle, row in slopes.drop(index=ATTRIBUTES, errors="ignore").iterrows()
        if row["verdict"] not in TRUSTED
    ]
    parts = [f"the topic {topics['topic'].iloc[0]} (score {topics['score'].iloc[0]:.1f})"]
    parts += [f"differences by {', '.join(weak)}"] if weak else []
    return f"Where should you trust it least? {'; '.join(parts)}."


def _finest(findings: Findings, name: str) -> pd.DataFrame:
    table = findings.over_countries(name)
    return table[table["granularity"] == findings.granularities[-1]]
