"""Asks a model, with or without an adapter, for its answers and scores them against the survey.

    python -m ace_jax.evaluate --config configs/evaluate.py:quickstart --workdir runs/base

Writes predictions.parquet (a row a cell), scores.csv (by country and granularity, in [0, 1]),
scores.png, questions.parquet (what was asked) and run.json (what was scored) into WORKDIR. With
--config.audit=True also audit.csv: the same cells put in other ways. With --config.reference=NAME
(uniform, mean or no_effect: ace_jax/evaluation/references.py) no model is asked, and WORKDIR is as
of a model.

Stopped or killed, it goes on when run again with the same settings and WORKDIR; SIGTERM keeps the
answers so far and exits with status 42. Several processes share the work with
--config.distributed.initialize=True (docs/launch.md).
"""

import hashlib
import json
import threading
from itertools import chain
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from ace_jax import __version__, command
from ace_jax.errors import InputError, check_positive
from ace_jax.evaluation.alignment import score_table
from ace_jax.evaluation.answers import Answers, Respondent, predictions_table
from ace_jax.evaluation.partial import Partial, digest
from ace_jax.evaluation.pitfalls import UNALTERED, Variant, alterations, audit_table
from ace_jax.evaluation.references import reference_answers, without_mean
from ace_jax.likelihood import make_scoring_step
from ace_jax.model.abstract import abstract_model
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.hf import fingerprint, load_base
from ace_jax.model.formats.hub import Checkpoint, open_checkpoint, sha256_of
from ace_jax.model.formats.peft import load_adapter, read_lora_config
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt, PromptStyle, PromptText, check_prompts, encode
from ace_jax.report.figures import score_by_granularity
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.processes import Agreement, join, lead, leave_if, on_sigterm, say
from ace_jax.survey.dataset import Dataset, dataset_directory, select_questions
from ace_jax.survey.readers.sources import open_dataset
from ace_jax.survey.split import held_out_cells

Identity = dict[str, object]
QUESTIONS = ["question_id", "topic", "text", "option_labels"]  # what a report needs of them


def main(config: ConfigDict, workdir: Path) -> None:
    """Runs the whole job; see the module's docstring."""
    join(**config.distributed)
    with Claim(workdir) as claim:
        evaluate(config, claim)


def evaluate(config: ConfigDict, claim: Claim) -> None:
    """Evaluates in a directory that no other job has."""
    stop = on_sigterm()
    lead(claim.hold)
    check_positive("batch.size", config.batch.size)
    dataset = select_questions(open_dataset(config.data.path), config.data.questions)
    cells = cells_to_score(dataset, config)
    say(
        f"survey: {config.data.path}, {len(cells)} cells of {cells['question_id'].nunique()} "
        f"questions ({config.data.split})"
    )
    if config.reference is None:
        answers, run = ask_model(config, dataset, cells, claim, stop)
    else:
        answers, run = consult_reference(config, dataset, cells, claim)
    lead(lambda: write(config, dataset, cells, answers, run, claim.workdir))
    Partial(claim.workdir, run).drop()
    say(f"predictions and scores: {claim.workdir}")


def ask_model(
    config: ConfigDict,
    dataset: Dataset,
    cells: pd.DataFrame,
    claim: Claim,
    stop: threading.Event,
) -> tuple[dict[str, Answers], Identity]:
    """Returns a model's answers, by variant if they are audited, and what run.json says of it."""
    mesh = make_mesh(**config.mesh)
    agreement = Agreement(mesh)
    adapter = Path(config.adapter.path) if config.adapter.path else None
    lora_config = read_lora_config(adapter, dropout=0.0) if adapter else None
    checkpoint = open_checkpoint(config.model.path)
    dtype, quantization = base_dtype(config.model.dtype), config.model.quantization
    model = abstract_model(checkpoint.config, lora_config, dtype, quantization=quantization)
    say(
        f"model: {checkpoint.name} in {config.model.dtype}, adapter: {adapter or 'none'}; "
        f"{mesh.size} {jax.devices()[0].platform} device(s) of {jax.process_count()} process(es)"
    )

    style = PromptStyle.of(config.prompt.template, config.prompt.option_style)
    asked = {UNALTERED: Variant(style)}
    if config.audit:
        asked |= alterations(style, config.prompt.template)
    options = int(dataset.questions["option_codes"].map(len).max())
    shapes = Shapes(config.batch.row_lengths, row_shards(mesh), options)
    prompts = {
        name: prompts_of(variant.texts(cells, dataset), checkpoint, shapes, config.prompt.chat)
        for name, variant in asked.items()
    }
    run = lead(
        lambda: (
            survey_identity(config, dataset) | model_identity(config, checkpoint, adapter, style)
        )
    )
    run = run or {}  # elsewhere it is not needed
    partial = Partial(claim.workdir, run | how_asked(config, prompts))
    partial.check()
    leave_if(bool(agreement(stop.is_set()).any()), "before the first batch")

    lora = model.lora
    if adapter:
        lora = load_adapter(adapter, lora, mesh, fingerprint(checkpoint.source))
    base = load_base(model.base, checkpoint.source, mesh)
    leave_if(bool(agreement(stop.is_set()).any()), "before the first batch")
    lead(claim.make)
    step = make_scoring_step(model.graph, mesh)
    respondent = Respondent(step, lora, base, mesh, shapes, config.batch.size)
    given = respondent.ask(prompts, partial, stop)
    return {name: variant.in_order(given[name]) for name, variant in asked.items()}, run


def prompts_of(
    texts: list[PromptText], checkpoint: Checkpoint, shapes: Shapes, chat: bool
) -> list[Prompt]:
    """Returns what the model reads; raises `InputError` for what it or a row cannot hold."""
    prompts = encode(texts, checkpoint.tokenizer, chat=chat)
    check_prompts(prompts, checkpoint.config.vocab_size, checkpoint.config.window)
    shapes.check(prompts)
    return prompts


def consult_reference(
    config: ConfigDict, dataset: Dataset, cells: pd.DataFrame, claim: Claim
) -> tuple[dict[str, Answers], Identity]:
    """Returns the answers of `reference`, which no model gives, and what run.json says of it."""
    if config.audit or config.adapter.path:
        field = "audit" if config.audit else "adapter.path"
        raise InputError(f"{field}: is of a model; leave it out where reference is set")
    seen = ~held_out_cells(dataset, config.data.holdout, config.seed)
    say(f"reference: {config.reference}; no model is opened")
    answers = reference_answers(config.reference, cells, dataset, seen)
    if config.reference == "mean" and (unknown := without_mean(cells, dataset, seen)):
        say(f"uniform where training has no scale of that size: {', '.join(unknown)}")
    nobody = {"model": None, "adapter": None, "prompt": None}
    run = survey_identity(config, dataset) | {"reference": config.reference, **nobody}
    Partial(claim.workdir, run).check()
    lead(claim.make)
    return {UNALTERED: answers}, run


def write(
    config: ConfigDict,
    dataset: Dataset,
    cells: pd.DataFrame,
    answers: dict[str, Answers],
    run: Identity,
    workdir: Path,
) -> None:
    """Writes all that comes of the answers, and shows the scores.

    run.json comes last: without it what lies there is not complete, or of several evaluations.
    """
    predictions = predictions_table(cells, answers[UNALTERED])
    scores = score_table(predictions)
    audit = audit_table(cells, answers) if config.audit else None
    scored = dataset.questions[dataset.questions["question_id"].isin(cells["question_id"])]
    name = config.reference or ("adapter" if config.adapter.path else "base model")
    whole = workdir / "run.json.new"
    try:
        for before in ("run.json", "audit.csv"):
            (workdir / before).unlink(missing_ok=True)
        predictions.to_parquet(workdir / "predictions.parquet", index=False)
        scores.to_csv(workdir / "scores.csv", index=False)
        scored[QUESTIONS].to_parquet(workdir / "questions.parquet", index=False)
        score_by_granularity({name: scores}, workdir / "scores.png")
        if audit is not None:
            audit.to_csv(workdir / "audit.csv", index=False)
        whole.write_text(json.dumps(run, indent=2) + "\n")
        whole.replace(workdir / "run.json")
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror or error}); make room and run the "
            "same command again"
        ) from None
    print(scores.to_string(index=False, float_format="{:.4f}".format))
    if audit is not None:
        print("\nThe same cells put in other ways, over all countries:\n")
        print(audit.to_string(index=False, float_format="{:.4f}".format))


def cells_to_score(dataset: Dataset, config: ConfigDict) -> pd.DataFrame:
    """Returns the cells of `data.split` with at least `data.min_n` respondents."""
    split = config.data.split
    held_out = held_out_cells(dataset, config.data.holdout, config.seed)
    splits = {"held_out": held_out, "train": ~held_out, "all": np.full(len(held_out), True)}
    if split not in splits:
        raise InputError(f"data.split: {split!r} is not one of {', '.join(splits)}")
    cells = dataset.cells[splits[split] & (dataset.cells["n"] >= config.data.min_n)]
    if cells.empty:
        raise InputError(
            f"no cells to score: data.split {split}, data.holdout {config.data.holdout}, "
            f"data.min_n {config.data.min_n}"
        )
    return cells.reset_index(drop=True)


def survey_identity(config: ConfigDict, dataset: Dataset) -> Identity:
    """Returns what was to be answered, with the SHA-256 of what it was read from."""
    tables = sorted(dataset_directory(config.data.path).glob("*.parquet"))
    # The authors' directory has no tables, but its manifest a digest of all its files.
    data = sha256_of(tables) if tables else dataset.manifest["inputs"][0]["sha256"]
    return {
        "version": __version__,
        "seed": config.seed,
        "data": config.data.to_dict() | {"sha256": data},
        "attributes": {attribute.name: attribute.levels for attribute in dataset.attributes},
    }


def model_identity(
    config: ConfigDict, checkpoint: Checkpoint, adapter: Path | None, style: PromptStyle
) -> Identity:
    """Returns who answered, each part with the SHA-256 of what it was read from."""
    template = hashlib.sha256(style.template.source.encode()).hexdigest()
    return {
        "reference": None,
        "model": {
            "path": config.model.path,
            "name": checkpoint.name,
            "dtype": config.model.dtype,
            "quantization": config.model.quantization,
            "sha256": sha256_of(checkpoint.files),
        },
        "adapter": adapter
        and {"path": str(adapter), "sha256": sha256_of(sorted(adapter.glob("adapter_*")))},
        "prompt": config.prompt.to_dict() | {"sha256": template},
    }


def how_asked(config: ConfigDict, prompts: dict[str, list[Prompt]]) -> Identity:
    """Returns what else than who is asked decides on the answers, to the last bit."""
    tokens = digest(chain.from_iterable(prompts.values()))
    return {"audit": config.audit, "batch": config.batch.to_dict(), "tokens": tokens}


if __name__ == "__main__":
    command.run_with_config(main)
