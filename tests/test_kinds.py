"""Tables in every kind of file, told apart by content; other kinds are refused by name."""

import bz2
import gzip
import re
import zipfile
from importlib import import_module
from io import BytesIO

import pandas as pd
import pyreadstat
import pytest
from test_table import CODEBOOK, check_cells, dataset
from test_table import answers as answers  # the fixture

from ace_jax.errors import InputError
from ace_jax.survey.readers import gss, issp, kinds

ODS = "application/vnd.oasis.opendocument.spreadsheet"


def xlsx(table, path):
    pytest.importorskip("openpyxl")
    pytest.importorskip("python_calamine")
    with pd.ExcelWriter(path.with_suffix(".xlsx"), engine="openpyxl") as book:
        table.to_excel(book, sheet_name="answers", index=False)
        pd.DataFrame({"column": ["q1"], "text": ["Trust?"]}).to_excel(book, sheet_name="about")
    path.with_suffix(".xlsx").rename(path)


def ods(table, path):
    pytest.importorskip("python_calamine")

    def cell(value):
        if isinstance(value, str):
            return f'<table:table-cell office:value-type="string"><text:p>{value}</text:p>'
        return f'<table:table-cell office:value-type="float" office:value="{value}">'

    rows = "".join(
        f"<table:table-row>{''.join(cell(one) + '</table:table-cell>' for one in row)}"
        "</table:table-row>"
        for row in [[*table.columns], *table.astype(object).to_numpy().tolist()]
    )
    spaces = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text")
    )
    content = (
        f"<office:document-content{spaces}><office:body><office:spreadsheet>"
        f'<table:table table:name="a">{rows}</table:table>'
        "</office:spreadsheet></office:body></office:document-content>"
    )
    entry = f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{ODS}"/>'
    space = "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"
    manifest = f'<manifest:manifest xmlns:manifest="{space}">{entry}</manifest:manifest>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", ODS)
        archive.writestr("content.xml", content)
        archive.writestr("META-INF/manifest.xml", manifest)


def objects(table):
    texts = [name for name in ("land", "sex", "diary") if name in table]
    return table.astype(dict.fromkeys(texts, object))


def rds(table, path):
    pytest.importorskip("rdata").write_rds(path, objects(table), compression="xz")


def rda(table, path):
    rdata = pytest.importorskip("rdata")
    rdata.write_rda(path, {"answers": objects(table), "note": "of last year"})


def zsav(table, path):
    pyreadstat.write_sav(table, path, compress=True)


def por(table, path):
    pyreadstat.write_por(table, path)


def xpt(table, path):
    pyreadstat.write_xport(table, path)


def upper_names(codebook):
    return re.sub(r'(column = )("\w+")', lambda found: found[1] + found[2].upper(), codebook)


@pytest.mark.parametrize("write", [xlsx, ods, rds, rda, zsav, por, xpt])
def test_every_kind_gives_exactly_the_counted_cells(tmp_path, answers, write):
    table = answers.rename(columns={"age_group": "age_grp"})
    codebook = CODEBOOK.replace("age_group", "age_grp")
    if write is por:  # its names are in upper case
        table = table.rename(columns=str.upper)
        codebook = upper_names(codebook)
    write(table, tmp_path / "answers.csv")
    made = dataset(tmp_path, tmp_path / "answers.csv", codebook=codebook).cells
    made["question_id"] = made["question_id"].str.lower()
    check_cells(made, answers)


def zipped(name):
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%PDF-1.7 ...", "is a PDF, not a table"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        ("land;q1\n".encode("utf-16"), "is text in UTF-16, not .*; save it in UTF-8, or give enc"),
        (gzip.compress(b"land,q1\n", mtime=0), r"is packed \(.gz, .bz2, .xz\).*; unpack it"),
        (gzip.compress(b"RDX3\nX\n", mtime=0)[:-12], "damaged or cut off"),
        (bz2.compress(b"land,q1\n")[:-3], "damaged or cut off"),
        (b"PK\3\4 and no more", "damaged or cut off"),
        (b"SQLite format 3\0", "is a database"),
        (zipped("word/document.xml"), "is a ZIP archive, .*; unpack it"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    for read in (lambda path: dataset(tmp_path, path), gss_of, issp_of):
        with pytest.raises(InputError, match=message) as error:
            read(tmp_path / "a.csv")
        assert "\n" not in str(error.value)


def gss_of(path):
    return gss.read([path])


def issp_of(path):
    return issp.read([path])


def test_a_library_that_is_absent_is_named(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(kinds, "import_module", absent)
    (tmp_path / "a.rds").write_bytes(b"X\n\0\0\0\3 and more")
    with pytest.raises(InputError, match=r"an R file .*rdata reads; .*'ace_jax\[r\]'"):
        dataset(tmp_path, tmp_path / "a.rds")
    monkeypatch.setattr(kinds, "import_module", import_module)
    pytest.importorskip("rdata")
    with pytest.raises(InputError, match=r"a\.rds is damaged or cut off"):
        dataset(tmp_path, tmp_path / "a.rds")


def test_a_spreadsheet_with_two_tables_or_a_column_twice_is_refused(tmp_path, answers):
    pytest.importorskip("openpyxl")
    pytest.importorskip("python_calamine")
    for name, tables in {
        'several tables, a, b; leave one in, or .* sheet = "a"': {"a": answers, "b": answers},
        "has the column q1 twice": {"a": answers.rename(columns={"q2": " q1"})},
        "lacks the column land": {"a": answers.drop(columns="land")},
        "has no rows under a header": {"a": answers.head(0)},
    }.items():
        with pd.ExcelWriter(tmp_path / "a.xlsx", engine="openpyxl") as book:
            for sheet, table in tables.items():
                table.to_excel(book, sheet_name=sheet, index=False)
        with pytest.raises(InputError, match=name):
            dataset(tmp_path, tmp_path / "a.xlsx")
    with pd.ExcelWriter(tmp_path / "a.xlsx", engine="openpyxl") as book:
        answers.head(9).to_excel(book, sheet_name="first", index=False)
        answers.to_excel(book, sheet_name="all", index=False)
    named = f'sheet = "all"\n{CODEBOOK}'
    check_cells(dataset(tmp_path, tmp_path / "a.xlsx", codebook=named).cells, answers)
    with pytest.raises(InputError, match=r"a\.xlsx, sheet: 'al' is not known; did you mean all"):
        dataset(tmp_path, tmp_path / "a.xlsx", codebook=named.replace("all", "al"))
