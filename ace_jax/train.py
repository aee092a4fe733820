"""Trains a LoRA adapter on a survey's answers, anchor first and effects after.

    python -m ace_jax.train --config configs/quickstart.py --workdir runs/quickstart/train

Run it again with the same --workdir to go on where it stopped; SIGTERM saves and exits with
status 42. The adapter comes to lie in WORKDIR/adapter, in PEFT format.
"""

import json
import math
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.command import say
from ace_jax.errors import InputError
from ace_jax.interop.cards import AdapterCard, Training
from ace_jax.interop.hf_weights import fingerprint, load_base
from ace_jax.interop.hub import open_checkpoint
from ace_jax.interop.peft import adapter_config, export_adapter, load_adapter
from ace_jax.model.architecture import base_dtype
from ace_jax.model.sharding import make_mesh, place_scoring, row_shards
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import check_prompts, encode
from ace_jax.training import checkpoints
from ace_jax.training.examples import read_examples
from ace_jax.training.metrics import MetricsLog
from ace_jax.training.pipeline import Collate, TrainingBatch, Units, training_batches
from ace_jax.training.schedule import Schedule
from ace_jax.training.state import (
    abstract_model,
    initial_lora,
    initial_state,
    make_optimizer,
    state_shardings,
)
from ace_jax.training.step import Metrics, check_normalizer, make_train_step

SAVED_AND_STOPPED = 42  # the exit status on which launchers start a job again
CONFIG = "config.json"
FREE_TO_CHANGE = ("max_steps", "checkpoint")  # config fields that a resumed run may differ in


def main(config: ConfigDict, workdir: Path) -> None:
    """Runs the whole job; see the module's docstring."""
    settings = json.loads(config.to_json())
    check_claim(workdir, settings)
    normalizer = check_normalizer(config.objective.anchor_normalizer)
    optimizer = make_optimizer(**config.optimizer)
    policy = checkpoints.Policy(**config.checkpoint)

    # The survey.
    examples = read_examples(config)
    pairs = examples.pairs
    units = Units.cut(examples, config.batch.unit, config.batch.size, config.batch.neighbours)
    schedule = Schedule.of(config.objective.stages, units.steps_per_epoch)
    last_step = schedule.last_step(config.max_steps)
    say(
        f"survey: {config.data.path}, {len(pairs)} pairs in {pairs['context'].nunique()} contexts "
        f"of {pairs['question_id'].nunique()} questions"
    )

    # The model.
    mesh = make_mesh(**config.mesh)
    lora_config = adapter_config(config.lora)
    checkpoint = open_checkpoint(config.model.path)
    model = abstract_model(
        checkpoint.config,
        lora_config,
        base_dtype(config.model.dtype),
        config.model.remat,
        config.model.quantization,
    )
    say(
        f"model: {checkpoint.name} in {config.model.dtype}, LoRA rank {lora_config.rank} on "
        f"{', '.join(lora_config.targets)}; {mesh.size} {jax.devices()[0].platform} device(s)"
    )

    # Prompts and batches.
    prompts = encode(examples.prompts, checkpoint.tokenizer, chat=config.prompt.chat)
    check_prompts(prompts, checkpoint.config.vocab_size, checkpoint.config.window)
    options = max(map(len, examples.answers))
    shapes = Shapes(config.batch.row_lengths, row_shards(mesh), options)
    shapes.check(prompts)
    collate = Collate(examples, prompts, shapes, units.max_pairs)
    data = training_batches(units, collate, schedule.epochs, config.data.shuffle, config.seed)

    # State: fresh or from an adapter, then as the latest checkpoint has it.
    identity = fingerprint(checkpoint.source)
    init_from = config.lora.init_from
    lora = init_from and load_adapter(Path(init_from), model.lora, mesh, identity)
    base = load_base(model.base, checkpoint.source, mesh)
    key = jax.random.key(config.seed)
    if not init_from:
        lora = initial_lora(checkpoint.config, lora_config, mesh, key)
    state = initial_state(lora, optimizer, key, mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    saved = checkpoints.open_checkpoints(workdir / "checkpoints", policy)
    state = checkpoints.restore(saved, state, data)
    train_step = make_train_step(
        model.graph,
        optimizer,
        normalizer,
        lora_config.dropout,
        state_shardings(lora, optimizer, mesh),
        mesh,
    )

    # The loop. Metrics are fetched one step late, so that the device never waits for the host.
    first_step = int(state.step)
    say(f"training: step {first_step} of {last_step}, {len(schedule.stages)} stage(s)")
    stop = on_sigterm()
    with saved, MetricsLog(workdir, first_step, last_step) as log:
        clock = Clock(time.perf_counter())
        pending = None
        for step in range(first_step, last_step):
            batch = next(data)
            epoch, number, stage = schedule.at(step)
            state, metrics = train_step(
                state,
                base,
                place_scoring(batch.scoring, mesh),
                batch.targets,
                jnp.float32(stage.alpha),
                jnp.float32(stage.beta),
            )
            where = {"step": step + 1, "epoch": epoch, "stage": number}
            if pending is not None:
                log.write(report(*pending, pairs, clock))
            pending = (where, metrics, batch)
            if stop.is_set() or step + 1 == last_step or saved.should_save(step + 1):
                log.write(report(*pending, pairs, clock))
                pending = None
                checkpoints.save(saved, state, data)
            if stop.is_set():
                break
    if stop.is_set():
        say(f"stopped at step {int(state.step)}; run the same command again to go on")
        sys.exit(SAVED_AND_STOPPED)

    card = AdapterCard(checkpoint.name, identity, lora_config, Training.of(settings, last_step))
    adapter = workdir / "adapter"
    export_adapter(adapter, state.lora, lora_config, checkpoint.name, card.text(), identity)
    say(f"adapter: {adapter}")


def check_claim(workdir: Path, settings: dict[str, Any]) -> None:
    """Checks that a run already in `workdir` is this one.

    Raises `InputError` where it has other settings, or its config.json cannot be read.
    """
    path = workdir / CONFIG
    try:
        before = dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); choose another --workdir") from None
    differing = sorted(
        name
        for name in settings.keys() | before.keys()
        if name not in FREE_TO_CHANGE and settings.get(name) != before.get(name)
    )
    if differing:
        raise InputError(
            f"{workdir} holds a run with other settings of {', '.join(differing)}; "
            "choose another --workdir"
        )


@dataclass
class Clock:
    """Time of the last report, in seconds."""

    last: float

    def lap(self) -> float:
        """Returns the seconds since the last lap."""
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        return elapsed


def report(
    where: dict[str, int], metrics: Metrics, batch: TrainingBatch, pairs: pd.DataFrame, clock: Clock
) -> dict[str, int | float]:
    """Waits for a step and returns its row of metrics.jsonl.

    Raises `InputError` naming the batch where the loss or its gradient is not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(values["loss"] + values["grad_norm"]):
        contexts = pairs.iloc[batch.rows][["country", "question_id"]].drop_duplicates()
        raise InputError(
            f"step {where['step']} has the loss {values['loss']} and a gradient of norm "
            f"{values['grad_norm']} ({', '.join(' '.join(row) for row in contexts.to_numpy())}); "
            "nothing was saved since the last checkpoint; try a lower optimizer.learning_rate, "
            "or check the model's weights"
        )
    seconds = clock.lap()
    speed = {
        "pairs_per_second": len(batch.rows) / seconds,
        "tokens_per_second": batch.scoring.nodes / seconds,
        "seconds": seconds,
    }
    return where | values | speed


def on_sigterm() -> threading.Event:
    """Returns an event that SIGTERM sets, so that the loop can save before it ends."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    command.run_with_config(main)
