import pandas as pd
import pytest

from ace_jax.errors import InputError
from ace_jax.survey.readers import gss

SPENDING = pd.DataFrame(
    {
        "year": 2018,
        "id": [1, 2, 3],
        "age": [43.0, None, 20.0],
        "sex": [0, 1, 1],
        "degree": [2, 3, 0],
        "xnorcsiz": [6, 1, 5],
        "natspac": [-1.0, 0.0, None],
    }
)
WAGES = pd.DataFrame(
    {
        "year": [1974, 2018, 2018, 2018],
        "age": [50.0, 43.0, None, 20.0],
        "gender": ["Male", "Male", "Female", "Female"],
        "educcat": ["Graduate", "Junior College", "Bachelor", "Less Than High School"],
        "maritalcat": ["Divorced", "Married", "Widowed", None],
    }
)
ABORTION = pd.DataFrame(
    {
        "year": [2018, 2018, 2018, 1972],
        "id": [1, 2, 3, 1],
        "age": [43.0, None, 20.0, 30.0],
        "sex": ["Male", "Female", "Female", "Male"],
        **{name: [1.0, None, 1.0, 1.0] for name in gss.FROM_ABORTION},
    }
)


def written(tmp_path, *tables):
    paths = [tmp_path / f"{position}.csv" for position in range(len(tables))]
    for table, path in zip(tables, paths, strict=True):
        table.to_csv(path, index=False, na_rep="NA")  # as R does
    return paths


def test_the_tables_of_2018_are_joined_row_by_row_whatever_their_order(tmp_path):
    raw = gss.read(written(tmp_path, ABORTION, SPENDING, WAGES)).table
    assert raw["id"].tolist() == [1, 2, 3]
    assert raw["maritalcat"].fillna("?").tolist() == ["Married", "Widowed", "?"]
    assert raw["abany"].isna().tolist() == [False, True, False]
    assert raw.columns.is_unique


@pytest.mark.parametrize(
    ("spending", "wages", "abortion", "message"),
    [
        ({"id": [1, 3, 2]}, {}, {}, "id .* differs in 2 rows of 2018, first in row 1"),
        ({}, {"age": [50, 43, 44, 20]}, {}, r"age \(gss_spending, gss_wages\)"),
        ({}, {}, {"age": [43, 44, 20, 30]}, r"age \(gss_spending, gss_abortion\)"),
        ({}, {"gender": "Male"}, {}, r"sex \(gss_spending, gss_wages\)"),
        ({}, {}, {"sex": "Male"}, r"sex \(gss_spending, gss_abortion\)"),
        ({"degree": [2, 4, 0]}, {}, {}, "degree .* differs in 1 rows"),
        ({}, {"year": 2018}, {}, r"rows of 2018, gss_\w+ \d+; give complete tables"),
    ],
)
def test_rows_that_do_not_align_are_refused(tmp_path, spending, wages, abortion, message):
    paths = written(
        tmp_path, SPENDING.assign(**spending), WAGES.assign(**wages), ABORTION.assign(**abortion)
    )
    with pytest.raises(InputError, match=message):
        gss.read(paths)


def test_the_three_tables_are_needed_once_each(tmp_path):
    with pytest.raises(InputError, match="lacks gss_wages"):
        gss.read(written(tmp_path, SPENDING, ABORTION))
    with pytest.raises(InputError, match="a second gss_spending"):
        gss.read(written(tmp_path, SPENDING, SPENDING, ABORTION))


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="columns of none; give each of"):
        gss.read(written(tmp_path, SPENDING.drop(columns="xnorcsiz")))
    with pytest.raises(InputError, match=r"none\.csv: No such file"):
        gss.read([tmp_path / "none.csv"])
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty\.csv is empty; download it again"):
        gss.read([tmp_path / "empty.csv"])
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfd\x00\x01")
    with pytest.raises(InputError, match="is not UTF-8"):
        gss.read([tmp_path / "binary.csv"])
