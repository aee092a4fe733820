"""Surveys of the user's own: `--source table`."""

import numpy as np
import pandas as pd
import pyreadstat
import pytest

from ace_jax.errors import InputError
from ace_jax.prepare import main
from ace_jax.survey.build import build
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.readers import sources

CODEBOOK = """
source = "mine"
citation = "Us, last year."
country_column = "land"

[[attributes]]
name = "age"
column = "age_group"
levels = ["Young", "Middle-aged", "Old"]
codes = [[1], [2], [3]]

[[attributes]]
name = "gender"
column = "sex"
levels = ["Male", "Female"]
codes = [["m"], ["f"]]
dropped = ["?"]

[[questions]]
column = "q1"
topic = "Trust"
text = "Do you trust [COUNTRY]'s parliament?"
options = [[0, "No"], [1, "Yes"]]
dropped = [9]

[[questions]]
column = "q2"
topic = "Trust"
text = "How much?"
options = [[1, "Little"], [2, "Some"], [3, "Much"]]
"""
SIZE = 600


@pytest.fixture
def answers():
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "land": random.choice(["FRA", "MEX"], SIZE),
            "age_group": random.integers(1, 4, SIZE),
            "sex": random.choice(["m", "f", "?"], SIZE, p=[0.45, 0.45, 0.1]),
            "q1": random.choice([0, 1, 9], SIZE),
            "q2": random.integers(1, 4, SIZE),
            "weight": random.uniform(0.5, 2, SIZE).round(3),
            "diary": "private",
        }
    )


def comma(answers, path):
    answers.to_csv(path, index=False)


def semicolon(answers, path):
    answers.to_csv(path, index=False, sep=";")


def parquet(answers, path):
    answers.to_parquet(path)


def sav(answers, path):
    pyreadstat.write_sav(answers, path)


def dta(answers, path):
    pyreadstat.write_dta(answers, path)


def dataset(tmp_path, *paths, codebook=CODEBOOK):
    """What the command writes, without the writing."""
    (tmp_path / "own.toml").write_text(codebook)
    return build(sources.read("table", paths, tmp_path / "own.toml"), paths, {})


def prepared(tmp_path, *arguments, codebook=CODEBOOK):
    (tmp_path / "own.toml").write_text(codebook)
    output = tmp_path / "dataset"
    own = ["--source", "table", "--codebook", str(tmp_path / "own.toml")]
    main([*own, "--output", str(output), "--input", *map(str, arguments)])
    return read_dataset(output)


def check_cells(cells, answers):
    """Every cell against a count of the table, made in another way than the package does."""
    known = answers[answers["sex"] != "?"]
    levels = {
        "age": {"Young": 1, "Middle-aged": 2, "Old": 3},
        "gender": {"Male": "m", "Female": "f"},
    }
    columns = {"age": "age_group", "gender": "sex"}
    options = {"q1": [0, 1], "q2": [1, 2, 3]}
    assert len(cells) == 2 * 2 * (3 + 2 + 6)
    for cell in cells.to_dict("records"):
        who = known[known["land"] == cell["country"]]
        for name, column in columns.items():
            if isinstance(cell[name], str):
                who = who[who[column] == levels[name][cell[name]]]
        counts = [
            int((who[cell["question_id"]] == code).sum()) for code in options[cell["question_id"]]
        ]
        assert cell["n"] == sum(counts)
        np.testing.assert_allclose(cell["p"] * cell["n"], counts, atol=1e-9)


@pytest.mark.parametrize("write", [comma, semicolon, parquet, sav, dta])
def test_every_form_gives_exactly_the_counted_cells(tmp_path, answers, write):
    write(answers, tmp_path / "answers")
    made = dataset(tmp_path, tmp_path / "answers")
    check_cells(made.cells, answers)
    assert [attribute.levels for attribute in made.attributes] == [
        ("Young", "Middle-aged", "Old"),
        ("Male", "Female"),
    ]


def test_files_are_put_one_below_the_other(tmp_path, answers):
    comma(answers.iloc[:200], tmp_path / "one.csv")
    parquet(answers.iloc[200:], tmp_path / "two.parquet")
    check_cells(dataset(tmp_path, tmp_path / "one.csv", tmp_path / "two.parquet").cells, answers)


def test_countries_and_weights_can_be_chosen(tmp_path, answers):
    comma(answers, tmp_path / "a.csv")
    made = prepared(tmp_path, tmp_path / "a.csv", "--countries", "mex", "--weights", "weight")
    assert set(made.cells["country"]) == {"MEX"}
    assert (made.cells["effective_n"] < made.cells["n"]).all()
    assert made.manifest["rules"]["weights"] == "weight"


def test_every_two_levels_are_a_pair(tmp_path, answers):
    comma(answers, tmp_path / "a.csv")
    made = dataset(tmp_path, tmp_path / "a.csv")
    pairs = toggle_pairs(made.cells, made.attributes, min_n=10)
    # Of each context: 3 pairs of ages for both genders, 3 of genders.
    assert len(pairs) == 4 * (3 * 2 + 3)


def test_no_respondent_reaches_the_output(tmp_path, answers):
    comma(answers, tmp_path / "a.csv")
    prepared(tmp_path, tmp_path / "a.csv", "--weights", "weight")
    for path in (tmp_path / "dataset").glob("*.parquet"):
        table = pd.read_parquet(path)
        assert not {"diary", "weight", "age_group"} & {*table.columns}
        assert len(table) < 60
    assert "private" not in (tmp_path / "dataset" / "manifest.json").read_text()


def test_training_reads_own_attributes_and_fills_in_the_country(tmp_path, answers, tiny_checkpoint):
    from test_train import small_config

    from ace_jax.training.data import training_data

    comma(answers, tmp_path / "a.csv")
    prepared(tmp_path, tmp_path / "a.csv", "--estimator", "shrunk")
    own = {"data.path": str(tmp_path / "dataset"), "data.questions": (), "data.min_n": 10}
    examples = training_data(small_config(tiny_checkpoint, **own)).train
    assert len(examples.pairs) == 4 * 9
    texts = [prompt.text for prompt in examples.prompts]
    assert sum("trust France's parliament" in text for text in texts) == 6
    assert sum("Middle-aged" in text for text in texts) == len(texts) / 3
    shrunk = read_dataset(tmp_path / "dataset").cells["p_shrunk"].map(tuple)
    assert {tuple(answer) for answer in examples.answers} <= {*shrunk}


LATIN_1 = "land;age_group;sex;q1;q2\nM\xc9X;1;m;0;1\n".encode("latin-1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv is empty"),
        (b"land,age_group,sex,q1\nMEX,1,m,0\n", r"lacks the column q2 .* nearest it has is q1"),
        (b"land,age_group,sex,q1,q2\n", "has a header and no respondents"),
        (b"land,age_group,sex,q1,q2\nMexico,1,m,0,1\n", "country 'Mexico' .* alpha-3"),
        (
            b"land,age_group,sex,q1,q2\nMEX,1,m,Ja,1\n",
            r"a\.csv: column q1 holds the text 'Ja' \(1 ",
        ),
        (b"land,age_group,sex,q1,q2\nMEX,1,None,1,1\n", "column sex holds the text 'None'"),
        (b"land,age_group,sex,q1,q2\nMEX,4,m,0,1\n", "column age_group holds the code 4"),
        (LATIN_1, "is not UTF-8; save it .*cp1252"),
        (b"PAR1 and nothing", "is not a Parquet file"),
        (b"$FL2@(#) SPSS", "is damaged or cut off"),
    ],
)
def test_a_bad_file_is_one_line_and_nothing_is_written(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        prepared(tmp_path, tmp_path / "a.csv")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "dataset").exists()


EDUCATION = """
[[attributes]]
name = "education"
column = "educ"
levels = ["College Educated", "Not College Educated"]
threshold = { name = "college", at_least = 6, level = "College Educated" }
dropped = [-1, 99, "NAP"]
"""


@pytest.mark.parametrize("form", ["csv", "parquet", "sav"])
def test_a_text_among_numbers_leaves_them_numbers(tmp_path, answers, form):
    educ = np.random.default_rng(1).choice([6, 3, -1, 99, 7, 2], SIZE)
    numbers = answers.assign(educ=educ)
    nobody = numbers.head(20).assign(educ="NAP")
    codebook = CODEBOOK.replace("\n[[questions]]", EDUCATION + "\n[[questions]]", 1)
    comma(numbers, tmp_path / "numbers")
    mixed = pd.concat([nobody, numbers], ignore_index=True)
    mixed["educ"] = mixed["educ"].astype(str)
    {"csv": comma, "parquet": parquet, "sav": sav}[form](mixed, tmp_path / "mixed")
    without, having = (
        dataset(tmp_path, tmp_path / name, codebook=codebook).cells for name in ("numbers", "mixed")
    )
    pd.testing.assert_frame_equal(having, without)
    known = np.isin(educ, [6, 3, 7, 2]) & (answers["sex"] != "?") & (answers["q2"] > 0)
    one = without[(without["question_id"] == "q2") & without["education"].notna()]
    assert one.loc[one["granularity"] == 1, "n"].sum() == known.sum()


def test_a_level_may_be_called_as_what_stands_for_none(tmp_path, answers):
    names = {1: "None", 2: "NA", 3: "null"}
    codebook = CODEBOOK.replace("[[1], [2], [3]]", '[["None"], ["NA"], ["null"]]')
    comma(answers.replace({"age_group": names}), tmp_path / "a.csv")
    check_cells(dataset(tmp_path, tmp_path / "a.csv", codebook=codebook).cells, answers)
    # Where the codebook declares no such code, the cell is missing.
    gaps = answers["q2"].astype(object).replace(3, "NA")
    comma(answers.assign(q2=gaps), tmp_path / "a.csv")
    made = dataset(tmp_path, tmp_path / "a.csv").cells
    asked = made[(made["question_id"] == "q2") & (made["granularity"] == 1) & made["age"].notna()]
    assert asked["n"].sum() == ((answers["q2"] < 3) & (answers["sex"] != "?")).sum()


def test_texts_that_look_like_numbers_or_truth_stay_texts(tmp_path, answers):
    names = {1: "01", 2: "1", 3: "2"}
    codebook = CODEBOOK.replace("[[1], [2], [3]]", '[["01"], ["1"], ["2"]]')
    codebook = codebook.replace('[[0, "No"], [1, "Yes"]]', '[[0, "True"], [1, "False"]]')
    table = answers[answers["q1"] < 9].assign(age_group=answers["age_group"].map(names))
    comma(table.assign(q1=table["q1"] == 0), tmp_path / "a.csv")
    known = answers[answers["q1"] < 9]
    check_cells(dataset(tmp_path, tmp_path / "a.csv", codebook=codebook).cells, known)


def test_labels_and_codes_may_stand_side_by_side(tmp_path, answers):
    mixed = answers["q2"].astype(object).replace({1: "little", 3: "3. Much"})
    comma(answers.assign(q2=mixed), tmp_path / "a.csv")
    check_cells(dataset(tmp_path, tmp_path / "a.csv").cells, answers)
    two = CODEBOOK + 'labels = [[2, "Little"]]'
    with pytest.raises(InputError, match="column q2 holds the text 'little'"):
        dataset(tmp_path, tmp_path / "a.csv", codebook=two)


def test_a_codebook_that_names_an_absent_column(tmp_path, answers):
    comma(answers, tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"lacks the column q3 .* nearest it has is q\d"):
        dataset(tmp_path, tmp_path / "a.csv", codebook=CODEBOOK.replace('"q2"', '"q3"'))
