"""An evaluation that is stopped, killed, joined by a second one, or done by several processes."""

import json
import os
import re
import shutil
import signal
import threading

import numpy as np
import pandas as pd
import pytest
from forked import Forked
from processes import ended, fields, launch, statuses
from safetensors.numpy import load_file, save_file
from test_evaluate import config_for, predictions_of
from test_train import ROOT, command, quick_commands

from ace_jax import evaluate
from ace_jax.errors import InputError, Stopped
from ace_jax.files import read_object
from ace_jax.runtime import saved_answers
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.saved_answers import FILE, Progress, SavedAnswers
from ace_jax.survey.dataset import Dataset, read_dataset, select_questions, write_dataset

SMALL = {
    "data.path": "gss2018",
    "data.questions": ("natspac", "abany"),
    "data.holdout": "none",
    "data.split": "all",
    "batch.size": 40,  # 4 batches, and one in the other order
    "batch.row_lengths": (256,),
}
WRITTEN = ("predictions.parquet", "scores.csv", "questions.parquet")
# Keeps the answers after every batch, until the process kills itself.
KILLED = """
import os, signal
from ace_jax.runtime import saved_answers
saved_answers.EVERY_SECONDS = -1
save = saved_answers.SavedAnswers.save
def save_and_die(self, progress):
    save(self, progress)
    if progress.batches == 2:
        os.kill(os.getpid(), signal.SIGKILL)
saved_answers.SavedAnswers.save = save_and_die
"""


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


def small_config(checkpoint, **changes):
    settings = {name.replace(".", "__"): value for name, value in SMALL.items()}
    survey = settings.pop("data__path")
    return config_for(checkpoint, survey, **settings | changes)


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, tmp_path_factory):
    """An evaluation without a stop."""
    workdir = tmp_path_factory.mktemp("whole")
    evaluate.main(small_config(tiny_checkpoint), workdir)
    return workdir


def outcome(workdir):
    """What is written of an evaluation."""
    return read_object(workdir / "run.json", "an evaluation"), *(
        (workdir / name).read_bytes() for name in WRITTEN
    )


def stop(config, workdir, after=2):
    """Evaluates; SIGTERM comes when so many batches are answered, and one more is under way."""
    asked, save = threading.Event(), SavedAnswers.save

    def save_and_stop(self, progress):
        save(self, progress)
        if progress.batches == after:
            asked.set()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(saved_answers, "EVERY_SECONDS", -1)
        patch.setattr(SavedAnswers, "save", save_and_stop)
        patch.setattr(evaluate, "stop_on_signal", lambda: asked)
        evaluate.main(config, workdir)
    return str(stopped.value)


def test_a_stopped_evaluation_goes_on_and_ends_as_one_without_a_stop(
    whole, tiny_checkpoint, tmp_path, capsys
):
    config = small_config(tiny_checkpoint)
    for after in (2, 4):  # in the midst, and when all is answered
        last = stop(config, tmp_path, after)
        here = f"after batch {after + 1} of 5"
        assert last == f"stopped {here}; run the same command again to go on"
        assert {path.name for path in tmp_path.iterdir()} == {FILE, "lock"}
    capsys.readouterr()
    evaluate.main(config, tmp_path)
    assert "evaluate: batch 5 of 5" in capsys.readouterr().err.splitlines()
    assert outcome(tmp_path) == outcome(whole)
    assert not (tmp_path / FILE).exists()


def test_a_killed_evaluation_goes_on_from_what_was_kept(whole, tiny_checkpoint, tmp_path, capsys):
    line = command("evaluate", "evaluate.py:quickstart", tmp_path)
    settings = fields(SMALL | {"model.path": tiny_checkpoint})
    killed = Forked([*line, *settings], devices=1, cwd=ROOT, first=KILLED)
    _, said = killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL, said
    assert {path.name for path in tmp_path.iterdir()} == {FILE, "lock"}
    evaluate.main(small_config(tiny_checkpoint), tmp_path)
    assert "evaluate: batch 2 of 5" in capsys.readouterr().err
    assert outcome(tmp_path) == outcome(whole)


def test_several_processes_do_what_one_does_and_stop_at_one_batch(
    tiny_checkpoint, tmp_path, tmp_path_factory
):
    one, two = tmp_path / "one", tmp_path / "two"
    settings = SMALL | {"model.path": tiny_checkpoint, "batch.size": 4}  # 44 batches
    lines = {
        workdir: [*command("evaluate", "evaluate.py:quickstart", workdir), *fields(settings)]
        for workdir in (one, two)
    }
    alone, both = launch(lines[one], 1), launch(lines[two], 2)
    while (said := both[0].stderr.readline()) and not said.startswith("evaluate: batch"):
        pass
    both[1].send_signal(signal.SIGTERM)
    said, _ = ended(both)
    assert statuses(both) == [42, 42], said
    done = int(re.fullmatch("stopped after batch (\\d+) of 44; .*", said.splitlines()[-1])[1])

    again = launch(lines[two], 2)
    said, quiet = ended(again)
    assert statuses(again) == [0, 0], said
    assert "4 cpu device(s) of 2 process(es)" in said
    assert f"evaluate: batch {done} of 44" in said
    assert "survey" not in quiet and "evaluate" not in quiet
    said = ended(alone)
    assert statuses(alone) == [0], said
    tables = predictions_of(one), predictions_of(two)
    of_model = ["p_model", "option_mass", "distance", "score"]
    pd.testing.assert_frame_equal(*(table.drop(columns=of_model) for table in tables))
    for name in of_model:
        values = (np.hstack(table[name].to_numpy()) for table in tables)
        np.testing.assert_allclose(*values, rtol=0, atol=1e-6, err_msg=name)


def test_a_second_evaluation_in_the_directory_is_refused(tiny_checkpoint, tmp_path):
    with Claim(tmp_path / "run") as other:
        other.make()
        with pytest.raises(InputError, match=rf"{tmp_path}/run is in use by process {os.getpid()}"):
            evaluate.main(small_config(tiny_checkpoint), tmp_path / "run")


def test_other_settings_are_refused_until_the_partial_file_is_deleted(
    whole, tiny_checkpoint, peft_adapter, tmp_path
):
    stop(small_config(tiny_checkpoint), tmp_path / "run")
    before = (tmp_path / "run" / FILE).read_bytes()
    adapter = str(peft_adapter("q_proj")[1])
    for changes, names in (
        ({"adapter__path": adapter}, "adapter, marks"),
        ({"batch__size": 8}, "batch"),
        ({"data__questions": ("natspac",)}, "data"),
        ({"prompt__template": "persona_first"}, "prompt"),
    ):
        expected = rf"{FILE} has the answers of a stopped evaluation with another {names}; go on"
        with pytest.raises(InputError, match=expected):
            evaluate.main(small_config(tiny_checkpoint, **changes), tmp_path / "run")
    assert (tmp_path / "run" / FILE).read_bytes() == before
    (tmp_path / "run" / FILE).unlink()
    evaluate.main(small_config(tiny_checkpoint), tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(whole)


def test_other_contents_under_the_same_name_are_refused(tiny_checkpoint, peft_adapter, tmp_path):
    data, model, adapter = (tmp_path / name for name in ("data", "model", "adapter"))
    dataset = select_questions(read_dataset("gss2018"), SMALL["data.questions"])
    write_dataset(dataset, data)
    shutil.copytree(tiny_checkpoint, model)
    shutil.copytree(peft_adapter("q_proj")[1], adapter)
    config = small_config(model, data__path=str(data), adapter__path=str(adapter))
    stop(config, tmp_path / "run")

    def refuses(changed):
        expected = rf"stopped evaluation with another {changed}; go on with that one"
        with pytest.raises(InputError, match=expected):
            evaluate.main(config, tmp_path / "run")

    cells = dataset.cells.assign(p=[p[::-1] for p in dataset.cells["p"]])
    write_dataset(Dataset(dataset.questions, cells, dataset.manifest), data)
    refuses("data")
    write_dataset(dataset, data)
    for changed in (model, adapter):
        (file,) = changed.glob("*.safetensors")
        before, weights = file.read_bytes(), load_file(file)
        max(weights.values(), key=np.size)[0, 0] += 1
        save_file(weights, file, metadata={"format": "pt"})
        refuses(changed.name)
        file.write_bytes(before)
    evaluate.main(config, tmp_path / "run")  # all is as it was


def test_answers_are_kept_every_so_often(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept = SavedAnswers(tmp_path, {})
    now += saved_answers.EVERY_SECONDS
    assert not kept.is_late()
    now += 1
    assert kept.is_late()
    kept.save(Progress.empty(prompts=3, options=2))
    assert not kept.is_late()
    assert (tmp_path / FILE).exists()


def test_a_damaged_partial_file_is_named(tiny_checkpoint, tmp_path):
    stop(small_config(tiny_checkpoint), tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for size in (0, 20, -1):
        (tmp_path / FILE).write_bytes(whole[:size])
        expected = rf"{FILE}: cannot be read \(.*\); delete it to start again"
        with pytest.raises(InputError, match=expected):
            evaluate.main(small_config(tiny_checkpoint), tmp_path)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=rf"{FILE}: cannot be written \(No space left on device\)"):
        SavedAnswers(tmp_path, {}).save(Progress.empty(prompts=3, options=2))
    assert not list(tmp_path.iterdir())


def test_a_finished_evaluation_is_made_anew(whole, tiny_checkpoint, peft_adapter, tmp_path):
    """What lay there is replaced as a whole."""
    workdir = shutil.copytree(whole, tmp_path / "run")
    for name in ("audit.csv", "scores.png"):  # version 0.1 wrote them
        (workdir / name).write_text("old")
    adapter = str(peft_adapter("q_proj")[1])
    evaluate.main(small_config(tiny_checkpoint, adapter__path=adapter), workdir)
    assert json.loads((workdir / "run.json").read_text())["adapter"]["path"] == adapter
    assert not predictions_of(workdir).equals(predictions_of(whole))
    assert not (workdir / "audit.csv").exists() and not (workdir / "scores.png").exists()
