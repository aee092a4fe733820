"""What a code is, in every column and file: the inputs that were once read wrong, or not at all."""

import numpy as np
import pandas as pd
import pyreadstat
import pytest

from ace_jax.errors import InputError
from ace_jax.survey.build import build
from ace_jax.survey.codes import codes, spelling
from ace_jax.survey.readers import sources

SEX = """
source = "mine"
citation = "Us."
country = "USA"
{top}

[[attributes]]
name = "gender"
column = "sex"
levels = ["Male", "Female"]
codes = [["M"], ["F"]]
"""
EDUCATION = """
[[attributes]]
name = "education"
column = "educ"
levels = ["College Educated", "Not College Educated"]
threshold = { name = "college", at_least = 6, level = "College Educated" }
dropped = [-1, 99, "NAP"]
"""
SCHOOL = """
[[attributes]]
name = "school"
column = "school"
levels = ["None", "Some"]
codes = [["None"], ["Primary", "Secondary"]]
"""
Q1 = """
[[questions]]
column = "q1"
topic = "Work"
text = "Is work important?"
"""
OPTIONS = 'options = [[1, "No"], [2, "Yes"]]\n'


def made(
    tmp_path, content, attributes="", question=OPTIONS, top="", weights=None, names=("a.csv",)
):
    """The dataset of files of the same content, or of what a function writes."""
    codebook = tmp_path / "own.toml"
    codebook.write_text(SEX.format(top=top) + attributes + Q1 + question, encoding="utf-8")
    paths = [tmp_path / name for name in names]
    for path in paths:
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return build(sources.read("table", paths, codebook, weights), paths, {}, weights)


def by_gender(dataset):
    """Each gender's n and its share of the first option."""
    cells = dataset.cells[(dataset.cells["granularity"] == 1) & dataset.cells["gender"].notna()]
    return {
        level[0]: (n, round(float(p[0]), 4))
        for level, n, p in zip(cells["gender"], cells["n"], cells["p"], strict=True)
    }


FOUR = "sex,q1\nM,1\nM,2\nF,1\nF,1\n"
SEMICOLON = "sex;q1;w\nM;1;1,5\nM;2;0,5\nF;1;1\nF;1;1\n"
BOTH = {"M": (2, 0.5), "F": (2, 1.0)}


@pytest.mark.parametrize(
    ("content", "changes", "cells"),
    [
        (FOUR, {}, BOTH),
        ("\ufeff" + FOUR, {}, BOTH),
        (FOUR.replace("\n", "\r\n"), {}, BOTH),
        (FOUR.replace(",", ";"), {}, BOTH),
        (FOUR.replace(",1", ",1.0"), {}, BOTH),
        (FOUR.replace(",1", ", 1"), {}, BOTH),
        (FOUR.replace("M,2", "M,NAP\nM,2"), {"question": OPTIONS + 'dropped = ["NAP"]'}, BOTH),
        *((FOUR + f"M,{blank}\n", {}, BOTH) for blank in ("", " ", ".", "#NULL!", "NA", "N/A")),
        ("a,sex,q1\n" + FOUR[7:].replace("M,", '"x, y",M,').replace("F,", "z,F,"), {}, BOTH),
        (FOUR.replace(",1", ",yes"), {"question": 'options = [[2, "Yes"], [2.0, "x"]]'}, None),
        (
            FOUR.replace(",1", ",yes").replace("2", "no"),
            {"question": 'options = [["yes", "Yes"], ["no", "No"]]'},
            BOTH,
        ),
        (
            FOUR.replace(",1", ",True").replace("2", "False"),
            {"question": OPTIONS + 'labels = [[1, "True"], [2, "False"]]'},
            BOTH,
        ),
        (SEMICOLON, {"top": 'decimal = ","', "weights": "w"}, {"M": (2, 0.75), "F": (2, 1.0)}),
        (FOUR.replace(",", "~"), {"top": 'delimiter = "~"'}, BOTH),
        (
            FOUR.replace(",1", ",j\u00e4").replace("2", "nein").encode("cp1252"),
            {
                "top": 'encoding = "cp1252"',
                "question": 'options = [["j\u00e4", "Y"], ["nein", "N"]]',
            },
            BOTH,
        ),
        (FOUR.encode("utf-16"), {"top": 'encoding = "utf-16"'}, BOTH),
        # Mentioned, or left blank.
        ("sex,q1\nM,1\nM,\nF,1\nF,1\n", {"question": OPTIONS + 'merged = [["", 2]]'}, BOTH),
        ("sex,q1\nM,1\nM,\nF,1\nF,1\n", {"question": 'options = [[1, "Y"], ["", "N"]]'}, BOTH),
        (FOUR, {"question": OPTIONS + "reverse = true"}, {"M": (2, 0.5), "F": (2, 0.0)}),
        (
            "sex,school,q1\nM,None,1\nF,None,1\nM,None,1\nM,Primary,2\nF,Primary,2\nF,Secondary,2\n",
            {"attributes": SCHOOL},
            {"M": (3, 0.6667), "F": (3, 0.3333)},
        ),
        (
            "sex,educ,q1\nM,6,1\nM,NAP,1\nM,3,2\nF,-1,2\nF,99,2\nF,7,1\nF,2,1\n",
            {"attributes": EDUCATION},
            BOTH,
        ),
        (
            "sex,years,q1\nM,18,1\nM,30,2\nF,29,1\nF,60,1\nF,99,2\n",
            {
                "attributes": SCHOOL.replace(
                    'codes = [["None"], ["Primary", "Secondary"]]',
                    "bins = [18, 30, 60]\ndropped = [99]",
                ).replace('column = "school"', 'column = "years"')
            },
            BOTH,
        ),
        (
            "sex,school,q1\nM,1,1\nM,3,2\nF,4,1\nF,9,1\n",
            {
                "attributes": SCHOOL.replace(
                    '[["None"], ["Primary", "Secondary"]]', '["1-3", "4-9"]'
                )
            },
            BOTH,
        ),
    ],
)
def test_the_same_answers_in_any_spelling(tmp_path, content, changes, cells):
    if cells is None:
        with pytest.raises(InputError, match=r"has the option codes \(2, 2\)"):
            made(tmp_path, content, **changes)
    else:
        assert by_gender(made(tmp_path, content, **changes)) == cells


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("sex,q1,q1\nM,1,2\n", {}, r"a\.csv has the column q1 twice"),
        ("sex,q1, q1\nM,1,2\n", {}, r"a\.csv has the column q1 twice"),
        (FOUR + "F,1,2\n", {}, "1 rows have more or fewer cells than the header, such as 3"),
        (FOUR + "F\n", {}, "1 rows have more or fewer cells than the header, such as 1"),
        (SEMICOLON, {"weights": "w"}, "column w holds the text '1,5' .* decimal = ','"),
        (FOUR.replace("2", "02. Jan"), {}, "the text '02. Jan' .* Excel makes dates"),
        (FOUR.replace("2", "1a"), {}, "column q1 holds the text '1a'"),
        (FOUR.replace("2", "inf"), {}, "column q1 holds (infinity|the text 'inf')"),
        (FOUR.replace(",1", ",True").replace("2", "False"), {}, "the text 'True'"),
        (FOUR.replace("2", "\u00e4").encode("cp1252"), {}, "is not UTF-8; .* encoding = "),
        (FOUR, {"names": ("a.csv", "b.csv")}, r"a\.csv and .*b\.csv are the same file"),
        (FOUR, {"names": ("a.csv", "a.csv")}, r"a\.csv and .*a\.csv are the same file"),
        ("sex,q1\nM,\nF,\n", {}, "none of 2 respondents has a level of every attribute and an"),
        (FOUR.replace("sex", "x" * 200_000 + ",sex"), {}, "is not a CSV file: field larger"),
    ],
)
def test_what_can_be_read_two_ways_is_refused(tmp_path, content, changes, message):
    with pytest.raises(InputError, match=message) as error:
        made(tmp_path, content, **changes)
    assert "\n" not in str(error.value)


def test_a_code_is_the_same_in_every_type_of_column():
    assert [*map(spelling, (1, 1.0, " 1", "01", -2.5))] == ["1", "1", "1", "01", "-2.5"]
    numbers, texts = [(1, "No"), (2, "Yes")], [("1", "1"), ("2", "2")]
    for cells in ([1, 2], [1.0, 2.0], ["1", " 2.0"], ["no", "2. Yes"]):
        assert codes(pd.Series(cells), "a.csv", numbers).tolist() == [1, 2]
    with pytest.raises(InputError, match=r"the text '2026-01-02.* Excel makes dates"):
        codes(pd.Series(pd.to_datetime(["2026-01-02"]), name="q1"), "a.xlsx", numbers)
    for cells in ([1, 2], [1.0, 2.0], ["1", "2.0"]):
        assert codes(pd.Series(cells), "a.csv", texts).tolist() == ["1", "2"]


def sav(labels, missing=None, damage=None):
    def write(path):
        table = pd.DataFrame({"sex": ["M", "M", "F", "F"], "q1": [1.0, 2.0, 1.0, 1.0]})
        ranges = {"q1": [missing]} if missing else None
        pyreadstat.write_sav(
            table, path, variable_value_labels={"q1": labels}, missing_ranges=ranges
        )
        if damage:
            path.write_bytes(path.read_bytes().replace(*damage))

    return write


def test_a_file_s_own_labels_and_missing_codes_are_compared_with_the_codebook(tmp_path):
    swapped = {1: "Yes", 2: "No"}
    with pytest.raises(InputError, match=r"column q1 has the label 'Yes' for 1, and .* for 2"):
        made(tmp_path, sav(swapped), names=("a.sav",))
    taken = made(tmp_path, sav({1: "1. No"}, missing=2), names=("a.sav",))
    assert by_gender(taken) == BOTH
    assert (
        "q1: the file calls 2 missing, and the codebook counts it (1" in taken.manifest["flags"][0]
    )
    three = 'options = [[1, "No"], [3, "Yes"]]'
    undeclared = made(tmp_path, sav({1: "No"}, missing=2), question=three, names=("a.sav",))
    assert by_gender(undeclared) == {"M": (1, 1.0), "F": (2, 1.0)}


def test_a_label_in_another_encoding_than_the_file_says(tmp_path):
    other = sav({1: "N\u00f6\u00f6"}, damage=("N\u00f6\u00f6".encode(), b"N\xf6\xf6  "))
    with pytest.raises(InputError, match=r"a\.sav has texts in another encoding .*cp1252"):
        made(tmp_path, other, names=("a.sav",))
    named = made(tmp_path, other, top='encoding = "cp1252"', names=("a.sav",))
    assert by_gender(named) == BOTH


def test_parquet_has_the_same_codes(tmp_path):
    table = pd.DataFrame({"sex": ["M", "M", "F", "F"], "q1": [1, 2, 1, 1]})
    for q1 in (
        table["q1"],
        table["q1"].astype(str),
        table["q1"].astype("category"),
        table["q1"] + 0.0,
    ):
        mixed = table.assign(q1=q1)
        assert by_gender(made(tmp_path, mixed.to_parquet, names=("a.parquet",))) == BOTH
    gap = table.assign(q1=np.array(["1", "2", "NA", "1"], dtype=object))
    assert by_gender(made(tmp_path, gap.to_parquet, names=("a.parquet",)))["F"] == (1, 1.0)
