import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Question
from ace_jax.survey.dataset import Dataset, question_table, read_dataset, write_dataset
from ace_jax.survey.personas import Attribute

QUESTION = Question("mine", "q1", "Work", "?", (1, 2, 3), ("A", "B", "C"), True)


def cells(**changes):
    row = {
        "source": "mine",
        "country": "USA",
        "question_id": "q1",
        "granularity": 1,
        "gender": "Male",
        "education": None,
        "residence": None,
        "marital_status": None,
        "n": 4,
        "effective_n": 3.5,
        "p": np.array([0.25, 0.25, 0.5]),
    }
    return pd.DataFrame([row, row | {"gender": "Female"} | changes])


def dataset(**changes):
    return Dataset(question_table([QUESTION]), cells(**changes), {"version": "0"})


def test_what_is_written_is_read_back(tmp_path):
    written = dataset()
    write_dataset(written, tmp_path / "new" / "d")
    read = read_dataset(tmp_path / "new" / "d")
    assert read.manifest == written.manifest
    assert read.questions.to_dict("records") == written.questions.to_dict("records")
    assert read.cells.columns.tolist() == written.cells.columns.tolist()
    assert read.cells["gender"].tolist() == ["Male", "Female"]
    assert read.cells["education"].isna().all()
    for p in read.cells["p"]:
        assert p.dtype == np.float64
        np.testing.assert_array_equal(p, [0.25, 0.25, 0.5])


def test_attributes_of_its_own_are_read_back(tmp_path):
    row = {"source": "mine", "country": "USA", "question_id": "q1", "granularity": 1}
    row |= {"age": "Old", "n": 1, "effective_n": 1.0, "p": np.array([0.0, 0.0, 1.0])}
    table = pd.DataFrame([row, row | {"age": "Young"}])
    manifest = {"attributes": {"age": ["Young", "Middle", "Old"]}}
    write_dataset(Dataset(question_table([QUESTION]), table, manifest), tmp_path / "d")
    read = read_dataset(tmp_path / "d")
    assert read.attributes == (Attribute("age", ("Young", "Middle", "Old")),)
    assert read.cells["age"].tolist() == ["Old", "Young"]


@pytest.mark.parametrize("attributes", ["age", {"age": 3}, 7])
def test_attributes_that_are_none_are_refused(tmp_path, attributes):
    write_dataset(dataset(), tmp_path / "d")
    (tmp_path / "d" / "manifest.json").write_text(json.dumps({"attributes": attributes}))
    with pytest.raises(InputError, match=r"manifest\.json names no attributes"):
        read_dataset(tmp_path / "d")


@pytest.mark.parametrize("name", ["question", "options", "persona"])
def test_an_attribute_with_a_name_of_prompts_is_refused(tmp_path, name):
    write_dataset(dataset(), tmp_path / "d")
    manifest = {"attributes": {name: ["Male", "Female"]}}
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"'{name}'.* use this name"):
        read_dataset(tmp_path / "d")


def test_a_dataset_is_replaced_and_anything_else_is_refused(tmp_path):
    target = tmp_path / "d"
    target.mkdir()
    write_dataset(dataset(), target)
    write_dataset(dataset(n=5), target)
    assert read_dataset(target).cells["n"].tolist() == [4, 5]
    (target / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_dataset(dataset(), target)
    assert (target / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written"):
        write_dataset(dataset(), target / "notes.txt" / "d")


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    write_dataset(dataset(), tmp_path / "d")
    with pytest.raises(pa.ArrowException):
        write_dataset(dataset(n="four"), tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert read_dataset(tmp_path / "d").cells["n"].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": np.array([0.5, 0.5])}, "row 1 has a p not as long as its options"),
        ({"p": np.array([0.5, np.nan, 0.5])}, "row 1 has a p with shares below 0 or not of sum 1"),
        ({"p": np.array([1.5, -0.5, 0.0])}, "row 1 has a p with shares below 0 or not of sum 1"),
        ({"p": np.array([0.5, 0.5, 0.5])}, "row 1 has a p with shares below 0 or not of sum 1"),
        ({"question_id": "q2"}, r"cells.parquet: row 1 has a question_id that"),
        ({"gender": "Male"}, "row 1 repeats the persona"),
        ({"gender": "Female "}, "row 1 has a gender that is no level of it"),
    ],
)
def test_bad_cells_are_refused(tmp_path, changes, message):
    write_dataset(dataset(**changes), tmp_path / "d")
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"option_codes": [1], "option_labels": ["A"]}, r"question q1 has the option codes \(1,\)"),
        ({"option_labels": ["A", "B"]}, r"codes \(1, 2, 3\) and labels \('A', 'B'\)"),
    ],
)
def test_bad_questions_are_refused(tmp_path, changes, message):
    row = question_table([QUESTION]).to_dict("records")[0] | changes
    write_dataset(Dataset(pd.DataFrame([row]), cells(), {}), tmp_path / "d")
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path / "d")


def test_a_repeated_question_is_refused(tmp_path):
    write_dataset(Dataset(question_table([QUESTION, QUESTION]), cells(), {}), tmp_path / "d")
    with pytest.raises(InputError, match="row 1 repeats a question_id"):
        read_dataset(tmp_path / "d")


@pytest.mark.parametrize("name", ["questions.parquet", "cells.parquet", "manifest.json"])
def test_a_missing_or_broken_file_is_refused(tmp_path, name):
    write_dataset(dataset(), tmp_path / "d")
    (tmp_path / "d" / name).write_text("nonsense")
    with pytest.raises(InputError, match=rf"{name}(: not JSON| is not a Parquet file)"):
        read_dataset(tmp_path / "d")
    (tmp_path / "d" / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is (missing|not a Parquet file .*No such file)"):
        read_dataset(tmp_path / "d")


def test_missing_columns_and_wrong_types_are_refused(tmp_path):
    write_dataset(dataset(), tmp_path / "d")
    path = tmp_path / "d" / "cells.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("effective_n"), path)
    with pytest.raises(InputError, match="lacks the column effective_n"):
        read_dataset(tmp_path / "d")
    for values in (["four", "four"], [4, None]):
        position = table.column_names.index("n")
        pq.write_table(table.set_column(position, "n", pa.array(values)), path)
        with pytest.raises(InputError, match="not a Parquet file with such columns"):
            read_dataset(tmp_path / "d")


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no DATASET .*gss2018"):
        read_dataset(tmp_path / "none")


def test_the_embedded_dataset():
    gss = read_dataset("gss2018")
    counts = gss.manifest["counts"]
    assert (counts["respondents_in"], counts["respondents_out"]) == (2348, 2346)
    assert counts["missing"] == {
        "gender": 0,
        "education": 0,
        "residence": 0,
        "marital_status": 2,
    }
    assert sum(counts["questions"].values()) == 29
    finest = {"cells": 29 * 16, "cells_min_n_10": 29 * 16, "pairs_min_n_10": 29 * 32}
    assert counts["granularity"]["4"] == finest
    assert len(gss.cells) == 29 * 80
    assert "General Social Survey" in gss.manifest["citation"]
    assert [len(entry["sha256"]) for entry in gss.manifest["inputs"]] == [64] * 3
    assert len(gss.questions) == 29
    assert len(gss.cells) == 29 * 80


# Counted by hand from the three tables, in option order.
@pytest.mark.parametrize(
    ("question_id", "persona", "counts"),
    [
        ("nateduc", ["Female", "Not College Educated", "Rural", "Not Married"], [8, 34, 131]),
        (
            "relactiv",
            ["Female", "Not College Educated", "Rural", "Not Married"],
            [76, 11, 36, 16, 12, 17, 2, 6, 0, 0],
        ),
        ("partyid", ["Male", "College Educated", None, None], [62, 39, 50, 31, 39, 44, 34]),
        ("abany", ["Male", "College Educated", None, None], [89, 117]),
    ],
)
def test_embedded_cells_hold_the_counts_of_the_tables(question_id, persona, counts):
    cells = read_dataset("gss2018").cells
    names = ["gender", "education", "residence", "marital_status"]
    same = (cells[names].fillna("") == [level or "" for level in persona]).all(axis=1)
    (cell,) = cells[same & (cells["question_id"] == question_id)].to_dict("records")
    assert cell["n"] == cell["effective_n"] == sum(counts)
    np.testing.assert_allclose(cell["p"] * cell["n"], counts, atol=1e-9)


def test_the_digest_is_of_the_content_alone(tmp_path):
    one = dataset()
    write_dataset(one, tmp_path / "named otherwise")
    again = read_dataset(tmp_path / "named otherwise")
    assert again.digest == one.digest
    assert replace(one, manifest={"version": "1", "inputs": ["moved"]}).digest == one.digest
    assert replace(one, cells=one.cells[::-1].reset_index(drop=True)).digest == one.digest
    near = dataset(p=np.array([0.25, 0.25 + 1e-12, 0.5 - 1e-12]))
    assert near.digest == one.digest
    gss = read_dataset("gss2018")
    questions, cells = (
        table.sample(frac=1, random_state=0) for table in (gss.questions, gss.cells)
    )
    assert Dataset(questions, cells, {}).digest == gss.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"p": np.array([0.25, 0.2500001, 0.4999999])},
        {"n": 5},
        {"effective_n": 3.6},
        {"education": "College Educated"},
        {"country": "MEX"},
    ],
)
def test_other_cells_have_another_digest(changes):
    assert dataset(**changes).digest != dataset().digest


def test_other_questions_levels_and_more_cells_have_another_digest():
    one = dataset()
    others = [
        Question("mine", "q1", "Work", "?", (1, 2, 3), ("A", "B", "c"), True),
        Question("mine", "q1", "Work", "?", (0, 1, 2), ("A", "B", "C"), True),
        Question("mine", "q1", "Work", "Why?", (1, 2, 3), ("A", "B", "C"), True),
        Question("mine", "q1", "Rest", "?", (1, 2, 3), ("A", "B", "C"), True),
    ]
    changed = [replace(one, questions=question_table([other])) for other in others]
    more = one.cells.iloc[[0]].assign(country="MEX")
    changed.append(replace(one, cells=pd.concat([one.cells, more])))
    levels = {attribute.name: attribute.levels for attribute in one.attributes}
    changed.append(replace(one, manifest={"attributes": levels | {"gender": ("Female", "Male")}}))
    digests = [one.digest, *(other.digest for other in changed)]
    assert len(set(digests)) == len(digests)
