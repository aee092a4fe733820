"""Damaged files, a few of each kind: tests/faults/fuzz_readers.py has the long campaign."""

import shutil
from random import Random

import pandas as pd
import pytest
from faults.fuzz_readers import READERS, Reader, campaign, outcome_of, turns
from faults.mutations import BYTES, FORMS, damaged
from faults.seed_files import make_seeds
from test_gss import ABORTION, SPENDING, WAGES
from test_release_train import group, pair, write_lines
from test_table import CODEBOOK

from ace_jax.convert import inspect
from ace_jax.errors import InputError
from ace_jax.model.formats.hf import listed
from ace_jax.survey.codebook_file import read_codebook
from ace_jax.survey.dataset import read_dataset
from ace_jax.survey.readers import gss, sources
from ace_jax.survey.readers.release_train import read_train

INPUTS = 200


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    directory = tmp_path_factory.mktemp("seeds")
    make_seeds(directory)
    return directory


def test_damaged_files_are_read_or_refused_by_one_line(seeds):
    quick = [name for name, reader in READERS.items() if reader.every == 1]
    outcomes = list(campaign(turns(INPUTS, quick), seed=2026, seeds=seeds))
    assert len(outcomes) == INPUTS
    assert [outcome for outcome in outcomes if not outcome.fine] == []
    kinds = {(outcome.reader, outcome.kind) for outcome in outcomes}
    # Damage is seen by every reader, and is not all that any of them is given.
    assert {reader for reader, kind in kinds if kind == "refused"} == set(quick)
    assert sum(outcome.kind == "read" for outcome in outcomes) > INPUTS // 10


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_drawn_from_the_seed(form, seeds):
    reader = next(one for one in READERS.values() if form in one.damaged.values())
    file = next(name for name, its in reader.damaged.items() if its == form)
    content = (seeds / reader.seed / file).read_bytes()
    changed = [damaged(content, form, Random(f"{n}")) for n in range(40)]
    assert changed == [damaged(content, form, Random(f"{n}")) for n in range(40)]
    assert sum(new != content for _, new in changed) > 30
    names = {change.__name__ for change in (*BYTES, *FORMS[form])}
    assert {name for name, _ in changed} <= names


# What the campaigns found, each once.


def refused(read, message):
    with pytest.raises(InputError, match=message) as error:
        read()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"group_A": group("\ud800")}, "line 1 is not JSON in UTF-8"),
        ({"question_id": "\ud800"}, "line 1 is not JSON in UTF-8"),
        ({"group_B": group(p_real={"1": 10**400})}, "option 1 is 1000"),
        ({"options": [1, 1e300]}, r"an option is 1e\+300, expected a whole"),
        ({"group_A": group(p_real={"9" * 5000: 1})}, "p_real of option 9{40} is 1, expected"),
    ],
)
def test_lines_of_the_release(tmp_path, line, message):
    path = write_lines(tmp_path / "x.jsonl", pair() | line)
    refused(lambda: read_train(path), message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'levels = ["Male", "Female"]',
            "levels = 5",
            "attribute gender: `levels` is 5; give a list",
        ),
        ('codes = [["m"], ["f"]]', 'codes = ["m", "f"]', r"`codes` is \['m', 'f'\]"),
        ('text = "How much?"', "text = 1979-05-27", "question q2: `text` is datetime"),
        ("dropped = [9]", "dropped = [nan]", r"question q1: `dropped` is \[nan\]"),
        ('[1, "Yes"]]', f'[{2**63}, "Yes"]]', "the codes whole numbers"),
        ('[0, "No"]', '[inf, "No"]', "the codes whole numbers"),
        ("dropped = [9]", f"dropped = [{'9' * 5000}]", "is not TOML: Exceeds the limit"),
        ("dropped = [9]", f"dropped = {'[' * 10**5}", "is not TOML: "),
        ("dropped = [9]", f"{'t' * 5000} = 1", "question q1 has the unknown key `t{40}`"),
    ],
)
def test_codebooks(tmp_path, old, new, message):
    assert old in CODEBOOK
    (tmp_path / "own.toml").write_text(CODEBOOK.replace(old, new, 1))
    refused(lambda: read_codebook(tmp_path / "own.toml"), message)


def test_tables(tmp_path):
    (tmp_path / "own.toml").write_text(CODEBOOK)
    answers = pd.DataFrame({name: [[1], [2]] for name in ("land", "age_group", "sex", "q1", "q2")})
    answers.to_parquet(tmp_path / "own.parquet")
    own = ([tmp_path / "own.parquet"], tmp_path / "own.toml")
    refused(lambda: sources.read("table", *own), "land holds lists or")
    tables = (SPENDING, WAGES, ABORTION.drop(columns="abpoor"))
    paths = [tmp_path / f"{number}.csv" for number in range(3)]
    for path, its in zip(paths, tables, strict=True):
        its.to_csv(path, index=False)
    refused(lambda: gss.read(paths), r"gss_abortion\.csv lacks the column abpoor")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter/peft/ace_experiment.json", "[]", "not a JSON object"),
        ("dataset/data/manifest.json", "[" * 10**5, "not JSON"),
        ("adapter/peft/adapter_config.json", "[" * 10**5, "not JSON"),
        ("adapter/peft/adapter_config.json", '{"peft_type": "LORA", "r": true}', "target_modules"),
    ],
)
def test_outputs(tmp_path, seeds, file, content, message):
    shutil.copytree(seeds, tmp_path / "seeds")
    path = tmp_path / "seeds" / file
    path.write_text(content)
    read = read_dataset if file.startswith("dataset") else inspect
    refused(lambda: read(str(path.parent)), message)


def test_names_from_a_file_stay_in_the_line():
    assert listed(["unknown a\nb\x1b[31m"]) == "unknown a?b?[31m"


def test_the_campaign_sees_what_is_neither_read_nor_refused(seeds, monkeypatch):
    monkeypatch.setitem(READERS, "broken", Reader("train", {"egypt.jsonl": "lines"}, _broken))
    outcome = outcome_of("broken", 0, 0, seeds)
    assert (outcome.kind, outcome.fine) == ("KeyError", False)


def _broken(directory):
    raise KeyError("x")
