"""The train command. Its helpers serve the other tests that run whole commands, too."""

import json
import runpy
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from torch_reference import Endpoint, Pair, total_loss
from transformers import AutoModelForCausalLM

from ace_jax import evaluate, language_model, train
from ace_jax.errors import InputError, Stopped
from ace_jax.experiment import read_experiment
from ace_jax.files import read_object
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.prompts.encode import PromptStyle, PromptText, encode, render_cells
from ace_jax.recipe import Stage
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.metrics import MetricsLog
from ace_jax.runtime.progress import show_messages
from ace_jax.survey.dataset import read_dataset, select_questions
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.training import run as run_module
from ace_jax.training.data import digest

ROOT = Path(__file__).parents[1]
# Holds the run directory that it is given, until it is killed.
HOLD = """
import sys, time
from pathlib import Path
from ace_jax.recipe import Stage
from ace_jax.runtime.claim import Claim
claim = Claim(Path(sys.argv[1]))
claim.hold()
print("held", flush=True)
time.sleep(600)
"""
SMALL = {
    # Prompts of much the same length: all batches have one shape, so one step is compiled.
    "data.questions": ("natcity", "natrace", "abany"),
    "data.holdout": "none",
    "data.min_n": 136,  # 15 pairs
    "lora.rank": 2,
    "lora.dropout": 0.1,
    "lora.targets": ("q_proj", "v_proj"),
    "objective.stages": ((1.0, 0.0, 2), (0.0, 1.0, 1)),
    "optimizer.learning_rate": 1e-2,
    "batch.unit": "pair",
    "batch.size": 4,  # 4 steps an epoch, the last of 3 pairs
    "batch.row_lengths": (1024,),
    "checkpoint.every_steps": 100,
}


def small_config(checkpoint, **changes):
    """The quickstart in small; changes are given as `batch__size=2` for `batch.size`."""
    config = runpy.run_path(str(ROOT / "configs/quickstart.py"))["get_config"]()
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(SMALL | {"model.path": str(checkpoint)} | changed)
    return config


def once(make):
    """Makes one function for all arguments that are alike: each new one would be traced again."""
    made = {}

    def of(*arguments):
        leaves, structure = jax.tree.flatten(arguments)
        key = (structure, *leaves)
        if key not in made:
            made[key] = make(*arguments)
        return made[key]

    return of


def optimizer_of(settings, steps):
    return make_optimizer(settings, steps if settings.is_scheduled else None)


make_optimizer = once(run_module.make_optimizer)
COMPILED = {
    (run_module, "make_optimizer"): optimizer_of,
    (run_module, "make_train_step"): once(run_module.make_train_step),
    (run_module, "make_validation_step"): once(run_module.make_validation_step),
    (language_model, "make_scoring_step"): once(language_model.make_scoring_step),
}


@contextmanager
def quick_commands(mesh):
    """Commands run in this process take one device, and share what is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (run_module, evaluate, language_model):
            patch.setattr(module, "make_mesh", lambda **_: mesh)
        for (module, name), shared in COMPILED.items():
            patch.setattr(module, name, shared)
        show_messages()
        yield


def command(name, config, workdir, *arguments):
    """The command line that runs a command as a user does."""
    module = [sys.executable, "-m", f"ace_jax.{name}"]
    return [*module, f"--config={ROOT / 'configs' / config}", f"--workdir={workdir}", *arguments]


def metrics_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
        yield


@pytest.fixture(scope="module")
def run(tiny_checkpoint, tmp_path_factory):
    """A finished run."""
    workdir = tmp_path_factory.mktemp("runs") / "deep" / "run"
    train.main(small_config(tiny_checkpoint), workdir)
    return workdir


def test_a_run_directory_has_all_that_is_documented(run, tiny_checkpoint):
    events = {path.name for path in run.glob("events.out.tfevents.*")}
    assert len(events) == 1
    assert {path.name for path in run.iterdir()} - events == {
        "experiment.json",
        "lock",
        "metrics.jsonl",
        "checkpoints",
        "adapter",
    }
    # The ends of both stages.
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"8", "12"}
    assert {path.name for path in (run / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "ace_experiment.json",
        "README.md",
    }
    experiment = read_experiment(run / "experiment.json")
    assert experiment.model.name == str(tiny_checkpoint)
    assert experiment.recipe.objective.stages == (Stage(1.0, 0.0, 2), Stage(0.0, 1.0, 1))
    record = read_object(run / "adapter" / "ace_experiment.json", "an adapter")
    assert record == experiment.to_json()


def test_metrics_have_a_row_a_step(run):
    rows = metrics_of(run)
    assert [(row["step"], row["epoch"], row["stage"]) for row in rows] == [
        (step + 1, step // 4 + 1, step // 8 + 1) for step in range(12)
    ]
    for row in rows:
        assert row["loss"] == row["anchor_loss" if row["stage"] == 1 else "effect_loss"]
        assert 0 < row["option_mass"] < 1
        assert min(row[name] for name in ("grad_norm", "seconds", "lora_a_norm")) > 0
        assert 0 <= row["data_wait"] < 1
        pairs, tokens = row["pairs_per_second"], row["tokens_per_second"]
        assert pairs * row["seconds"] == pytest.approx(3 if row["step"] % 4 == 0 else 4)
        assert tokens > 50 * pairs
    first, second = (np.mean([row["loss"] for row in rows[start : start + 4]]) for start in (0, 4))
    assert second < first
    # Factors A are drawn, factors B start from 0: Adam's first step moves each by its rate.
    written = load_file(run / "adapter" / "adapter_model.safetensors")
    norms = {"lora_a_norm": "lora_A", "lora_b_norm": "lora_B"}
    for name, factor in norms.items():
        values = [value.ravel() for key, value in written.items() if factor in key]
        assert rows[-1][name] == pytest.approx(np.linalg.norm(np.concatenate(values)), rel=1e-5)
    assert 0 < rows[0]["lora_b_norm"] < rows[-1]["lora_b_norm"]


def test_tensorboard_gets_the_same_metrics(run):
    (events,) = run.glob("events.out.tfevents.*")
    content = events.read_bytes()
    for name in metrics_of(run)[0].keys() - {"step"}:
        assert content.count(b"\n" + bytes([len(name)]) + name.encode()) == 12


def test_the_adapter_is_one_that_peft_loads(run, tiny_checkpoint):
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run / "adapter")
    (config,) = model.peft_config.values()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 16, 0.1)
    assert set(config.target_modules) == {"q_proj", "v_proj"}
    loaded = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    written = load_file(run / "adapter" / "adapter_model.safetensors")
    assert len(loaded) == len(written) == 2 * 2 * 2
    for name, value in written.items():
        assert value.any()
        other = loaded[name.replace(".weight", ".default.weight")]
        np.testing.assert_array_equal(value, other.numpy())


def test_a_finished_run_is_left_as_it_is(run, tiny_checkpoint):
    def content():
        adapter = (run / "adapter" / "adapter_model.safetensors").read_bytes()
        return adapter, (run / "metrics.jsonl").read_text(), (run / "experiment.json").read_text()

    before = content()
    train.main(small_config(tiny_checkpoint), run)
    assert content() == before


def test_a_directory_with_a_run_of_other_settings_is_refused(run, tiny_checkpoint):
    before = (run / "experiment.json").read_text()
    other = small_config(tiny_checkpoint, seed=1, lora__dropout=0.0)
    differing = r"another recipe\.lora\.dropout, seed, split\.seed; choose"
    with pytest.raises(InputError, match=f"holds a run with {differing}"):
        train.main(other, run)
    assert (run / "experiment.json").read_text() == before


def test_a_directory_in_use_is_refused_until_its_holder_dies(run, tiny_checkpoint):
    config = small_config(tiny_checkpoint)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"{run} is in use by process {holder.pid} on .*; wait"):
        train.main(config, run)
    holder.kill()
    holder.wait()
    train.main(config, run)


def test_a_model_changed_under_the_same_name_is_refused(run, tiny_checkpoint, tmp_path):
    ours, model = shutil.copytree(run, tmp_path / "run"), tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    (file,) = model.glob("*.safetensors")
    weights = load_file(file)
    weights["model.norm.weight"][0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    record = json.loads((ours / "experiment.json").read_text())
    record["model"]["name"] = str(model)
    del record["content_sha256"]
    (ours / "experiment.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"holds a run with another model\.fingerprint; choose"):
        train.main(small_config(model), ours)


def test_a_dataset_changed_under_the_same_name_is_refused(run, tmp_path):
    experiment = read_experiment(run / "experiment.json")
    with Claim(tmp_path / "run") as claim:
        claim.take(experiment)
        claim.take(experiment)
        changed = replace(experiment, survey=replace(experiment.survey, digest="3", examples="4"))
        with pytest.raises(InputError, match=r"another survey\.digest, survey\.examples; choose"):
            claim.take(changed)


def test_a_digest_is_of_all_that_is_learnt_from(survey):
    texts = [PromptText("Trust?", ("1", "2"))] * len(survey.answers)
    examples = replace(survey.examples, prompts=texts)
    others = [
        replace(examples, prompts=[*texts[:-1], PromptText("Trust?", ("1", "3"))]),
        replace(examples, answers=[*examples.answers[:-1], examples.answers[-1] + 1e-9]),
        replace(examples, pairs=examples.pairs.assign(weight=2.0)),
        replace(examples, pairs=examples.pairs.iloc[:-1]),
    ]
    digests = [digest(other) for other in (examples, *others)]
    assert len({*digests}) == 5
    assert digest(replace(examples, prompts=list(texts))) == digests[0]


def test_a_run_whose_directory_goes_away_says_so(tiny_checkpoint, tmp_path, monkeypatch):
    workdir = tmp_path / "run"

    def moved(self, row):
        if row["step"] == 8:
            workdir.rename(tmp_path / "moved")

    monkeypatch.setattr(MetricsLog, "write", moved)
    with pytest.raises(InputError, match=rf"{workdir}/checkpoints is gone, moved or deleted"):
        train.main(small_config(tiny_checkpoint), workdir)


def test_a_stop_before_the_first_step_saves_nothing(tiny_checkpoint, tmp_path, monkeypatch):
    stop = threading.Event()
    stop.set()
    monkeypatch.setattr(train.processes, "stop_on_signal", lambda: stop)
    with pytest.raises(Stopped, match="before the first step"):
        train.main(small_config(tiny_checkpoint), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_distributed_fields_need_initialize(tiny_checkpoint, tmp_path):
    config = small_config(tiny_checkpoint, distributed__process_id=1)
    with pytest.raises(InputError, match=r"set distributed\.initialize=True to use its other"):
        train.main(config, tmp_path)


def test_weights_and_biases_must_be_there_to_be_asked_for(tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"log\.wandb: wandb is not installed; python -m pip"):
        train.main(small_config(tiny_checkpoint, log__wandb="ace"), tmp_path / "run")


def test_training_starts_from_an_adapter_of_peft(tiny_checkpoint, peft_adapter, tmp_path):
    model, adapter = peft_adapter("q_proj", "down_proj")  # of rank 4
    config = small_config(
        tiny_checkpoint,
        lora__init_from=str(adapter),
        lora__dropout=0.0,
        objective__stages=((0.5, 2.0, 1),),
        data__min_n=166,  # 4 pairs
        max_steps=1,
    )
    train.main(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"]) == (4, 8)
    assert set(written["target_modules"]) == {"q_proj", "down_proj"}

    # The first step's loss is that of the adapter as it came, over all 4 pairs.
    dataset = select_questions(read_dataset("gss2018"), config.data.questions)
    tokenizer = open_checkpoint(str(tiny_checkpoint)).tokenizer
    style = PromptStyle.of(config.prompt.template, config.prompt.option_style)

    def endpoint(cell):
        texts = render_cells(dataset.cells.iloc[[cell]], dataset, style)
        (prompt,) = encode(texts, tokenizer, chat=False)
        p = dataset.cells["p"][cell]
        return Endpoint(list(prompt.tokens), [list(o) for o in prompt.options], p, int(p.argmax()))

    pairs = toggle_pairs(dataset.cells, dataset.attributes, min_n=166)
    ends = [Pair(endpoint(row.cell_0), endpoint(row.cell_1)) for row in pairs.itertuples()]
    (row,) = metrics_of(tmp_path / "run")
    with torch.no_grad():
        expected = total_loss(model, ends, 0.5, 2.0, "options").item()
    assert row["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.nan, "holds NaN or infinity"),
        (3e38, r"step 1 .*(nan|inf).* \(USA nat\w+\); .*checkpoint"),  # too large to multiply
    ],
)
def test_numbers_that_are_not_finite_stop_the_run(tiny_checkpoint, tmp_path, weight, message):
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    (file,) = broken.glob("*.safetensors")
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][3] = weight
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        train.main(small_config(broken, data__shuffle=False), tmp_path / "run")
    assert not (tmp_path / "run" / "adapter").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
