import os
import subprocess

import pandas as pd
import pytest

from ace_jax import ask, command, prepare
from ace_jax.errors import InputError
from ace_jax.evaluation.record import write_output
from ace_jax.files import check_free, whole_directory, whole_file
from ace_jax.report import __main__ as report
from ace_jax.runtime.claim import Claim, write_whole

OWN = {
    "prepare": prepare.OWN,
    "report": (report.OWN, report.OTHERS),
    "ask": ((ask.FILE, ask.MARK), ask.OTHERS),
}
OUT = ("lock", "run.json", "questions.parquet")
DIRECTORIES = {
    **{name: own for name, (own, _) in OWN.items()},
    "evaluate": OUT,
    "train": ("lock", "experiment.json", "checkpoints"),
    "a page": ("index.html",),
    "notes": ("notes.txt", "answers.csv"),
}


@pytest.fixture(params=DIRECTORIES)
def holding(request, tmp_path):
    directory = tmp_path / "out"
    directory.mkdir()
    for name in DIRECTORIES[request.param]:
        (directory / name).write_text("kept")
    return request.param, directory


def contents(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize("command_", [*OWN, "evaluate", "train"])
def test_a_command_replaces_its_own_output_and_no_other(holding, command_):
    of, directory = holding
    before = contents(directory)
    if command_ == of:
        if of in OWN:
            check_free(directory, *OWN[of])
            (directory / "mine.txt").touch()
        else:
            Claim(directory, evaluates=of == "evaluate").hold()
            return
    with pytest.raises(
        InputError, match=f"^{directory} (exists and is not empty: .*|holds .*); ch"
    ):
        if command_ in OWN:
            with whole_directory(directory, *OWN[command_]):
                raise AssertionError
        else:
            Claim(directory, evaluates=command_ == "evaluate").hold()
    assert contents(directory).items() >= before.items()
    assert os.listdir(directory.parent) == ["out"]


def test_a_directory_is_complete_or_absent(tmp_path):
    output = tmp_path / "deep" / "out"
    with pytest.raises(ZeroDivisionError), whole_directory(output) as directory:
        (directory / "half").touch()
        assert 1 / 0
    assert list(output.parent.iterdir()) == []
    for content in ("one", "two"):  # the second replaces the first
        with whole_directory(output, ["mark"], ["one", "two"]) as directory:
            (directory / content).touch()
            (directory / "mark").touch()
    assert list(output.parent.iterdir()) == [output]
    assert {file.name for file in output.iterdir()} == {"two", "mark"}
    with pytest.raises(InputError, match="mark is a file; name a directory"):
        check_free(output / "mark")


def test_links_are_followed(tmp_path):
    (tmp_path / "store").mkdir()
    for name in ("a directory", "a file"):
        (tmp_path / name).symlink_to(tmp_path / "store" / name)
    for _ in range(2):
        with whole_directory(tmp_path / "a directory", ["mark"]) as directory:
            (directory / "mark").touch()
        write_whole(tmp_path / "a file", b"new")
    assert (tmp_path / "a file").is_symlink() and (tmp_path / "a directory").is_symlink()
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"a directory", "a file"}


@pytest.mark.parametrize("killed_between_renames", [False, True])
def test_what_a_killed_process_left_is_cleared_and_what_it_took_is_back(
    tmp_path, killed_between_renames
):
    dead = subprocess.Popen(["true"])
    dead.wait()
    with whole_directory(tmp_path / "ds") as directory:
        litter = directory.name.replace(str(os.getpid()), str(dead.pid))
        of_others = directory.name.replace(str(os.getpid()), "1")  # which goes on
        (directory / "mark").write_text("former")
    for name in (litter, of_others):
        (tmp_path / name).mkdir()
    if killed_between_renames:
        (tmp_path / "ds").rename(tmp_path / litter.replace(".new.", ".old."))
    with pytest.raises(InputError, match="not empty"), whole_directory(tmp_path / "ds"):
        raise AssertionError
    assert contents(tmp_path / "ds") == {"mark": "former"}
    assert {path.name for path in tmp_path.iterdir()} == {"ds", of_others}


@pytest.mark.parametrize("whole", [whole_directory, whole_file])
def test_a_place_that_cannot_be_written(tmp_path, whole):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file/out: cannot be written \((Not a d|File e).*\)"),
        whole(tmp_path / "file" / "out"),
    ):
        pass


def test_a_full_disk_leaves_the_former_file(tmp_path, monkeypatch):
    def full(self, file, index):
        file.write_bytes(b"torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    (tmp_path / "predictions.parquet").write_text("former")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"predictions.parquet: cannot be written \(No space left"):
        write_output(tmp_path, {"predictions.parquet": pd.DataFrame()}, {})
    assert contents(tmp_path) == {"predictions.parquet": "former"}
    with (
        pytest.raises(InputError, match="exists; choose another"),
        whole_file(tmp_path / "predictions.parquet"),
    ):
        raise AssertionError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BrokenPipeError(32, "Broken pipe"), 141),
        (OSError(28, "No space left on device"), "error: standard output: cannot be .*No space"),
        (
            OSError(28, "No space left", "a.png"),
            "error: a.png: cannot be read or written .No space",
        ),
    ],
)
def test_an_output_that_takes_no_more_is_no_traceback(monkeypatch, error, status):
    class Output:
        def flush(self):
            raise error

    monkeypatch.setattr("sys.stdout", Output())
    with pytest.raises(SystemExit, match=str(status)):
        command.run(lambda: None)
    print("the rest of the output, which goes nowhere")
