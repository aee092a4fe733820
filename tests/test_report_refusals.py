"""What the report command refuses, in one line."""

import json

import numpy as np
import pandas as pd
import pytest
from test_report import (
    predictions,
    quick,  # noqa: F401 - a fixture for every test
    runs,  # noqa: F401 - a fixture
    write_questions,
    write_references,
)

from ace_jax.errors import InputError
from ace_jax.files import write_record
from ace_jax.report import __main__ as report


def _older(out):
    run = json.loads((out / "run.json").read_text())
    del run["attributes"]
    (out / "run.json").write_text(json.dumps(run))


def _damaged(out):
    path = out / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def _other_answers(out):
    table = pd.read_parquet(out / "predictions.parquet")
    table["p_data"] = [np.array([0.2, 0.3, 0.5])] * len(table)
    table.to_parquet(out / "predictions.parquet", index=False)


def _other_questions(out):
    for directory in (out, out.parent / "base"):
        write_questions(directory, ("q8", "q9"))


def _other_cells(out):
    predictions(2, questions=("q8", "q9")).to_parquet(out / "predictions.parquet", index=False)


def _other_references(out):
    p = [np.full(2, 0.5)] * len(pd.read_parquet(out / "predictions.parquet"))
    write_references(out.parent / "base", uniform=p)


def _fewer_references(out):
    write_references(out.parent / "base", uniform=[np.full(3, 1 / 3)])


def _not_a_number(out):
    table = pd.read_parquet(out / "predictions.parquet")
    table["p_model"] = [np.array([0.2, np.nan, 0.5])] * len(table)
    table.to_parquet(out / "predictions.parquet", index=False)


def _other_digest(out):
    run = json.loads((out / "run.json").read_text())
    write_record(out / "run.json", run | {"files": {"questions.parquet": "0"}})


def _edited(out):
    _other_digest(out)
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_not_a_number, "the predictions are not all finite numbers; evaluate it again"),
        (_other_digest, r"questions\.parquet: is not what was written; restore it"),
        (_edited, r"run\.json: is not what was written; restore it, or if you changed it on purp"),
        (_older, r"run\.json lacks attributes, seed or data; evaluate it again"),
        (_other_questions, "no topic for question 'q1'"),
        (_damaged, r"predictions\.parquet is damaged"),
        (
            _other_references,
            r"references\.parquet is damaged \(uniform has answers of another size",
        ),
        (_fewer_references, r"references\.parquet is damaged \("),
        (_other_answers, "base and trained were scored against other answers of the survey"),
        (_other_cells, "base, trained have no cell in common"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(runs, tmp_path, spoil, message):  # noqa: F811
    spoil(tmp_path / "trained")
    with pytest.raises(InputError, match=message) as refused:
        report.main([*runs, "--output", str(tmp_path / "report")])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("runs/base", "--run runs/base: write NAME=OUT"),
        ("base=no/where", r"no/where: not an output of ace_jax\.evaluate, run\.json is missing"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, run, message):
    with pytest.raises(InputError, match=message):
        report.main(["--run", run, "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()


def test_a_directory_given_twice_and_an_output_that_is_a_file_are_refused(runs, tmp_path):  # noqa: F811
    for again in (runs[0], f"{runs[0]}/../base"):
        with pytest.raises(InputError, match="is given twice; give each seed its own directory"):
            report.main([runs[0], again, "--output", str(tmp_path / "report")])
    for name in ("ALL", "persona"):
        with pytest.raises(InputError, match=f"the name {name} is taken"):
            report.main([f"--run={name}={tmp_path / 'base'}", "--output", str(tmp_path / "report")])
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file; name a directory"):
        report.main([*runs, "--output", str(file)])
