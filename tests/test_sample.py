import numpy as np
import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.prepare import main
from ace_jax.survey.cells import split_respondents
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.readers.tables import Raw

CODEBOOK = read_codebook(BUILTIN / "eqls2011.toml")


def raw(sizes):
    country = np.repeat(list(sizes), list(sizes.values()))
    table = pd.DataFrame({"country": country, "id": np.arange(len(country))})
    return Raw(table, CODEBOOK, {"filters": ["wave == 2011"]})


def test_a_share_is_drawn_within_each_country():
    whole = raw({"DEU": 40, "AUT": 10, "POL": 2})
    parts = split_respondents(whole, "0.1@3")
    assert parts["sample"].table["country"].value_counts().to_dict() == {
        "DEU": 4,
        "AUT": 1,
        "POL": 1,
    }
    drawn, rest = (set(parts[name].table["id"]) for name in ("sample", "rest"))
    assert drawn | rest == set(range(52)) and not drawn & rest
    again = split_respondents(whole, "0.1@3")["sample"].table
    pd.testing.assert_frame_equal(again, parts["sample"].table)
    assert drawn != set(split_respondents(whole, "0.1@4")["sample"].table["id"])
    noted = {"part": "rest", "share": 0.1, "seed": 3}
    assert parts["rest"].notes == {"filters": ["wave == 2011"], "sample": noted}


@pytest.mark.parametrize("spec", ["1", "0", "0.0@1", "1.5", "0.1@x", "10%", "-0.1", "nan"])
def test_other_shares_are_refused(spec):
    with pytest.raises(InputError, match=r"--sample .*: write SHARE@SEED"):
        split_respondents(raw({"DEU": 9}), spec)


def test_a_single_respondent_cannot_be_in_both():
    with pytest.raises(InputError, match="POL has a single respondent"):
        split_respondents(raw({"DEU": 9, "POL": 1}), "0.5")


def test_prepare_writes_both_parts(tmp_path):
    codebook = tmp_path / "own.toml"
    codebook.write_text(
        'source = "own"\ncitation = "made up"\ncountry = "DEU"\n[[attributes]]\n'
        'name = "gender"\ncolumn = "sex"\nlevels = ["Male", "Female"]\ncodes = [[1], [2]]\n'
        '[[questions]]\ncolumn = "q1"\ntopic = "T"\ntext = "Good?"\n'
        'options = [[1, "Yes"], [2, "No"]]\n'
    )
    random = np.random.default_rng(0)
    table = pd.DataFrame({"sex": random.integers(1, 3, 50), "q1": random.integers(1, 3, 50)})
    table = table.assign(w=random.uniform(0.5, 2, 50))
    table.to_csv(tmp_path / "own.csv", index=False)
    files = ["--input", str(tmp_path / "own.csv"), "--codebook", str(codebook), "--weights", "w"]
    main(["--source", "table", *files, "--output", str(tmp_path / "all")])
    main(["--source", "table", *files, "--output", str(tmp_path / "two"), "--sample", "0.2@1"])
    keys = ["gender", "question_id"]
    whole = read_dataset(tmp_path / "all").cells.set_index(keys)
    sample, rest = (
        read_dataset(tmp_path / "two" / name).cells.set_index(keys) for name in ("sample", "rest")
    )
    assert sample["n"].sum() == 10
    pd.testing.assert_series_equal(sample["n"] + rest["n"], whole["n"])
    assert read_dataset(tmp_path / "two" / "rest").manifest["rules"]["sample"]["part"] == "rest"
    table.loc[0, "q1"] = 9  # in one part only
    table.to_csv(tmp_path / "own.csv", index=False)
    codebook.write_text(codebook.read_text().replace('[2, "No"]', '[2, "No"], [9, "Perhaps"]'))
    sampled = ["--output", str(tmp_path / "none"), "--sample", "0.2@1", "--strict"]
    with pytest.raises(InputError, match=r"--strict: the survey has .* nobody chose 'Perhaps'"):
        main(["--source", "table", *files, *sampled])
    assert not (tmp_path / "none").exists()


def test_cells_without_respondents_cannot_be_drawn_from(tmp_path):
    with pytest.raises(InputError, match="--sample is for a survey's own files"):
        main(["--source", "eqls2011", "--output", str(tmp_path / "x"), "--sample", "0.1"])
