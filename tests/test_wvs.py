from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pyreadstat
import pytest

from ace_jax.errors import InputError
from ace_jax.prepare import main
from ace_jax.runtime.progress import show_messages
from ace_jax.survey.cells import aggregate, complete_cases, from_table
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.survey.readers import wvs
from ace_jax.survey.readers.sources import EVERY_COUNTRY, QUESTIONS, TIERS, select

CODEBOOK = read_codebook(BUILTIN / "wvs7.toml")
SIZE = 600  # respondents of Egypt and of Chile; a tenth as many of Uruguay, which is not one of 14


@pytest.fixture(scope="module")
def answers():
    """Codes as the cross-national file has them, with every kind that a rule is about."""
    random = np.random.default_rng(7)
    countries = ["EGY"] * SIZE + ["CHL"] * SIZE + ["URY"] * (SIZE // 10)
    size = len(countries)
    columns = {
        "A_WAVE": np.full(size, 7),
        "B_COUNTRY_ALPHA": countries,
        "W_WEIGHT": random.uniform(0.5, 2, size).round(3),
        "Q260": random.choice([1, 2, 1, 2, 1, 2, -5], size),
        "Q275": random.choice([0, 2, 4, 5, 6, 7, 8, -2], size),
        "H_URBRURAL": random.integers(1, 3, size),
        "Q273": random.choice([1, 1, 1, 2, 3, 6], size),
    }
    for question in CODEBOOK.questions:
        if question.paper:
            name = question.question_id
            codes = {
                *question.option_codes,
                *question.dropped,
                *(code for code, _ in question.merged),
            }
            columns[name] = random.choice(sorted(codes), size)
    columns["Q1"] = random.choice([1, 1, 1, 1, 1, 1, 1, 2, 3, 4, -1], size)
    return pd.DataFrame(columns)


def comma_csv(table, directory):
    path = directory / "one.txt"
    table.assign(Q2=table["Q2"].astype(float)).to_csv(path, index=False)
    return [path]


def sav(table, directory):
    path = directory / "two.bin"
    ranges = {"Q3": [{"lo": -5, "hi": -1}]}
    labels = {"Q1": {1: "Vital", 2: "Rather", 3: "Hardly", 4: "Never"}, "Q260": {1: "Man"}}
    pyreadstat.write_sav(table, path, missing_ranges=ranges, variable_value_labels=labels)
    return [path]


def dta(table, directory):
    path = directory / "three.csv"  # whatever it is called
    labels = {"Q4": {1: "Vital", 2: "Rather", 3: "Hardly", 4: "Never", -1: "Dunno"}}
    pyreadstat.write_dta(table, path, variable_value_labels=labels)
    return [path]


def labelled_csv(table, directory):
    """A file a country, as they are handed out one by one."""
    paths = []
    for country, rows in table.groupby("B_COUNTRY_ALPHA"):
        cells = {"": range(len(rows))}
        for name, column in rows.items():
            label = dict(reversed(CODEBOOK.labels.get(name, ())))
            spelled = [str(label.get(code, code)) for code in column]
            cells[f'{name} The "{name}", or: so; {country}'] = spelled
        frame = pd.DataFrame(cells)
        odd = {"Very important": "1.-  very Important ", "Don't know": "Don\u00b4t know"}
        paths.append(directory / f"{country}.csv")
        frame.replace(odd).to_csv(paths[-1], index=False, sep=";")
    return paths


CHECKED = ("Q1", "Q3", "Q56", "Q94", "Q111", "Q119", "Q221", "Q241", "Q254")


def tabs(table, directory):
    table.to_csv(directory / "tabs", index=False, sep="\t")
    return [directory / "tabs"]


def expected(answers, question_id, weighted):
    """The cells of a question, counted one respondent at a time."""
    question = next(q for q in CODEBOOK.questions if q.question_id == question_id)
    sums = {}
    for row in answers.to_dict("records"):
        level = {
            "gender": {1: "Male", 2: "Female"}.get(row["Q260"]),
            "education": "College Educated" if row["Q275"] >= 6 else "Not College Educated",
            "residence": {1: "Urban", 2: "Rural"}[row["H_URBRURAL"]],
            "marital_status": "Married" if row["Q273"] == 1 else "Not Married",
        }
        code = row[question_id]
        if question_id in ("Q241", "Q249") and code == 0:
            code = 1
        out = row["B_COUNTRY_ALPHA"] == "URY" or level["gender"] is None or row["Q275"] < 0
        if out or code not in question.option_codes:
            continue
        for size in (1, 2, 3, 4):
            for named in combinations(level, size):
                key = (row["B_COUNTRY_ALPHA"], *(level[a] if a in named else "" for a in level))
                shares = sums.setdefault(key, [])
                weight = row["W_WEIGHT"] if weighted else 1.0
                shares.append((question.option_codes.index(code), weight))
    cells = {}
    for key, given in sums.items():
        weights = np.array([weight for _, weight in given])
        p = np.zeros(len(question.option_codes))
        for position, weight in given:
            p[position] += weight / weights.sum()
        cells[key] = (len(given), weights.sum() ** 2 / (weights**2).sum(), p)
    return cells


def prepared(directory, paths, *arguments):
    output = directory / "dataset"
    files = ["--input", *map(str, paths), "--output", str(output)]
    main(["--source", "wvs7", *files, *arguments])
    return read_dataset(output)


@pytest.mark.parametrize("form", [comma_csv, tabs, sav, dta, labelled_csv])
def test_every_form_gives_the_same_codes(tmp_path, answers, form):
    read = wvs.read(form(answers, tmp_path)).table
    assert set(read) == set(answers) - {"A_WAVE"}
    read = read.sort_values("B_COUNTRY_ALPHA", kind="stable", ignore_index=True)
    kept = answers.sort_values("B_COUNTRY_ALPHA", kind="stable", ignore_index=True)
    for name in read:
        given = kept[name]
        if form is sav and name == "Q3":
            given = given.where(given > 0)  # the file itself declares these missing
        if read[name].dtype.kind == "f":
            np.testing.assert_array_equal(read[name], given.astype(float), name)
        else:
            assert read[name].tolist() == given.tolist(), name


def check_cells(made, answers, weighted):
    for question_id in CHECKED:
        cells = made[made["question_id"] == question_id]
        known = expected(answers, question_id, weighted)
        names = ["country", *(attribute.name for attribute in ATTRIBUTES)]
        keys = cells[names].astype(object).fillna("").itertuples(index=False, name=None)
        found = dict(zip(keys, cells[["n", "effective_n", "p"]].to_numpy(), strict=True))
        assert found.keys() == known.keys()
        for key, (n, effective_n, p) in known.items():
            assert found[key][0] == n
            assert found[key][1] == pytest.approx(effective_n, rel=1e-9)
            np.testing.assert_allclose(found[key][2], p, rtol=1e-9, atol=1e-12)


def test_labels_give_exactly_the_known_cells(tmp_path, answers):
    raw = select(wvs.read(labelled_csv(answers, tmp_path)))
    few = [question for question in raw.codebook.questions if question.question_id in CHECKED]
    codebook = replace(raw.codebook, questions=tuple(few))
    for weights in (None, "W_WEIGHT"):
        respondents = complete_cases(from_table(raw.table, codebook, weights), ATTRIBUTES)
        check_cells(aggregate(respondents, ATTRIBUTES, codebook.questions), answers, bool(weights))


def test_the_command_writes_the_known_cells(tmp_path, answers, capsys):
    show_messages()
    made = prepared(tmp_path, comma_csv(answers, tmp_path), "--weights", "W_WEIGHT")
    check_cells(made.cells, answers, weighted=True)
    assert len(made.questions) == 240
    rules = made.manifest["rules"]
    assert rules["weights"] == "W_WEIGHT"
    assert rules["countries"] == ["CHL", "EGY"]
    assert len(rules["countries_not_in_input"]) == 12
    assert "CHL, EGY (not in the input: AUS, DEU," in capsys.readouterr().err


def test_what_is_chosen_is_recorded(tmp_path, answers):
    ruled = ["--rule", "education.college=4", "--questions", "strictly-ordinal"]
    paths = comma_csv(answers[::6], tmp_path)
    made = prepared(tmp_path, paths, "--countries", "ury", "EGY", *ruled)
    rules = made.manifest["rules"]
    assert rules["countries"] == ["EGY", "URY"] == sorted(made.cells["country"].unique())
    assert rules["questions"] == "strictly-ordinal"
    assert rules["attributes"]["education"]["levels"]["College Educated"] == ">= 4"
    assert rules["missing_codes"] == [-1, -2, -3, -4, -5]
    assert rules["dropped_codes"] == {"Q221": [4], "Q222": [4], "Q254": [5]}
    assert rules["merged_codes"]["Q241"] == [[0, 1]]
    assert len(made.questions) == 203
    assert rules["left_out"] == {"not among strictly-ordinal": len(CODEBOOK.questions) - 203}
    assert made.questions["ordinal"].all()


def test_all_questions_can_be_taken(tmp_path, answers):
    """Also the 20 that are not among the paper's."""
    random = np.random.default_rng(8)
    others = {q.question_id: q for q in CODEBOOK.questions if not q.paper}
    columns = {
        name: random.choice([*q.option_codes, -1], len(answers)) for name, q in others.items()
    }
    few = answers.assign(**columns)[answers["B_COUNTRY_ALPHA"] != "EGY"][::6]
    made = prepared(tmp_path, labelled_csv(few, tmp_path), "--questions", "all")
    assert len(made.questions) == 260
    other = next(iter(others))
    known = expected(few, other, weighted=False)
    assert made.cells.loc[made.cells["question_id"] == other, "n"].sum() == sum(
        n for n, _, _ in known.values()
    )


def test_a_tier_or_all_countries_can_be_taken(answers, tmp_path):
    raw = wvs.read(comma_csv(answers, tmp_path))
    assert select(raw, EVERY_COUNTRY).notes["countries"] == ["CHL", "EGY", "URY"]
    africa = raw.table.replace({"B_COUNTRY_ALPHA": {"CHL": "ETH", "URY": "NGA"}})
    taken = select(replace(raw, table=africa), ["TIER3"])
    assert taken.notes["countries"] == ["EGY", "ETH", "NGA"]
    assert len(taken.table) == len(africa)
    assert {*TIERS} == {*CODEBOOK.countries}


def broken(answers, directory, how):
    """Writes a file that is wrong in one way."""
    path = comma_csv(answers, directory)[0]
    if how == "inverted":
        answers.assign(Q1=5 - answers["Q1"]).to_csv(path, index=False)
    elif how == "labels":
        answers.replace({"Q6": {1: "Hardly"}}).to_csv(path, index=False)
    elif how == "latin-1 header":
        path.write_bytes(path.read_bytes().replace(b"A_WAVE", b"A_WAV\xc9", 1))
    elif how == "something else":
        path.write_text("a,b\n1,2\n", encoding="utf-8")
    elif how == "cut dta":
        path = dta(answers, directory)[0]
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif how == "unknown label":
        path = labelled_csv(answers, directory)[1]
        path.write_text(
            path.read_text("utf-8").replace("Rather important", "Rather so", 1), "utf-8"
        )
    return [path]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("inverted", r"seems to be the inverted edition: \d+% of its .*the standard edition"),
        ("labels", r"column Q6 holds the text 'Hardly' \(\d+ .*no code and not the label"),
        ("latin-1 header", "is not UTF-8"),
        ("something else", "lacks the column B_COUNTRY_ALPHA .*nothing like it"),
        ("cut dta", "three.csv is (damaged or )?cut off"),
        ("unknown label", r"\.csv: column Q\d+ holds the text 'Rather so'"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_written(tmp_path, answers, how, message):
    with pytest.raises(InputError, match=message) as error:
        prepared(tmp_path, broken(answers, tmp_path, how))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*dataset*"))


def test_a_country_is_given_once_and_files_exist(tmp_path, answers):
    paths = labelled_csv(answers, tmp_path)
    with pytest.raises(InputError, match=r"has respondents of EGY, as .*EGY\.csv has"):
        wvs.read([*paths, *comma_csv(answers, tmp_path)])
    with pytest.raises(InputError, match=r"cannot read .*none\.csv: No such file"):
        wvs.read([tmp_path / "none.csv"])


def test_only_other_countries_ask_for_a_list(tmp_path, answers):
    paths = comma_csv(answers[answers["B_COUNTRY_ALPHA"] == "URY"], tmp_path)
    with pytest.raises(InputError, match="only URY; name those wanted with --countries"):
        prepared(tmp_path, paths)


def test_the_codebook_has_the_paper_s_240_questions_by_topic():
    assert CODEBOOK.attributes == ATTRIBUTES
    assert len(CODEBOOK.questions) == 260
    chosen = list(filter(QUESTIONS["all-240"], CODEBOOK.questions))
    # Table 2a of the paper.
    assert Counter(question.topic for question in chosen) == {
        "Social values, attitudes & stereotypes": 44,
        "Social capital, trust & organizational membership": 36,
        "Political interest & participation": 36,
        "Political culture & regimes": 25,
        "Ethical values & norms": 23,
        "Security": 21,
        "Religious values": 12,
        "Happiness & well-being": 11,
        "Migration": 10,
        "Corruption": 9,
        "Economic values": 6,
        "Science & technology": 6,
        "Demographics": 1,
    }
    assert sum(map(QUESTIONS["strictly-ordinal"], CODEBOOK.questions)) == 203
    assert len({question.text for question in CODEBOOK.questions}) == 260
    assert not [q.text for q in CODEBOOK.questions if not q.text.endswith("?") or "[" in q.text]


def test_the_codebook_repairs_orders():
    options = {question.question_id: question.option_codes for question in CODEBOOK.questions}
    assert options["Q56"] == (1, 3, 2)
    assert options["Q119"] == (1, 2, 0, 3, 4)
    assert options["Q111"] == (1, 2)
    assert options["Q221"] == options["Q222"] == (1, 2, 3)
    assert options["Q254"] == (1, 2, 3, 4)
    assert all(options[f"Q{number}"] == tuple(range(1, 11)) for number in range(241, 250))
    merged = {question.question_id for question in CODEBOOK.questions if question.merged}
    assert merged == {f"Q{number}" for number in range(241, 250)}


FOURTEEN = [f"Q{n}" for n in (1, 2, 3, 6, 27, 46, 57, 106, *range(164, 170))]
KEPT = ["B_COUNTRY_ALPHA", "W_WEIGHT", "Q260", "Q275", "H_URBRURAL", *FOURTEEN]


def extract(answers, directory, columns=KEPT, form=comma_csv):
    return form(answers.loc[answers["B_COUNTRY_ALPHA"] != "URY", columns], directory)


@pytest.mark.parametrize("form", [comma_csv, sav])
def test_an_extract_gives_the_cells_of_what_it_has(tmp_path, answers, form, capsys):
    show_messages()
    made = prepared(tmp_path, extract(answers, tmp_path, form=form))
    assert [attribute.name for attribute in made.attributes] == ["gender", "education", "residence"]
    assert set(made.questions["question_id"]) == set(FOURTEEN)
    assert set(made.cells["country"]) == {"CHL", "EGY"}
    # Married or not: the cells that name no marital status are those of the whole file.
    cells = made.cells[made.cells["question_id"] == "Q1"]
    known = expected(answers, "Q1", weighted=False)
    known = {key[:-1]: its for key, its in known.items() if not key[-1]}
    keys = cells[["country", "gender", "education", "residence"]].astype(object).fillna("")
    found = dict(zip(keys.itertuples(index=False, name=None), cells["n"], strict=True))
    assert found == {key: n for key, (n, _, _) in known.items()}
    rules = made.manifest["rules"]
    assert rules["attributes_not_in_input"] == ["marital_status"]
    assert len(rules["questions_not_in_input"]) == 240 - 14
    line = next(line for line in capsys.readouterr().err.splitlines() if "Taken" in line)
    assert "14 of 240 questions" in line
    assert "attributes gender, education, residence (not in the input: marital_status)" in line
    assert "countries CHL, EGY (not in the input: AUS, DEU," in line


@pytest.mark.parametrize(
    ("without", "arguments", "message"),
    [
        (["B_COUNTRY_ALPHA"], [], "lacks the column B_COUNTRY_ALPHA"),
        (FOURTEEN, [], r"has no question of wvs7 \(columns Q1, "),
        (["Q275"], [], r"no column Q275, which education needs.*--rule education=none"),
        (["Q275"], ["--rule", "education.college=5"], "no column Q275, which education needs"),
        (["Q260", "Q275", "H_URBRURAL"], [], r"none of the attributes: Q260 \(gender\), Q275"),
        ([], ["--countries", "EGX"], "--countries: 'EGX' is not known; did you mean EGY"),
        ([], ["--weights", "PWGHT"], "no column PWGHT"),
        ([], ["--rule", "income=none"], "no such rule; it has education.college, and"),
        ([], ["--rule", "gender=3"], "no such rule"),
        (
            [],
            ["--rule", "gender=none", "education=none", "residence=none"],
            "takes every attribute out",
        ),
    ],
)
def test_an_extract_is_refused_for_what_it_cannot_do_without(
    tmp_path, answers, without, arguments, message
):
    kept = [name for name in KEPT if name not in without]
    paths = extract(answers, tmp_path, kept, tabs)
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, paths, *arguments)
    assert not (tmp_path / "dataset").exists()


def test_an_attribute_can_be_left_out_by_a_rule(tmp_path, answers):
    paths = extract(answers, tmp_path, [name for name in KEPT if name != "Q275"])
    made = prepared(tmp_path, paths, "--rule", "education=none")
    assert [attribute.name for attribute in made.attributes] == ["gender", "residence"]


def test_files_of_single_countries_may_have_different_questions(tmp_path, answers, capsys):
    show_messages()
    paths = extract(answers.drop(columns="Q1"), tmp_path, KEPT[:5] + FOURTEEN[1:], labelled_csv)
    chile = pd.read_csv(paths[0], sep=";", dtype=str)
    short = [name for name in chile if not name.startswith(("Q3 ", "H_URB"))]
    chile[short].to_csv(paths[0], sep=";", index=False)
    made = prepared(tmp_path, paths)
    asked = made.cells[made.cells["question_id"] == "Q3"]
    assert set(asked["country"]) == {"EGY"}
    assert [attribute.name for attribute in made.attributes] == ["gender", "education"]
    assert "without Q1, nothing shows whether CHL.csv, EGY.csv" in capsys.readouterr().err
