"""Codebooks drafted from files: what they say, and that `prepare` takes them as they are."""

import tomllib

import numpy as np
import pandas as pd
import pyreadstat
import pytest

from ace_jax.errors import InputError
from ace_jax.prepare import main
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.demographics import DEMOGRAPHICS
from ace_jax.survey.draft import draft
from ace_jax.survey.personas import country_of

SIZE = 400
AGREE = {1: "Stimme zu", 2: 'Teils, "teils"', 3: "Stimme nicht zu", 8: "Refused", -9: "Don't know"}
LABELS = {
    "GNDR": {1: "Mann", 2: "Frau", -9: "No answer"},
    "v_educ": {1: "Primary", 2: "Some university", 3: "Bachelor", 4: "Master", 99: "dk/refused"},
    "q1": AGREE,
    "q2": AGREE,
    "q3": {0: "Not at all", 10: "Fully", 77: "Refused"},
    "q4": {1: "Yes", 2: "No", -9: "Don't know"},
    "income": {1: "Under 1,000"},
    "cntry": {},
}
TEXTS = {
    "GNDR": "Sex of the respondent",
    "v_educ": "Q9. Highest education",
    "q1": 'Q1. The people of <COUNTRY> are "fair" \\ [ALL]',
    "q2": "Q2. Women should have the same rights to education as men in every country",
    "q3": "Q3. Trust in [COUNTRY NATIONALITY] parliament",
    "q4": "Q4. Voted",
    "partner_sex": "Partner's sex",
    "pweight": "Weight",
    "alter": "Alter in Jahren",
}


def answers():
    random = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "idno": np.arange(SIZE),
            "cntry": "DE",
            "GNDR": random.choice([1, 2, -9], SIZE, p=[0.48, 0.48, 0.04]),
            "alter": random.choice([*range(18, 90), 999], SIZE),
            "v_educ": random.choice([1, 2, 3, 4, 99], SIZE),
            "q1": random.choice([1, 2, 3, 8, -9], SIZE),
            "q2": random.choice([1, 2, 3, 8, -9], SIZE),
            "q3": random.choice([*range(11), 77], SIZE),
            "q4": random.choice([1, 2, -9], SIZE),
            "income": random.uniform(0, 9000, SIZE),
            "partner_sex": random.choice([1, 2], SIZE),
            "pweight": random.uniform(0.5, 2, SIZE),
        }
    ).astype(dict.fromkeys(("GNDR", "alter", "v_educ", "q1", "q2", "q3", "q4"), float))


def sav(table, path):
    ranges = {"q3": [77], "q1": [8]}
    pyreadstat.write_sav(
        table, path, column_labels=TEXTS, variable_value_labels=LABELS, missing_ranges=ranges
    )


def dta(table, path):
    pyreadstat.write_dta(table, path, column_labels=TEXTS, variable_value_labels=LABELS)


def prepared(tmp_path, data, *arguments):
    codebook, output = str(tmp_path / "draft.toml"), tmp_path / "dataset"
    main(["--draft-codebook", codebook, "--input", str(data), *arguments])
    files = ["--input", str(data), "--output", str(output)]
    main(["--source", "table", "--codebook", codebook, *files])
    return read_dataset(output), tomllib.loads((tmp_path / "draft.toml").read_text("utf-8"))


@pytest.mark.parametrize("write", [sav, dta])
def test_labels_become_a_codebook_that_runs(tmp_path, write):
    table = answers()
    write(table, tmp_path / "data")
    made, book = prepared(tmp_path, tmp_path / "data")
    assert book["country"] == "DEU"
    assert book["missing"] == [[-9, "Don't know"]]  # 8 is an answer to q3
    attributes = {one["name"]: one for one in book["attributes"]}
    assert [*attributes] == ["gender", "age", "education"]
    assert attributes["gender"]["codes"] == [[1], [2]]
    assert attributes["gender"]["levels"] == ["Male", "Female"]
    assert attributes["education"]["levels"] == ["College Educated", "Not College Educated"]
    assert attributes["education"]["codes"] == [[3, 4], [1, 2]]
    assert attributes["education"]["dropped"] == [99]
    cut = attributes["age"]["threshold"]["at_least"]
    assert cut == int(table["alter"][table["alter"] < 900].median())
    assert attributes["age"]["dropped"] == [999]
    questions = {one["column"]: one for one in book["questions"]}
    assert {*questions} == {"q1", "q2", "q3", "q4", "partner_sex"}
    assert questions["q1"]["text"] == 'The people of [COUNTRY] are "fair" \\ (ALL)'
    assert questions["q3"]["text"] == "Trust in [COUNTRY]'s parliament"
    scale = [[code, AGREE[code]] for code in (1, 2, 3)]
    assert book["scales"][questions["q1"]["options"]] == scale
    assert questions["q1"]["dropped"] == [8]
    assert questions["q2"]["options"] == questions["q1"]["options"]
    assert questions["q3"]["options"][0] == [0, "Not at all"]
    assert questions["q3"]["options"][5] == [5, "5"]
    assert questions["q3"]["dropped"] == [77]
    assert not questions["q4"]["ordinal"] and "ordinal" not in questions["q1"]
    text = (tmp_path / "draft.toml").read_text("utf-8")
    assert 'Survey weights: "pweight"' in text
    assert '# numbers in fractions: "income"' in text
    # The cells are those of the codes.
    men = table[(table["GNDR"] == 1) & (table["v_educ"] < 99) & (table["alter"] < 900)]
    cells = made.cells[(made.cells["question_id"] == "q2") & (made.cells["granularity"] == 1)]
    (p,) = cells[cells["gender"] == "Male"]["p"]
    counts = [(men["q2"] == code).sum() for code in (1, 2, 3)]
    np.testing.assert_allclose(p, np.array(counts) / sum(counts))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_values_become_a_codebook_that_runs(tmp_path, form):
    random = np.random.default_rng(4)
    table = pd.DataFrame(
        {
            "land": random.choice(["FRA", "MEX"], SIZE),
            "sexo": random.choice(["H", "M"], SIZE),
            "education": random.choice(["P", "S", "N/A?"], SIZE),
            "How fair is life?": random.choice([1, 2, 3, 4, 8, 9, -1], SIZE),
            "mood": random.choice(["good", "bad", "Refused"], SIZE),
            "step": random.choice(["2. some", "1. none", "10. all"], SIZE),
            "count": random.choice(["1", "2", "3 or more"], SIZE),
            "likes": random.choice([True, False], SIZE),
            "note": [f"text {n}" for n in range(SIZE)],
            "alter": random.choice([1e20, 40.0, 50.0], SIZE),
            "source": "x",
        }
    )
    path = tmp_path / "data"
    table.to_csv(path, index=False, sep=";") if form == "csv" else table.to_parquet(path)
    made, book = prepared(tmp_path, path)
    assert book["country_column"] == "land"
    attributes = {one["name"]: one for one in book["attributes"]}
    assert attributes["gender"]["codes"] == [["H"], ["M"]]
    assert attributes["gender"]["levels"] == ["Male", "Female"]
    questions = {one["column"]: one for one in book["questions"]}
    fair = questions["How fair is life?"]
    assert [code for code, _ in fair["options"]] == [1, 2, 3, 4]
    assert fair["dropped"] == [-1, 8, 9]
    assert not questions["mood"]["ordinal"] and questions["mood"]["dropped"] == ["Refused"]
    assert [label for _, label in questions["step"]["options"]] == ["1. none", "2. some", "10. all"]
    assert questions["count"]["options"] == [[1, "1"], [2, "2"], [3, "3 or more"]]
    assert {*questions} == {"How fair is life?", "mood", "step", "count", "likes"}
    text = (tmp_path / "draft.toml").read_text("utf-8")
    assert "UNSURE: -1, 8, 9 may be no answer" in text
    assert '# numbers too large for codes: "alter"' in text
    assert "the order of the options is not known" in text
    cells = made.cells.query("question_id == 'count' and granularity == 1 and country == 'FRA'")
    who = table[(table["land"] == "FRA") & (table["sexo"] == "H") & (table["education"] != "N/A?")]
    (p,) = cells[cells["gender"] == "Male"]["p"]
    shares = who["count"].value_counts(normalize=True)[["1", "2", "3 or more"]]
    np.testing.assert_allclose(p, shares)


def test_what_a_codebook_refuses_is_in_no_draft(tmp_path):
    """Labels that are blank, alike or placeholders; true and false; blank cells and gaps."""
    rows = "M,yes,[CITY],true,1,\nm,Yes,In town,false,2,.\nF,No,[CITY],true,1, \nf,no,Out,,2,NA\n"
    (tmp_path / "a.csv").write_text("sex,again,where,own,q1,none\n" + rows * 9)
    made, book = prepared(tmp_path, tmp_path / "a.csv", "--countries", "USA")
    (gender,) = book["attributes"]
    assert (gender["levels"], gender["codes"]) == (["Male", "Female"], [["M", "m"], ["F", "f"]])
    options = {one["column"]: one["options"] for one in book["questions"]}
    assert options["again"] == [[1, "No"], [2, "Yes"]]
    assert options["where"] == [[1, "In town"], [2, "Out"], ["[CITY]", "(CITY)"]]
    assert {label for _, label in options["own"]} == {"true", "false"}
    p = made.cells.query("granularity == 1 and gender == 'Male'").set_index("question_id")["p"]
    assert [p[name].tolist() for name in ("again", "where", "own")] == [
        [0, 1],
        [0.5, 0, 0.5],
        [0.5, 0.5],
    ]
    table = pd.DataFrame({"sex": [1.0, 2] * 9, "q1": [1.0, 2, 3] * 6})
    labels = {"sex": {1: "Man", 2: "Woman"}, "q1": {1: "Yes", 2: "yes ", 3: "[CITY]"}}
    pyreadstat.write_sav(table, tmp_path / "b.sav", variable_value_labels=labels)
    for name in ("draft.toml", "dataset"):
        (tmp_path / name).rename(tmp_path / f"first_{name}")
    _, book = prepared(tmp_path, tmp_path / "b.sav", "--countries", "USA")
    assert book["questions"][0]["options"] == [[1, "Yes (1)"], [2, "yes (2)"], [3, "(CITY)"]]


def test_a_question_about_gender_is_not_the_respondent_s(tmp_path):
    table = pd.DataFrame({"Q86": [0.0, 1, 2, 1] * 9, "Q101": [1.0, 2, 2, 1] * 9})
    texts = {"Q86": "Q86. Discrimination based on gender", "Q101": "Q101. Gender of respondent"}
    labels = {"Q86": {0: "Never", 1: "Once", 2: "Often"}, "Q101": {1: "Man", 2: "Woman"}}
    pyreadstat.write_sav(
        table, tmp_path / "a.sav", column_labels=texts, variable_value_labels=labels
    )
    (gender,) = tomllib.loads(draft(tmp_path / "a.sav"))["attributes"]
    assert (gender["column"], gender["levels"]) == ("Q101", ["Male", "Female"])


def test_the_country_is_asked_for_where_nothing_says_it(tmp_path):
    data = tmp_path / "own.csv"
    pd.DataFrame({"sex": ["m", "f"] * 20, "q": [1, 2, 3, 4] * 10}).to_csv(data, index=False)
    assert tomllib.loads(draft(data))["country"] == "???"
    with pytest.raises(InputError, match=r"'\?\?\?'"):
        prepared(tmp_path, data)
    (tmp_path / "draft.toml").unlink()
    made, _ = prepared(tmp_path, data, "--countries", "NOR")
    assert set(made.cells["country"]) == {"NOR"}


@pytest.mark.parametrize(
    ("attribute", "name", "label"),
    [
        ("gender", "Geschlecht", ""),
        ("gender", "Q101", "Respondent's gender"),
        ("gender", "x", "пол"),
        ("age", "edad", ""),
        ("age", "Q1", "Q1. Age"),
        ("education", "eisced", ""),
        ("residence", "urbrur", ""),
        ("marital_status", "x", "Estado civil"),
        ("region", "Bundesland", ""),
    ],
)
def test_attributes_are_known_by_name_and_label(attribute, name, label):
    found = [one for one, its in DEMOGRAPHICS.items() if its.looks_like(name, label)]
    assert found == [attribute]
    about = "How do you find it that people differ by age or sex?"
    assert not DEMOGRAPHICS[attribute].looks_like("q5", about)
    assert not DEMOGRAPHICS["gender"].looks_like("sex", "Partner's sex")


def test_countries_by_code_or_name():
    assert [country_of(text) for text in ("NO", "DEU", "France", "XK", "276")] == [
        "NOR",
        "DEU",
        "FRA",
        None,
        "DEU",
    ]


def test_a_draft_is_refused_in_one_line(tmp_path):
    data = tmp_path / "own.csv"
    data.write_text("id,name\n1,a\n1,a\n")
    command = ["--draft-codebook", str(tmp_path / "d.toml"), "--input", str(data)]
    with pytest.raises(InputError, match="no column that can be a question"):
        main(command)
    with pytest.raises(InputError, match="takes one --input"):
        main([*command, str(data)])
    assert not (tmp_path / "d.toml").exists()
    data.write_text("sex,q,q\n1,1,1\n2,2,2\n")
    with pytest.raises(InputError, match="has the column q twice"):
        main(command)
    data.write_text("sex,q\n1,1\n2,2\n")
    (tmp_path / "d.toml").write_text("mine")
    with pytest.raises(InputError, match="exists; choose another file"):
        main(command)
    with pytest.raises(SystemExit, match="2"):
        main(["--input", str(data)])


def test_a_column_of_lists_is_refused(tmp_path):
    path = tmp_path / "own.parquet"
    pd.DataFrame({"q": [1, 2], "several": [[1], [2]]}).to_parquet(path)
    with pytest.raises(InputError, match="column several holds lists or records"):
        draft(path)


def test_a_draft_carries_how_its_file_is_spelt(tmp_path):
    data, made = tmp_path / "own.csv", tmp_path / "d.toml"
    data.write_text("sexe;q\nfemme;né\nhomme;né\nhomme;ça\nfemme;ça\n", encoding="cp1252")
    command = ["--draft-codebook", str(made), "--input", str(data), "--countries", "FRA"]
    with pytest.raises(InputError, match=r"is not UTF-8; .*a draft of one: --form enc"):
        main(command)
    with pytest.raises(InputError, match="--form: `encoding` is 'klingon'; give the name of one"):
        main([*command, "--form", "encoding=klingon"])
    with pytest.raises(InputError, match="--form has the unknown key `sheets`; known are encoding"):
        main([*command, "--form", "sheets=a"])
    main([*command, "--form", "encoding=cp1252", "delimiter=;"])
    assert {"encoding": "cp1252", "delimiter": ";"}.items() <= tomllib.loads(
        made.read_text("utf-8")
    ).items()
    codebook = ["--source", "table", "--codebook", str(made), "--input", str(data)]
    main([*codebook, "--output", str(tmp_path / "own")])
    assert len(read_dataset(tmp_path / "own").cells) == 2
    with pytest.raises(SystemExit, match="2"):
        main([*codebook, "--output", str(tmp_path / "own"), "--form", "sheet=a"])
