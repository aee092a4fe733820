"""Files whose headers promise more than there is: refused in one line, without the memory."""

import struct

import pandas as pd
import pyreadstat
import pytest
from refusals import refused_cheaply
from test_gguf import write_gguf
from test_table import CODEBOOK

from ace_jax.model.formats.gguf import GGUFSource
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.survey.readers import sources
from ace_jax.survey.readers.release_train import read_train


def huge_counts(content):
    for place in (8, 16):
        for number in (2**63, 2**40, 2**20):
            yield content[:place] + struct.pack("<Q", number) + content[place + 8 :]


def endless_array(content, item, count):
    """The type and the count of the array of tokens."""
    place = content.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 4
    return content[:place] + struct.pack("<IQ", item, count) + content[place + 12 :]


def test_a_gguf_file_that_promises_more_than_it_holds(tiny_checkpoint, tmp_path):
    content = write_gguf(tmp_path / "whole.gguf", tiny_checkpoint).read_bytes()
    arrays = [endless_array(content, item, 2**62) for item in (0, 7, 8, 9, 10, 99)]
    for number, forged in enumerate([*huge_counts(content), *arrays]):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(forged)
        refused_cheaply(lambda path=path: GGUFSource(path), r"gguf: not a complete GGUF file")


def test_a_gguf_file_full_of_nothing(tiny_checkpoint, tmp_path):
    # A hundred million empty texts would be read as two arrays each.
    content = write_gguf(tmp_path / "whole.gguf", tiny_checkpoint).read_bytes()
    path = tmp_path / "nothing.gguf"
    path.write_bytes(endless_array(content, 8, 10**8))
    with path.open("r+b") as file:
        file.truncate(10**9)  # takes no room on the disk
    refused_cheaply(lambda: GGUFSource(path), "100000000 items, where no model has more")


def test_a_gguf_tensor_beyond_the_file(tiny_checkpoint, tmp_path):
    content = write_gguf(tmp_path / "whole.gguf", tiny_checkpoint).read_bytes()
    place = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4
    for shape in ((2**32, 2**32), (10**12, 64), (0, 2**40)):
        (tmp_path / "x.gguf").write_bytes(
            content[:place] + struct.pack("<QQ", *shape) + content[place + 16 :]
        )
        refused_cheaply(lambda: GGUFSource(tmp_path / "x.gguf"), "not a complete GGUF file")


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8])
def test_a_safetensors_header_beyond_the_file(copy, length):
    file = copy / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refused_cheaply(lambda: open_checkpoint(str(copy)), r"model\.safetensors: truncated or damaged")


def read_table(path, codebook):
    return sources.read("table", [path], codebook)


@pytest.fixture
def codebook(tmp_path):
    (tmp_path / "own.toml").write_text(CODEBOOK)
    return tmp_path / "own.toml"


ANSWERS = pd.DataFrame(
    {"land": ["FRA"] * 9, "age_group": 1.0, "sex": "m", "q1": 1.0, "q2": [1.0, 2.0, 3.0] * 3}
)


@pytest.mark.parametrize("options", [{}, {"row_compress": True}, {"compress": True}])
@pytest.mark.parametrize("rows", [10**8, 10**9])
def test_a_sav_file_that_promises_respondents(codebook, tmp_path, options, rows):
    path = tmp_path / "own.sav"
    pyreadstat.write_sav(ANSWERS, path, **options)
    content = path.read_bytes()
    assert len(read_table(path, codebook).table) == len(ANSWERS)
    path.write_bytes(content[:80] + struct.pack("<i", rows) + content[84:])
    refused_cheaply(lambda: read_table(path, codebook), "more than its .* bytes can hold")


@pytest.mark.parametrize("variable", [0, -1, 6, 2**16 + 1, 2**31 - 1])
def test_a_sav_file_whose_labels_belong_to_no_variable(codebook, tmp_path, variable):
    # ReadStat reads beyond its own memory there, which ends the program.
    path = tmp_path / "own.sav"
    pyreadstat.write_sav(ANSWERS, path, variable_value_labels={"q1": {0: "No", 1: "Yes"}})
    content = path.read_bytes()
    assert len(read_table(path, codebook).table) == len(ANSWERS)
    place = content.index(struct.pack("<iii", 4, 1, 4)) + 8  # q1 is the fourth
    path.write_bytes(content[:place] + struct.pack("<i", variable) + content[place + 4 :])
    refused_cheaply(
        lambda: read_table(path, codebook),
        r"own\.sav is damaged .*a variable that is not in",
    )


def test_a_dta_file_that_promises_respondents(codebook, tmp_path):
    path = tmp_path / "own.dta"
    pyreadstat.write_dta(ANSWERS, path)
    content = path.read_bytes()
    place = content.index(b"<N>") + 3
    for rows in (10**9, 2**40):
        path.write_bytes(content[:place] + struct.pack("<Q", rows) + content[place + 8 :])
        refused_cheaply(lambda: read_table(path, codebook), r"own\.dta ")


def test_a_deflated_sav_file_beyond_memory(codebook, tmp_path, monkeypatch):
    path = tmp_path / "bomb.zsav"
    many = pd.concat([ANSWERS] * 3000, ignore_index=True)
    pyreadstat.write_sav(many, path, compress=True)
    assert path.stat().st_size * 100 < 8 * many.size
    monkeypatch.setattr("os.sysconf", lambda name: 1 << 9)  # 256 KiB of memory
    refused_cheaply(
        lambda: read_table(path, codebook),
        "values, which do not fit into this machine",
    )


def test_a_parquet_file_beyond_memory(codebook, tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    pd.concat([ANSWERS] * 3000, ignore_index=True).to_parquet(path)
    monkeypatch.setattr("os.sysconf", lambda name: 1 << 9)
    refused_cheaply(
        lambda: read_table(path, codebook),
        "values, which do not fit into this machine",
    )


def test_a_line_that_is_nested_without_end(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"options": ' + "[" * 10**6)
    refused_cheaply(lambda: read_train(tmp_path / "x.jsonl"), r"x\.jsonl, line 1 is not JSON")
