from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from issp_files import AGREE, OLD_ITEMS, SIZE, dta, environment, labelled, national_identity, sav

from ace_jax.errors import InputError
from ace_jax.survey.build import build
from ace_jax.survey.cells import aggregate, complete_cases, from_table
from ace_jax.survey.codebook import describe, with_rules
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.readers import issp
from ace_jax.survey.readers.issp import degrees
from ace_jax.survey.readers.sources import select
from ace_jax.survey.readers.value_labels import Column

ALPHA3 = {"DE": "DEU", "GB": "GBR", "PH": "PHL", "BE": "BEL", "IL": "ISR", "CL": "CHL"}
LEVELS = [attribute.name for attribute in ATTRIBUTES]


@pytest.fixture(scope="module")
def old():
    return national_identity()


@pytest.fixture(scope="module")
def new():
    return environment()


@pytest.fixture(scope="module")
def files(old, new, tmp_path_factory):
    directory = tmp_path_factory.mktemp("issp")
    # Whatever they are called.
    return [dta(new, directory / "one.sav"), sav(old, directory / "two.dta")]


@pytest.fixture(scope="module")
def read(files):
    return issp.read(files)


def levels(table, education):
    """The attributes of respondents, by the documented rules, independently of the reader."""
    alpha = table["c_alphan" if "c_alphan" in table else "C_ALPHAN"]
    marital = table["MARITAL"].map({1: "Married"} | dict.fromkeys(range(2, 7), "Not Married"))
    return pd.DataFrame(
        {
            "country": alpha.str[:2].map(ALPHA3),
            "gender": table["SEX"].map({1: "Male", 2: "Female"}),
            "education": education,
            "residence": np.where(table["URBRURAL"] >= 4, "Rural", "Urban"),
            "marital_status": marital,
            "weight": table["WEIGHT"],
        }
    )


def counted(people, answers, codes):
    """The cells of one question by plain groupbys."""
    frame = people.assign(answer=answers)[answers.isin(codes)].dropna()
    cells = {}
    for size in (1, 2, 3, 4):
        for named in combinations(LEVELS, size):
            for key, rows in frame.groupby(["country", *named]):
                level = dict(zip(["country", *named], key, strict=True))
                shares = rows.groupby("answer")["weight"].sum() / rows["weight"].sum()
                effective_n = rows["weight"].sum() ** 2 / (rows["weight"] ** 2).sum()
                persona = (level["country"], *(level.get(name, "") for name in LEVELS))
                cells[persona] = (len(rows), effective_n, [shares.get(c, 0.0) for c in codes])
    return cells


KNOWN = {
    "issp2013_v5": (1, 2, 3, 4, 5),
    "issp2013_v6": tuple(range(11)),
    "issp2013_v7": (1, 2),
    "issp2013_v8": (1, 2, 8, 9),
    "issp2020_v1": (1, 2, 3, 4, 5),
    "issp2020_v2": tuple(range(1, 11)),
    "issp2020_v3": (1, 2, 3),
}


@pytest.mark.parametrize("weights", [None, "WEIGHT"])
def test_two_modules_give_exactly_the_known_cells(read, old, new, weights):
    complete = complete_cases(from_table(read.table, read.codebook, weights), ATTRIBUTES)
    made = aggregate(complete, ATTRIBUTES, read.codebook.questions)
    degree = old["DEGREE"].where(old["DEGREE"] <= 6)
    level = new["EDULEVEL"].where(new["EDULEVEL"].between(0, 8))
    names = {True: "College Educated", False: "Not College Educated"}
    people = {
        "issp2013": levels(old, (degree >= 5).map(names).where(degree.notna())),
        "issp2020": levels(new, (level >= 5).map(names).where(level.notna())),
    }
    assert set(made["question_id"]) == set(KNOWN)
    for question_id, codes in KNOWN.items():
        module, name = question_id.split("_")
        table = {"issp2013": old, "issp2020": new}[module]
        who = people[module] if weights else people[module].assign(weight=1.0)
        answers = table[name.upper() if name.upper() in table else name]
        known = counted(who, answers, codes)
        cells = made[made["question_id"] == question_id]
        keys = cells[["country", *LEVELS]].astype(object).fillna("")
        found = dict(
            zip(keys.itertuples(index=False, name=None), cells.to_dict("records"), strict=True)
        )
        assert found.keys() == known.keys()
        for key, (n, effective_n, p) in known.items():
            assert found[key]["n"] == n
            assert found[key]["effective_n"] == pytest.approx(effective_n, rel=1e-9)
            np.testing.assert_allclose(found[key]["p"], p, rtol=1e-9, atol=1e-12)


def test_parts_of_a_country_are_one_country(read, old, new):
    counts = read.table["country"].value_counts()
    assert set(counts.index) == {"DEU", "GBR", "PHL", "BEL", "ISR", "CHL"}
    in_germany = old["C_ALPHAN"].isin(["DE-W", "DE-E"]).sum() + (new["c_alphan"] == "DE").sum()
    assert counts["DEU"] == in_germany


def test_countries_can_be_numbers(tmp_path, old):
    by_number = issp.read([sav(old.drop(columns="C_ALPHAN"), tmp_path / "a")]).table
    by_letters = issp.read([sav(old, tmp_path / "b")]).table
    pd.testing.assert_series_equal(by_number["country"], by_letters["country"])


def test_weights_may_be_called_otherwise_or_be_absent(tmp_path, new):
    named = issp.read([dta(new.rename(columns={"WEIGHT": "WEIGHT_COM"}), tmp_path / "a")])
    np.testing.assert_array_equal(named.table["WEIGHT"], new["WEIGHT"])
    without = issp.read([dta(new.drop(columns="WEIGHT"), tmp_path / "b")])
    assert len(from_table(without.table, without.codebook)) == len(new)
    with pytest.raises(InputError, match="no column WEIGHT"):
        from_table(without.table, without.codebook, "WEIGHT")


def test_missing_values_of_stata_s_own_are_no_answers(tmp_path, new):
    answers = new["v3"].astype(object).mask(new["v3"] == 2, "a")
    own = {"missing_user_values": {"v3": ["a"]}}
    read = issp.read([dta(new.assign(v3=answers), tmp_path / "file", **own)])
    kept = read.table["issp2020_v3"].dropna()
    np.testing.assert_array_equal(kept, new["v3"][new["v3"] != 2])


def test_questions_are_what_the_file_says(read):
    questions = {question.question_id: question for question in read.codebook.questions}
    assert {name: question.option_codes for name, question in questions.items()} == KNOWN
    close, trust = questions["issp2013_v5"], questions["issp2013_v6"]
    assert (close.source, close.topic) == ("issp", "National Identity")
    assert close.text == "How close do you feel to [COUNTRY]?"
    assert close.option_labels == tuple(AGREE.values())
    assert trust.text == "Trust in [COUNTRY]'s parliament"
    numbers = tuple(str(code) for code in range(1, 10))
    assert trust.option_labels == ("0, No trust at all", *numbers, "10, Complete trust")
    ahead = questions["issp2020_v1"]
    assert (ahead.topic, ahead.text) == ("Environment", "It is hard to get ahead in [COUNTRY]")
    assert ahead.option_labels == tuple(AGREE.values())
    ordinal = {name for name, question in questions.items() if question.ordinal}
    assert ordinal == KNOWN.keys() - {"issp2013_v7", "issp2013_v8"}


def test_answers_of_8_and_9_are_kept_and_missing_codes_are_declared(read, old):
    dropped = {question.question_id: question.dropped for question in read.codebook.questions}
    assert dropped == {
        "issp2013_v5": (8, 9),
        "issp2013_v6": (98, 99),
        "issp2013_v7": (0, 9),
        "issp2013_v8": (98,),
        "issp2020_v1": (-9, -8),
        "issp2020_v2": (),
        "issp2020_v3": (-4,),
    }
    trust = from_table(read.table, read.codebook)["issp2013_v6"]
    assert (trust == 8).sum() == (old["V6"] == 8).sum() > 0
    assert (trust == 9).sum() == (old["V6"] == 9).sum() > 0
    assert trust.notna().sum() == (old["V6"] <= 10).sum()


def test_what_is_left_out_is_counted(read, files, old):
    notes = read.notes["modules"]
    assert list(notes) == ["issp2013", "issp2020"]
    module = notes["issp2013"]
    assert module["left_out"] == {
        "more than 11 options": ["V9"],
        "fewer than two labelled options": ["V10"],
        "no answers": ["V11"],
        "answers without a label": ["V12"],
        "no text": ["V13"],
    }
    without_text = notes["issp2020"]["left_out"].get("no text", [])
    assert read.notes["left_out"]["no text"] == 1 + len(without_text)
    assert module["study"] == "ZA5950"
    assert (module["file"], module["respondents"], module["questions"]) == ("two.dta", SIZE, 4)
    concubinage = int((old["MARITAL"] == 7).sum())
    assert module["attributes"]["MARITAL"]["no_level"] == {"7 Concubinage": concubinage}
    assert "National Identity 2013 (ZA5950), Environment 2020 (ZA7650)" in read.codebook.citation


def test_the_order_of_the_files_does_not_show(read, files):
    again = issp.read(files[::-1])
    assert (again.codebook, again.notes) == (read.codebook, read.notes)
    pd.testing.assert_frame_equal(again.table, read.table)


def test_the_rules_are_declared_and_can_be_moved(read):
    attributes = describe(read.codebook)["attributes"]
    assert attributes["education"]["levels"]["College Educated"] == ">= 5"
    assert attributes["education"]["dropped_codes"] == [-9, 9]
    assert attributes["residence"]["levels"] == {"Rural": ">= 4", "Urban": "< 4"}
    assert attributes["marital_status"]["levels"]["Not Married"] == [2, 3, 4, 5, 6]
    assert attributes["marital_status"]["dropped_codes"] == [7, 9]
    moved = with_rules(read.codebook, {"education.college": 6.0, "residence.rural": 3.0})
    frame = from_table(read.table, moved)
    assert (frame["education"] == "College Educated").sum() == (read.table["DEGREE"] == 6).sum()
    assert (frame["residence"] == "Rural").sum() == (read.table["URBRURAL"] >= 3).sum()


def test_degree_is_read_from_the_labels_of_edulevel(read, new):
    about = read.notes["modules"]["issp2020"]["attributes"]["DEGREE"]
    assert about["column"] == "EDULEVEL"
    assert about["as_DEGREE"]["5 Short-cycle tertiary"] == 5
    assert about["as_DEGREE"]["4 Post secondary, non-tertiary"] == 4
    assert about["no_level"] == {"9 Other": int((new["EDULEVEL"] == 9).sum())}
    degree = read.table["DEGREE"][read.table["issp2020_v3"].notna()].reset_index(drop=True)
    known = new["EDULEVEL"].map(dict(enumerate((0, 1, 2, 3, 4, 5, 5, 6, 6))))
    pd.testing.assert_series_equal(degree, known, check_names=False)
    labels = {1: "Upper secondary", 2: "Bachelor", 3: "Ph.D.", 7: "Other"}
    assert degrees(Column("EDULEVEL", pd.Series(), labels=labels)) == {1: 1, 2: 5, 3: 6}


def broken(old, new, directory, how):
    path = directory / "file"
    if how == "empty":
        path.write_bytes(b"")
    elif how == "csv":
        old.to_csv(path, index=False)
    elif how == "cut":
        sav(old, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif how == "cut header":
        sav(old, path)
        path.write_bytes(path.read_bytes()[:300])
    elif how == "renamed":
        sav(old.drop(columns="V4").rename(columns={"C_ALPHAN": "C_ALPHA"}), path)
    elif how == "country":
        sav(old.replace({"C_ALPHAN": {"PH": "XK"}}), path)
    elif how == "no country":
        sav(old.replace({"C_ALPHAN": {"PH": ""}}), path)
    elif how == "text":
        text = old.assign(SEX=old["SEX"].map({1: "Male", 2: "Female"}))
        _, labels = labelled(OLD_ITEMS)
        sav(text, path, variable_value_labels=labels, missing_ranges={})
    elif how == "no labels":
        sav(old, path, variable_value_labels={})
    elif how == "no items":
        sav(old.drop(columns=list(OLD_ITEMS)), path, missing_ranges={})
    elif how == "no rows":
        sav(old.head(0), path)
    elif how == "other study":
        sav(old.assign(V1=4850.0), path)
    elif how == "no study":
        sav(old.drop(columns="V1"), path)
    elif how == "other codes":
        sav(old.assign(SEX=old["SEX"] - 1), path)
    return [path]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "is empty; download it again"),
        ("csv", r"file has no value labels; give the complete .sav or .dta file"),
        ("cut", "file is (damaged or )?cut off"),
        ("cut header", "file is damaged or cut off"),
        ("renamed", r"lacks the column C_ALPHAN \(1 of 1 .*the nearest it has is C_ALPHA"),
        ("country", r"column C_ALPHAN holds the country 'XK' \(\d+ respondents\)"),
        ("no country", r"column C_ALPHAN holds the country '' \(\d+ respondents\)"),
        ("text", r"column SEX holds the text '(Fem|M)ale' \(\d+ .*is no code"),
        ("no labels", "has no value labels"),
        ("no items", "has no item with labelled options"),
        ("no rows", "has a header and no respondents"),
        ("other study", r"is study ZA4850 \(V1\); the modules known are ZA5500"),
        ("no study", "does not say which module it is"),
        ("other codes", "nobody is Female by the codes of column SEX"),
    ],
)
def test_bad_files_are_refused(tmp_path, old, new, how, message):
    with pytest.raises(InputError, match=message) as error:
        issp.read(broken(old, new, tmp_path, how))
    assert "\n" not in str(error.value)


def test_a_module_is_given_once(tmp_path, old, files):
    with pytest.raises(InputError, match=r"is the module of 2013 again, after two\.dta"):
        issp.read([*files, sav(old, tmp_path / "again")])
    with pytest.raises(InputError, match=r"cannot read .*none: No such file"):
        issp.read([tmp_path / "none"])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("any.sav", "ISSP 2013 - National Identity III"),
        ("ZA5950_v2-0-0.sav", ""),
        ("issp2013.sav", ""),
    ],
)
def test_without_a_study_number_labels_and_names_decide(tmp_path, old, name, label):
    path = sav(old.drop(columns="V1"), tmp_path / name, file_label=label)
    assert [*issp.read([path]).notes["modules"]] == ["issp2013"]


def test_an_extract_gives_the_cells_of_what_it_has(tmp_path, old, new):
    short = old.drop(columns=["MARITAL", "V7", "V8"])
    raw = select(issp.read([sav(short, tmp_path / "a"), dta(new, tmp_path / "b")]), ["ALL"])
    assert [one.name for one in raw.codebook.attributes] == ["gender", "education", "residence"]
    assert raw.notes["attributes_not_in_input"] == ["marital_status"]
    made = build(raw, [], {})
    assert set(made.questions["question_id"]) == KNOWN.keys() - {"issp2013_v7", "issp2013_v8"}
    without = select(issp.read([dta(new.drop(columns="EDULEVEL"), tmp_path / "c")]), ["ALL"])
    with pytest.raises(InputError, match="no column DEGREE, which education needs"):
        build(without, [], {})
    gender_only = build(without, [], {"education": None})
    assert "education" not in gender_only.cells
