"""A whole training run: from a base model and a survey to an adapter that knows its experiment."""

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from flax import nnx
from ml_collections import ConfigDict

from ace_jax.errors import InputError
from ace_jax.experiment import Experiment, Prompt, versions
from ace_jax.language_model import LanguageModel
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats import peft
from ace_jax.model.formats.cards import Scores, adapter_card
from ace_jax.model.llama import AbstractModel, abstract_model
from ace_jax.model.sharding import gathered, make_mesh, replicated
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt as Tokens
from ace_jax.prompts.encode import PromptStyle
from ace_jax.recipe import Recipe, load_config
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.metrics import MetricsLog, check_wandb, read_rows
from ace_jax.runtime.processes import Agreement, is_first, on_first, raise_if
from ace_jax.runtime.progress import log
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.split import Split
from ace_jax.training.checkpoints import Checkpoints, Policy
from ace_jax.training.examples import Examples, Source, TrainingData, training_data
from ace_jax.training.loop import Job, Loop
from ace_jax.training.pipeline import Collate, Units, training_batches
from ace_jax.training.schedule import Schedule
from ace_jax.training.state import (
    initial_lora,
    initial_state,
    make_optimizer,
    make_stage_end,
    state_shardings,
)
from ace_jax.training.step import make_train_step
from ace_jax.training.validation import (
    Best,
    Validator,
    make_validation_step,
    validation_batches,
)

BEFORE_FIRST_STEP = "before the first step"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      workdir: its directory.
      experiment: its record.
      step: of the adapter.
    """

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

    Args:
      model: the base model, and how cells are put to it.
      survey: what to learn from.
      split: what training must not see.
      workdir: of the run; the adapter comes to lie in workdir/adapter.
      recipe: a method of configs/methods.py, or a config.
      seed: of initialisation, dropout and order.
      max_steps: ends training early.
      changes: fields of the config, for example {"optimizer.learning_rate": 1e-3}.

    Returns:
      The run, with its experiment's record.

    Raises:
      InputError: settings that cannot be, or another run in `workdir`.
    """
    if model.adapter is not None:
        raise InputError(
            "fine_tune: takes a base model; to go on from an adapter set lora.init_from"
        )
    config = load_config(f"methods:{recipe}") if isinstance(recipe, str) else recipe
    config = config.copy_and_resolve_references().unlock()
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

    Args:
      config: configs/ace.py has every field.
      claim: of the run directory.
      model: the base model, if it is open already.
      source: the survey, if it is open already.
      split: what training must not see; None: `data.holdout`, drawn by the config's seed.
      stop: set when this process is asked to end.

    Raises:
      InputError: found before the first compilation, or a loss that is not finite.
      Stopped: `stop` was set; everything is saved.
    """
    stop, split = stop or threading.Event(), split or Split(config.data.holdout, config.seed)
    on_first(claim.hold)
    recipe = Recipe.of(config, peft.adapter_config(config.lora))
    policy = Policy(**config.checkpoint)
    check_wandb(config.log.wandb)
    data = training_data(config, split, source)
    units = Units.cut(data.train, recipe.batch)
    schedule = Schedule(recipe.objective.stages, units.steps_per_epoch)
    last_step = schedule.last_step(config.max_steps)
    _log_data(data, config, schedule.cut_short(last_step))

    model = model or LanguageModel.from_pretrained(
        config.model.path,
        prompt=PromptStyle.of(**config.prompt),
        dtype=config.model.dtype,
        quantization=config.model.quantization,
        mesh=make_mesh(**config.mesh),
    )
    mesh = model.mesh
    adapted = abstract_model(
        model.checkpoint.config,
        recipe.lora,
        base_dtype(model.dtype),
        config.model.remat,
        model.quantization,
    )
    log(f"model: {model}, LoRA rank {recipe.lora.rank} on {', '.join(recipe.lora.targets)}")

    # Prompts and batches.
    prompts, shapes = _prompts(model, data.train, recipe)
    collate = Collate(data.train, prompts, shapes, units.max_pairs)
    batches = training_batches(units, collate, schedule.epochs, recipe.shuffle, config.seed)
    held_out = []
    if data.validation:
        unseen = _prompts(model, data.validation, recipe)
        held_out = validation_batches(data.validation, *unseen, collate.max_cells)
    experiment = Experiment(
        model.record,
        data.survey,
        split,
        data.held_out,
        Prompt.of(model.style),
        recipe,
        config.seed,
        versions(),
    )
    on_first(lambda: claim.check(experiment))
    agreement = Agreement(mesh)
    raise_if(bool(agreement(stop.is_set()).any()), BEFORE_FIRST_STEP)

    # State: fresh or from an adapter, then as the latest checkpoint has it.
    lora, key = _first_lora(model, adapted, recipe, config.seed)
    on_first(lambda: claim.take(experiment))
    optimizer = make_optimizer(recipe.optimizer)
    shardings = state_shardings(lora, optimizer, mesh)
    state = initial_state(lora, optimizer, key, mesh)
    anchor = recipe.objective.anchor
    validator = None
    if held_out:
        score = make_validation_step(adapted.graph, anchor, mesh)
        validator = Validator(recipe.validation, score, model.base, held_out, mesh, schedule)
    loop = Loop(
        make_train_step(adapted.graph, optimizer, anchor, recipe.lora.dropout, shardings, mesh),
        make_stage_end(recipe.optimizer, shardings),
        model.base,
        schedule,
        validator,
        last_step,
        data.train.pairs,
        mesh,
    )
    raise_if(bool(agreement(stop.is_set()).any()), BEFORE_FIRST_STEP)

    with Checkpoints(claim.workdir / "checkpoints", policy) as saved:
        state = saved.restore(state, batches)
        best = saved.restore_best(Best.none_yet(state.lora)) if validator else None
        first_step = int(state.step)
        log(f"training: step {first_step} of {last_step}, {len(schedule.stages)} stage(s)")
        settings = experiment.to_json()
        with (
            MetricsLog(claim.workdir, first_step, last_step, config.log.wandb, settings)
            if is_first()
            else nullcontext()
        ) as metrics:
            job = Job(claim, saved, metrics, stop)
            state, best, stopped = loop.run(state, best, batches, job)
    raise_if(stopped, f"at step {int(state.step)}")

    lora, step = state.lora, int(state.step)
    if validator and best:
        lora, step = validator.chosen(state, best)
        if validator.is_over(best):
            patience = recipe.validation.patience
            log(f"no gain in {patience} validation(s): done at step {int(state.step)}")
        log(f"validation: lowest loss {best.loss:.4f} at step {best.step}; adapter of step {step}")
    run, whole = Run(claim.workdir, experiment, step), gathered(lora, mesh)
    on_first(lambda: write_adapter(run.adapter, whole, experiment, step))
    return run


def write_adapter(
    directory: Path,
    lora: nnx.State,
    experiment: Experiment,
    step: int,
    scores: Scores | None = None,
) -> None:
    """Writes an adapter with its model card and its experiment's record."""
    base = peft.BaseModel(experiment.model.name, experiment.model.fingerprint)
    shape, facts = experiment.recipe.lora, facts_of(experiment, step)
    card = adapter_card(base, shape, facts, scores)
    factors = peft.factors_of(lora)
    peft.write_adapter(directory, factors, shape, base, card, experiment.to_json())


def facts_of(experiment: Experiment, step: int) -> dict[str, str]:
    """Returns what a model card says of the training."""
    prompt = experiment.prompt
    return {
        "survey": experiment.survey.described(),
        "held out": experiment.held_out.describe(),
        "prompt": prompt.described(),
        "recipe": experiment.recipe.described(),
        "steps": str(step),
        "seed": str(experiment.seed),
        "made with": ", ".join(f"{name} {which}" for name, which in experiment.versions.items()),
    }


def _log_data(data: TrainingData, config: ConfigDict, cut_short: str | None) -> None:
    pairs = data.train.pairs
    log(
        f"survey: {config.data.path}, {len(pairs)} pairs in {pairs['context'].nunique()} contexts "
        f"of {pairs['question_id'].nunique()} questions"
    )
    log(f"held out ({config.data.holdout}): {data.held_out.describe()}")
    if data.validation:
        unseen = data.validation.pairs
        log(
            f"validation: {len(unseen)} held-out pairs of {unseen['question_id'].nunique()} "
            f"questions, every {config.validation.every_steps} steps and at the end of a stage"
        )
    if cut_short:
        log(f"warning: {cut_short}")


def _prompts(
    model: LanguageModel, examples: Examples, recipe: Recipe
) -> tuple[list[Tokens], Shapes]:
    """Returns the tokens of the examples, and the shapes that their batches have."""
    prompts = model.tokenize(examples.prompts)
    return prompts, model.shapes(prompts, recipe.batch.size, recipe.batch.row_lengths)


def _first_lora(
    model: LanguageModel, adapted: AbstractModel, recipe: Recipe, seed: int
) -> tuple[nnx.State, jax.Array]:
    """Returns the adapter that training starts from, and the key of every dropout mask."""
    mesh = model.mesh
    key = jax.jit(lambda: jax.random.key(seed), out_shardings=replicated(mesh))()
    if recipe.init_from:
        identity = model.record.fingerprint
        return peft.load_adapter(Path(recipe.init_from), adapted.lora, mesh, identity), key
    return initial_lora(model.checkpoint.config, recipe.lora, mesh, key), key
