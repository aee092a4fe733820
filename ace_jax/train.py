"""Trains a LoRA adapter on a survey's answers, anchor first and effects after.

    python -m ace_jax.train --config configs/quickstart.py --workdir runs/quickstart/train

Run it again with the same --workdir to go on where it stopped; SIGTERM saves and exits with
status 42. The adapter comes to lie in WORKDIR/adapter, in PEFT format.
"""

import json
from contextlib import nullcontext
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.model.abstract import abstract_model
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.cards import AdapterCard
from ace_jax.model.formats.hf import fingerprint, load_base
from ace_jax.model.formats.hub import Checkpoint, open_checkpoint
from ace_jax.model.formats.peft import (
    BaseModel,
    adapter_config,
    export_adapter,
    load_adapter,
)
from ace_jax.model.sharding import gathered, make_mesh, replicated, row_shards
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt, check_prompts, encode
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.metrics import MetricsLog, check_wandb
from ace_jax.runtime.processes import (
    Agreement,
    join,
    lead,
    leads,
    leave_if,
    on_sigterm,
    say,
)
from ace_jax.training.checkpoints import Checkpoints, Policy
from ace_jax.training.examples import Examples, digest, read_examples, read_held_out
from ace_jax.training.loop import Loop
from ace_jax.training.pipeline import Collate, Units, training_batches
from ace_jax.training.schedule import Schedule
from ace_jax.training.state import initial_lora, initial_state, make_optimizer, state_shardings
from ace_jax.training.step import check_anchor, check_normalizer, make_train_step
from ace_jax.training.validation import (
    Best,
    Validation,
    ValidationPolicy,
    make_validation_step,
    validation_batches,
)

BEFORE_FIRST_STEP = "before the first step"


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
    validates = ValidationPolicy(**config.validation)
    validates.check(config.data.holdout)
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
    held_out = read_held_out(config, validates.pairs) if validates.every_steps else None
    if held_out:
        say(
            f"validation: {len(held_out.pairs)} held-out pairs of "
            f"{held_out.pairs['question_id'].nunique()} questions, every {validates.every_steps} "
            "steps and at the end of a stage"
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
    collate = Collate(examples, *prompts_of(examples, checkpoint, mesh, config), units.max_pairs)
    data = training_batches(units, collate, schedule.epochs, config.data.shuffle, config.seed)
    batches = []
    if held_out:
        asked = prompts_of(held_out, checkpoint, mesh, config)
        batches = validation_batches(held_out, *asked, collate.max_cells)
    leave_if(bool(agreement(stop.is_set()).any()), BEFORE_FIRST_STEP)

    # State: fresh or from an adapter, then as the latest checkpoint has it.
    identity = fingerprint(checkpoint.source)
    init_from = config.lora.init_from
    lora = init_from and load_adapter(Path(init_from), model.lora, mesh, identity)
    base = load_base(model.base, checkpoint.source, mesh)
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=replicated(mesh))()
    if not init_from:
        lora = initial_lora(checkpoint.config, lora_config, mesh, key)
    state = initial_state(lora, optimizer, key, mesh)
    learnt = "-".join(map(digest, filter(None, (examples, held_out))))
    contents = {"model.path": identity, "data.path": learnt}
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
    validation = None
    if held_out:
        score = make_validation_step(model.graph, normalizer, mesh, anchor)
        validation = Validation(validates, score, base, batches, mesh, schedule)
    leave_if(bool(agreement(stop.is_set()).any()), BEFORE_FIRST_STEP)

    with Checkpoints(claim.workdir / "checkpoints", policy) as saved:
        state = saved.restore(state, data)
        best = saved.restore_best(Best.none_yet(state.lora)) if validation else None
        first_step = int(state.step)
        say(f"training: step {first_step} of {last_step}, {len(schedule.stages)} stage(s)")
        profile = claim.workdir / "profile" if config.profile and leads() else None
        loop = Loop(
            train_step, base, schedule, validation, last_step, pairs, mesh, claim, stop, profile
        )
        with (
            MetricsLog(claim.workdir, first_step, last_step, config.log.wandb, settings)
            if leads()
            else nullcontext()
        ) as log:
            state, best, stopped = loop.run(state, best, data, saved, log)
    leave_if(stopped, f"at step {int(state.step)}")

    lora, step = state.lora, int(state.step)
    if validation and best:
        lora, step = validation.chosen(state, best)
        if validation.is_over(best):
            say(f"no gain in {validates.patience} validation(s): done at step {int(state.step)}")
        say(f"validation: lowest loss {best.loss:.4f} at step {best.step}; adapter of step {step}")
    facts = {
        "survey": Path(config.data.path).name,
        "held out": str(config.data.holdout),
        "steps": str(step),
    }
    card = AdapterCard(checkpoint.name, identity, lora_config, facts)
    adapter, whole = claim.workdir / "adapter", gathered(lora, mesh)
    base_model = BaseModel(checkpoint.name, identity)
    lead(lambda: export_adapter(adapter, whole, lora_config, base_model, card.text()))
    say(f"adapter: {adapter}")


def prompts_of(
    examples: Examples, checkpoint: Checkpoint, mesh: Mesh, config: ConfigDict
) -> tuple[list[Prompt], Shapes]:
    """Returns what the model reads, and the shapes that its batches have."""
    prompts = encode(examples.prompts, checkpoint.tokenizer, chat=config.prompt.chat)
    check_prompts(prompts, checkpoint.config.vocab_size, checkpoint.config.window)
    options = max(map(len, examples.answers))
    shapes = Shapes(config.batch.row_lengths, row_shards(mesh), options)
    shapes.check(prompts)
    return prompts, shapes


if __name__ == "__main__":
    command.run_with_config(main)
