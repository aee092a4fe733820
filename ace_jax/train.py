"""Trains a LoRA adapter on a survey's answers, anchor first and effects after.

    python -m ace_jax.train --config configs/quickstart.py --workdir runs/quickstart/train

Run it again with the same --workdir to go on where it stopped; SIGTERM saves and exits with
status 42. The adapter comes to lie in WORKDIR/adapter, in PEFT format.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.interop.cards import AdapterCard, Training
from ace_jax.interop.hf_weights import fingerprint, load_base
from ace_jax.interop.hub import open_checkpoint
from ace_jax.interop.peft import adapter_config, export_adapter, load_adapter
from ace_jax.model.architecture import base_dtype
from ace_jax.model.sharding import gathered, make_mesh, replicated, row_shards
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import check_prompts, encode
from ace_jax.training.checkpoints import Checkpoints, Policy
from ace_jax.training.claim import Claim, digest
from ace_jax.training.distributed import Agreement, join, lead, leads, on_sigterm
from ace_jax.training.examples import read_examples
from ace_jax.training.loop import Loop
from ace_jax.training.metrics import MetricsLog, check_wandb
from ace_jax.training.pipeline import Collate, Units, training_batches
from ace_jax.training.schedule import Schedule
from ace_jax.training.state import (
    abstract_model,
    initial_lora,
    initial_state,
    make_optimizer,
    state_shardings,
)
from ace_jax.training.step import check_anchor, check_normalizer, make_train_step

SAVED_AND_STOPPED = 42  # the exit status on which launchers start a job again


def main(config: ConfigDict, workdir: Path) -> None:
    """Runs the whole job; see the module's docstring."""
    join(**config.distributed)
    with Claim(workdir) as claim:
        train(config, claim)


def train(config: ConfigDict, claim: Claim) -> None:
    """Trains in a directory that no other job has."""
    stop = on_sigterm()
    settings = json.loads(config.to_json())
    lead(lambda: claim.check(settings))
    normalizer = check_normalizer(config.objective.anchor_normalizer)
    anchor = check_anchor(config.objective.anchor, normalizer)
    optimizer = make_optimizer(**config.optimizer)
    policy = Policy(**config.checkpoint)
    check_wandb(config.log.wandb)

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
    agreement = Agreement(mesh)
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
        f"{', '.join(lora_config.targets)}; {mesh.size} {jax.devices()[0].platform} device(s) "
        f"of {jax.process_count()} process(es)"
    )

    # Prompts and batches.
    prompts = encode(examples.prompts, checkpoint.tokenizer, chat=config.prompt.chat)
    check_prompts(prompts, checkpoint.config.vocab_size, checkpoint.config.window)
    options = max(map(len, examples.answers))
    shapes = Shapes(config.batch.row_lengths, row_shards(mesh), options)
    shapes.check(prompts)
    collate = Collate(examples, prompts, shapes, units.max_pairs)
    data = training_batches(units, collate, schedule.epochs, config.data.shuffle, config.seed)
    leave_if(bool(agreement(stop.is_set()).any()))

    # State: fresh or from an adapter, then as the latest checkpoint has it.
    identity = fingerprint(checkpoint.source)
    init_from = config.lora.init_from
    lora = init_from and load_adapter(Path(init_from), model.lora, mesh, identity)
    base = load_base(model.base, checkpoint.source, mesh)
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=replicated(mesh))()
    if not init_from:
        lora = initial_lora(checkpoint.config, lora_config, mesh, key)
    state = initial_state(lora, optimizer, key, mesh)
    contents = {"model.path": identity, "data.path": digest(examples)}
    lead(lambda: claim.take(settings, contents))
    train_step = make_train_step(
        model.graph,
        optimizer,
        normalizer,
        lora_config.dropout,
        state_shardings(lora, optimizer, mesh),
        mesh,
        anchor,
    )
    leave_if(bool(agreement(stop.is_set()).any()))

    with Checkpoints(claim.workdir / "checkpoints", policy) as saved:
        state = saved.restore(state, data)
        first_step = int(state.step)
        say(f"training: step {first_step} of {last_step}, {len(schedule.stages)} stage(s)")
        profile = claim.workdir / "profile" if config.profile and leads() else None
        loop = Loop(train_step, base, schedule, last_step, pairs, mesh, claim, stop, profile)
        with (
            MetricsLog(claim.workdir, first_step, last_step, config.log.wandb, settings)
            if leads()
            else nullcontext()
        ) as log:
            state, stopped = loop.run(state, data, saved, log)
    if stopped:
        say(f"stopped at step {int(state.step)}; run the same command again to go on")
        sys.exit(SAVED_AND_STOPPED)

    card = AdapterCard(checkpoint.name, identity, lora_config, Training.of(settings, last_step))
    adapter, whole = claim.workdir / "adapter", gathered(state.lora, mesh)
    lead(
        lambda: export_adapter(adapter, whole, lora_config, checkpoint.name, card.text(), identity)
    )
    say(f"adapter: {adapter}")


def say(message: str) -> None:
    """Tells it once, however many processes there are."""
    if leads():
        command.say(message)


def leave_if(stop: bool) -> None:
    """Ends the process where any was asked to, before there is anything new to save."""
    if stop:
        say("stopped before the first step; run the same command again to go on")
        sys.exit(SAVED_AND_STOPPED)


if __name__ == "__main__":
    command.run_with_config(main)
