"""A whole training run: from a base model and a survey to an adapter that knows its experiment."""

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from flax import nnx
from ml_collections import ConfigDict

from ace_jax.answering import Batching
from ace_jax.errors import InputError, check_in
from ace_jax.experiment import Experiment, Prompt, versions
from ace_jax.language_model import LanguageModel
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats import peft
from ace_jax.model.formats.cards import card
from ace_jax.model.llama import abstract_model
from ace_jax.model.sharding import gathered, make_mesh, replicated
from ace_jax.prompts.encode import PromptStyle
from ace_jax.recipe import Recipe, load_config
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.metrics import MetricsLog, check_wandb, read_rows
from ace_jax.runtime.processes import Agreement, is_first, on_first, raise_if
from ace_jax.runtime.progress import log
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.split import Split
from ace_jax.training.checkpoints import Checkpoints, Policy, digest
from ace_jax.training.data import Collate, Source, TrainingData, training_data
from ace_jax.training.loop import Loop
from ace_jax.training.step import (
    Schedule,
    initial_lora,
    initial_state,
    make_optimizer,
    make_stage_end,
    make_train_step,
    state_shardings,
)
from ace_jax.training.units import Units, training_batches
from ace_jax.training.validation import Best, Validator, make_validation_step, validation_batches


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, its record and the step that its adapter is of."""

    workdir: Path
    experiment: Experiment
    step: int

    @property
    def adapter(self) -> Path:
        """The PEFT directory."""
        return self.workdir / "adapter"

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a step: loss, its parts, norms and speed."""
        return pd.DataFrame(read_rows(self.workdir / "metrics.jsonl"))


def fine_tune(
    model: LanguageModel,
    survey: Dataset,
    *,
    split: Split,
    workdir: str | Path,
    recipe: str | ConfigDict = "joint",
    seed: int = 0,
    max_steps: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Run:
    """Trains a LoRA adapter on a survey's answers; goes on where a run in `workdir` stopped.

    The adapter comes to lie in workdir/adapter. What `split` holds out is not trained on.

    Args:
      model: the base model, and how cells are put to it.
      recipe: a method of configs/methods.py, or a config.
      seed: of initialisation, dropout and order.
      max_steps: ends training early.
      changes: fields of the config, for example {"optimizer.learning_rate": 1e-3}.

    Raises `InputError` for settings that cannot be, or another run in `workdir`.
    """
    if model.adapter is not None:
        raise InputError(
            "fine_tune: takes a base model; to go on from an adapter set lora.init_from"
        )
    config = load_config(f"methods:{recipe}") if isinstance(recipe, str) else recipe
    config = config.copy_and_resolve_references().lock()  # unknown fields are refused
    try:
        config.update_from_flattened_dict(dict(changes or {}))
    except KeyError as error:
        raise InputError(f"changes: there is no such field ({error})") from None
    config.data.path, config.data.holdout = survey.path or survey.name, split.spec
    config.seed, config.max_steps = seed, max_steps
    with Claim(Path(workdir)) as claim:
        return train(config, claim, model=model, source=survey, split=split)


def train(
    config: ConfigDict,
    claim: Claim,
    *,
    model: LanguageModel | None = None,
    source: Source | None = None,
    split: Split | None = None,
    stop: threading.Event | None = None,
) -> Run:
    """Trains as a config says, in a directory that no other job has.

    Base model, survey and split are the config's (configs/ace.py has every field) where they are
    not given. Raises `InputError` before the first compilation, or for a loss that is not finite,
    and `Stopped` when everything is saved after `stop` was set.
    """
    stop, split = stop or threading.Event(), split or Split(config.data.holdout, config.seed)
    check_in("[0, 4294967295]", seed=config.seed)
    on_first(claim.hold)
    recipe = Recipe.of(config, peft.adapter_config(config.lora))
    policy = Policy(**config.checkpoint)
    check_wandb(config.log.wandb)
    style = model.style if model else PromptStyle.of(**config.prompt)
    data = training_data(config, split, source, style)
    units = Units.cut(data.train, recipe.batch)
    schedule = Schedule(recipe.objective.stages, units.steps_per_epoch)
    last_step = schedule.last_step(config.max_steps)
    check_in(f"[1, {schedule.steps}]", optimizer__accumulation=recipe.optimizer.accumulation)
    _log_data(data, config, schedule, last_step)

    model = model or LanguageModel.from_pretrained(
        config.model.path,
        prompt=style,
        dtype=config.model.dtype,
        quantization=config.model.quantization,
        attention=config.model.attention,
        mesh=make_mesh(**config.mesh),
    )
    mesh = model.mesh
    dtype, remat = base_dtype(model.dtype), config.model.remat
    architecture = model.checkpoint.config
    check_in(f"[1, {architecture.hidden_size}]", lora__rank=recipe.lora.rank)
    adapted = abstract_model(
        architecture, recipe.lora, dtype, remat, model.quantization, model.attention
    )
    log(f"model: {model}, LoRA rank {recipe.lora.rank} on {', '.join(recipe.lora.targets)}")

    batching, train = Batching(recipe.batch.size, recipe.batch.row_lengths), data.train.doubled
    prompts = model.tokenize(train.prompts)
    collate = Collate(train, prompts, batching.shapes(prompts, mesh), units.max_pairs)
    batches = training_batches(units, collate, schedule.epochs, recipe.shuffle, config.seed)
    held_out = []
    if data.validation:
        unseen = model.tokenize(data.validation.doubled.prompts)
        shapes = batching.shapes(unseen, mesh)
        held_out = validation_batches(data.validation, unseen, shapes, collate.max_cells)
    experiment = Experiment(
        model=model.record,
        survey=data.survey,
        split=split,
        held_out=data.held_out,
        prompt=Prompt.of(style),
        recipe=recipe,
        seed=config.seed,
        versions=versions(),
    )
    on_first(lambda: claim.check(experiment))
    agreement = Agreement(mesh)
    raise_if(bool(agreement(stop.is_set()).any()), "before the first step")

    base = model.load().base
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=replicated(mesh))()
    if recipe.init_from:
        start = Path(recipe.init_from)
        lora = peft.load_adapter(start, adapted.lora, mesh, model.record.fingerprint)
    else:
        lora = initial_lora(architecture, recipe.lora, mesh, key)
    unchanged = digest(lora)
    on_first(lambda: claim.take(experiment))
    optimizer = make_optimizer(recipe.optimizer, schedule.steps)
    shardings = state_shardings(lora, optimizer, mesh)
    state = initial_state(lora, optimizer, key, mesh)
    anchor, dropout = recipe.objective.anchor, recipe.lora.dropout
    validator = None
    if held_out:
        score = make_validation_step(adapted.graph, anchor, mesh)
        validator = Validator(recipe.validation, score, base, held_out, mesh, schedule)
    step_of = make_train_step(adapted.graph, optimizer, anchor, dropout, shardings, mesh)
    end = make_stage_end(recipe.optimizer, shardings, schedule.steps)
    loop = Loop(step_of, end, base, schedule, validator, last_step, train.pairs, mesh)
    raise_if(bool(agreement(stop.is_set()).any()), "before the first step")

    with Checkpoints(claim.workdir / "checkpoints", policy) as saved:
        fresh_best = Best.none_yet(state.lora) if validator else None
        state, best = saved.restore(state, batches, fresh_best)
        if int(state.step) > last_step:
            raise InputError(
                f"max_steps: {last_step} is below the {int(state.step)} steps that the run in "
                f"{claim.workdir} has done; choose more, or another --workdir"
            )
        log(f"training: step {int(state.step)} of {last_step}, {len(schedule.stages)} stage(s)")
        logged = (claim.workdir, int(state.step), last_step, config.log.wandb, experiment.to_json())
        with MetricsLog(*logged) if is_first() else nullcontext() as metrics:
            state, best, stopped = loop.run(state, best, batches, saved, metrics, stop)
    raise_if(stopped, f"at step {int(state.step)}")

    lora, step = state.lora, int(state.step)
    if validator and best:
        lora, step = validator.chosen(state, best)
        if validator.is_over(best):
            patience = recipe.validation.patience
            log(f"no gain in {patience} validation(s): done at step {int(state.step)}")
        log(f"validation: lowest loss {best.loss:.4f} at step {best.step}; adapter of step {step}")
    if digest(lora) == unchanged:
        log(
            f"warning: training did not change the adapter in {step} step(s); look at "
            "optimizer.learning_rate, optimizer.accumulation and max_steps"
        )
    run, whole = Run(claim.workdir, experiment, step), gathered(lora, mesh)
    on_first(lambda: write_adapter(run.adapter, whole, experiment, step))
    return run


def write_adapter(directory: Path, lora: nnx.State, experiment: Experiment, step: int) -> None:
    """Writes an adapter with its model card and its experiment's record.

    Raises `InputError` for weights that are not finite, or as `peft.write_adapter`.
    """
    base = peft.BaseModel(experiment.model.name, experiment.model.fingerprint)
    facts = {
        "survey": experiment.survey.described(),
        "held out": experiment.held_out.describe(),
        "prompt": experiment.prompt.described(),
        "recipe": experiment.recipe.described(),
        "steps": str(step),
        "seed": str(experiment.seed),
        "made with": ", ".join(f"{name} {which}" for name, which in experiment.versions.items()),
    }
    shape = experiment.recipe.lora
    factors = peft.factors_of(lora)
    if broken := [name for name, factor in factors.items() if not np.isfinite(factor).all()]:
        raise InputError(f"{directory}: {broken[0]} of step {step} is not finite; not written")
    readme = card("adapter", base, lora=shape, facts=facts)
    peft.write_adapter(directory, factors, shape, base, readme, experiment.to_json())


def _log_data(data: TrainingData, config: ConfigDict, schedule: Schedule, last_step: int) -> None:
    pairs = data.train.pairs
    of = f"{pairs['question_id'].nunique()} questions in {pairs['context'].nunique()} contexts"
    log(f"survey: {config.data.path}, {len(pairs)} pairs of {of}")
    log(f"held out ({config.data.holdout}): {data.held_out.describe()}")
    if data.validation:
        every = config.validation.every_steps
        log(f"validation: {len(data.validation.pairs)} held-out pairs every {every} steps")
    if last_step < schedule.steps:
        _, stage, _ = schedule.at(last_step - 1)
        where = f"{last_step} of {schedule.steps} steps, in stage {stage}"
        left = [f"alpha {each.alpha:g}, beta {each.beta:g}" for each in schedule.stages[stage:]]
        skipped = f"; left out: {'; '.join(left)}" if left else ""
        log(f"warning: max_steps ends training after {where} of {len(schedule.stages)}{skipped}")
