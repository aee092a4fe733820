"""A user's script; mypy checks it as a user's editor would."""

from pathlib import Path

import pandas as pd

import ace_jax as ace


def study(workdir: Path) -> pd.DataFrame:
    """Base and tuned answers to a new question, and a report on the held-out ones."""
    survey: ace.Dataset = ace.load_survey("gss2018")
    model = ace.LanguageModel.from_pretrained("smollm2-135m-instruct", prompt="question_first")
    split = ace.Split.questions(0.3, seed=0)
    run: ace.Run = ace.fine_tune(model, survey, split=split, recipe="joint", workdir=workdir)
    tuned = ace.LanguageModel.from_pretrained(run.adapter)
    question = ace.Question("Is work important to you?", ("Yes", "No"), "work")
    personas = [{"country": "USA", "gender": "Female"}]
    effects: pd.DataFrame = tuned.effects([question], personas, "gender")
    scores = {
        "base": model.score(survey, "held_out", holdout=split),
        "tuned": tuned.score(survey, split="held_out"),
    }
    comparison: ace.Comparison = ace.compare(scores)
    comparison.save_html(workdir / "report.html")
    print(comparison.scores, run.metrics["loss"].iloc[-1], run.experiment.held_out.questions)
    return pd.concat([model.answer([question], personas), effects])
