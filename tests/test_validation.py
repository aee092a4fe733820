"""Held-out pairs scored while training goes on: what is said, kept, and when a run is done."""

import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_checkpoints import checkpoints, numbers, outcome, state_at
from test_train import metrics_of, quick_commands, small_config
from torch_reference import Endpoint, Pair, anchor_loss, effect_loss
from transformers import AutoModelForCausalLM

from ace_jax import train
from ace_jax.errors import InputError
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import encode
from ace_jax.recipe import Validation
from ace_jax.training import run as run_module
from ace_jax.training.data import training_data
from ace_jax.training.validation import Best, validation_batches

LOSSES = ("validation_loss", "validation_anchor_loss", "validation_effect_loss")


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


def config_of(checkpoint, **changes):
    """One of three questions held out; two stages of three epochs, each of two steps."""
    own = {
        "data.questions": ("natspac", "natenvir", "abany"),
        "data.min_n": 140,
        "data.holdout": "question:0.34",  # 7 pairs are left
        "objective.stages": ((0.0, 1.0, 3), (1.0, 0.0, 3)),  # the second overfits
        "validation.every_steps": 2,
    }
    return small_config(checkpoint, **own | changes)


def adapter_of(workdir):
    return (workdir / "adapter" / "adapter_model.safetensors").read_bytes()


def validated(workdir, stage):
    """The validation loss by step, of one stage."""
    rows = (row for row in metrics_of(workdir) if row["stage"] == stage)
    return {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}


@pytest.fixture(scope="module")
def run(tiny_checkpoint, tmp_path_factory):
    """A run that keeps its best adapter, which is not its last."""
    workdir = tmp_path_factory.mktemp("validated")
    train.main(config_of(tiny_checkpoint, validation__select_best=True), workdir)
    return workdir


def test_every_so_many_steps_and_at_the_end_of_a_stage_there_are_losses(run):
    rows = metrics_of(run)
    due = {row["step"] for row in rows if "validation_loss" in row}
    assert due == {2, 4, 6, 8, 10, 12}
    for row in rows:
        if row["step"] in due:
            part = "effect" if row["stage"] == 1 else "anchor"
            assert row["validation_loss"] == row[f"validation_{part}_loss"] > 0
    (events,) = run.glob("events.out.tfevents.*")
    for name in LOSSES:
        assert events.read_bytes().count(b"\n" + bytes([len(name)]) + name.encode()) == 6


def test_the_losses_are_those_of_pytorch_without_dropout(tiny_checkpoint, tmp_path):
    config = config_of(tiny_checkpoint, validation__pairs=7, lora__dropout=0.5)
    train.main(config, tmp_path)
    examples = training_data(config).validation
    prompts = encode(examples.prompts, open_checkpoint(str(tiny_checkpoint)).tokenizer, chat=False)
    ends = [
        Endpoint([*prompt.tokens], [[*option] for option in prompt.options], [*answer], mode)
        for prompt, answer, mode in zip(prompts, examples.answers, examples.modes, strict=True)
    ]
    pairs = [Pair(ends[row.cell_0], ends[row.cell_1]) for row in examples.pairs.itertuples()]
    assert len(pairs) == 7
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    last = metrics_of(tmp_path)[-1]
    with torch.no_grad():
        expected = anchor_loss(model, pairs, "options").item(), effect_loss(model, pairs).item()
    assert [last[name] for name in LOSSES[1:]] == pytest.approx(expected, rel=1e-5)


def test_the_adapter_is_that_of_the_last_stages_best_step(run, tiny_checkpoint, tmp_path):
    losses = validated(run, stage=2)
    best = min(losses, key=losses.get)
    assert best < 12
    train.main(config_of(tiny_checkpoint, max_steps=best), tmp_path)
    assert adapter_of(run) == adapter_of(tmp_path)
    assert f"- steps: {best}\n" in (run / "adapter" / "README.md").read_text()


def test_without_select_best_it_is_the_last(run, tiny_checkpoint, tmp_path):
    train.main(config_of(tiny_checkpoint), tmp_path / "last")
    unwatched = {"validation.every_steps": None}
    train.main(config_of(tiny_checkpoint, **unwatched), tmp_path / "unwatched")
    assert adapter_of(tmp_path / "last") == adapter_of(tmp_path / "unwatched") != adapter_of(run)


def test_a_resumed_run_has_the_same_best(run, tiny_checkpoint, tmp_path):
    for stop in (3, 8, 9):
        config = config_of(tiny_checkpoint, validation__select_best=True, max_steps=stop)
        train.main(config, tmp_path)
    train.main(config_of(tiny_checkpoint, validation__select_best=True), tmp_path)
    assert outcome(tmp_path) == outcome(run)


def patient(checkpoint, **changes):
    """One stage, which overfits."""
    own = {"objective.stages": ((1.0, 0.0, 20),), "validation.patience": 2}
    return config_of(checkpoint, **own | changes)


def test_patience_ends_the_last_stage(tiny_checkpoint, tmp_path, capfd):
    train.main(patient(tiny_checkpoint), tmp_path)
    losses = validated(tmp_path, stage=1)
    *_, best, worse, worst = losses
    assert worst == len(metrics_of(tmp_path)) < 40
    assert losses[best] == min(losses.values()) < min(losses[worse], losses[worst])
    assert f"no gain in 2 validation(s): done at step {worst}" in capfd.readouterr().err
    before = outcome(tmp_path)
    train.main(patient(tiny_checkpoint), tmp_path)  # and is left as it is
    assert outcome(tmp_path) == before

    resumed = tmp_path / "resumed"
    train.main(patient(tiny_checkpoint, max_steps=worse + 1), resumed)
    train.main(patient(tiny_checkpoint), resumed)
    assert outcome(resumed) == before


def test_patience_does_not_end_a_stage_that_others_follow(tiny_checkpoint, tmp_path):
    stages = ((1.0, 0.0, 6), (0.0, 1.0, 1))
    train.main(patient(tiny_checkpoint, objective__stages=stages), tmp_path)
    assert len(metrics_of(tmp_path)) == 14


def test_a_stage_begins_with_no_best_of_its_own():
    lora = state_at(1).lora
    best = Best.none_yet(lora)
    for step, stage, loss in [(2, 1, 0.5), (4, 1, 0.7), (5, 1, 0.5)]:
        best = best.after(loss, {"step": step, "stage": stage}, lora)
    assert (best.loss, best.step, best.since) == (0.5, 2, 2)
    best = best.after(0.9, {"step": 6, "stage": 2}, lora)
    assert (best.loss, best.step, best.since) == (0.9, 6, 0)


def test_the_best_comes_back_as_it_was(tmp_path):
    lora = state_at(7).lora
    best = Best.none_yet(lora)
    assert best.loss == math.inf
    with checkpoints(tmp_path) as saved:
        assert saved.restore(state_at(0), numbers(), best)[1] is best
        saved.save(state_at(3), numbers(), best.after(0.1, {"step": 2, "stage": 1}, lora))
        saved.save(state_at(4), numbers(), best)
    with checkpoints(tmp_path) as saved:
        other = Best(0.0, 0, 0, 0, state_at(0).lora)
        assert saved.restore(state_at(0), numbers(), other)[1].loss == math.inf


def test_held_out_pairs_are_others_than_those_learnt_from(tiny_checkpoint):
    own = {"data__questions": (), "data__min_n": 100}
    all_of_it = training_data(config_of(tiny_checkpoint, **own, validation__pairs=10**6))
    seen, unseen = all_of_it.train.pairs, all_of_it.validation.pairs
    assert not {*seen["question_id"]} & {*unseen["question_id"]}
    config = config_of(tiny_checkpoint, **own, validation__pairs=30)
    some = training_data(config).validation.pairs
    assert len(some) == 30 < len(unseen)
    whole = unseen.groupby("question_id").size()
    *full, _ = some.groupby("question_id", sort=False).size().items()
    assert full and all(whole[question] == size for question, size in full)
    config.seed = 1
    assert {*training_data(config).validation.pairs["question_id"]} != {*some["question_id"]}


def test_batches_hold_every_pair_once_and_no_more_prompts_than_they_may(survey):
    shapes = Shapes((256,), row_multiple=1, options=11)
    batches = validation_batches(survey.examples, survey.prompts, shapes, most=3)
    assert np.concatenate([batch.rows for batch in batches]).tolist() == [*range(8)]
    for batch in batches:
        assert len(np.unique(batch.targets.pairs[: len(batch.rows)])) <= 3
    assert len({len(batch.targets.pairs) for batch in batches}) == 1
    (whole,) = validation_batches(survey.examples, survey.prompts, shapes, most=8)
    assert len(whole.rows) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every_steps": 0}, r"validation\.every_steps: 0 is not a positive number"),
        ({"pairs": 0}, r"validation\.pairs: 0 is not a positive number"),
        ({"patience": 0}, r"validation\.patience: 0 is not a positive number"),
        ({"every_steps": None, "patience": 1}, r"patience: needs validation\.every_steps"),
        ({"every_steps": None, "select_best": True}, r"best: needs validation\.every_steps"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(changes, message):
    usual = {"every_steps": 2, "pairs": 8, "select_best": False, "patience": None}
    with pytest.raises(InputError, match=message):
        Validation(**usual | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.holdout": "none"},
            r"holdout none holds out none of \d+ pairs; hold out more",
        ),
        ({"data.holdout": "question:0.34@5", "data.min_n": 200}, "holds out none of 2 pairs"),
    ],
)
def test_a_run_with_nothing_to_validate_on_is_refused(tiny_checkpoint, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train.main(config_of(tiny_checkpoint, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_refused(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(
        run_module,
        "make_validation_step",
        lambda *_: lambda *_: dict(anchor_loss=np.float32("nan"), effect_loss=np.float32(0)),
    )
    with pytest.raises(InputError, match=r"step 2 has the loss nan over the held-out pairs"):
        train.main(config_of(tiny_checkpoint), tmp_path)
