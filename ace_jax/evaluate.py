"""Asks a model, with or without an adapter, for its answers and scores them against the survey.

    python -m ace_jax.evaluate --config configs/evaluate.py:quickstart --workdir runs/base

Writes predictions.parquet (a row a cell), scores.csv (by country and granularity, in [0, 1]),
scores.png, questions.parquet (what was asked) and run.json (what was scored) into WORKDIR. With
--config.audit=True also audit.csv: the same cells put in other ways. With --config.reference=NAME
(uniform, mean or no_effect: ace_jax/analysis/references.py) nobody is asked, and WORKDIR is as of a
model.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from ace_jax import __version__, command
from ace_jax.analysis.alignment import score_table
from ace_jax.analysis.answers import Answers, Respondent, predictions_table
from ace_jax.analysis.figures import score_by_granularity
from ace_jax.analysis.pitfalls import UNALTERED, Variant, alterations, audit_table
from ace_jax.analysis.references import reference_answers, without_mean
from ace_jax.command import say
from ace_jax.errors import InputError, check_positive
from ace_jax.interop.hf_weights import fingerprint, load_base
from ace_jax.interop.hub import Checkpoint, open_checkpoint, sha256_of
from ace_jax.interop.peft import load_adapter, read_lora_config
from ace_jax.model.architecture import base_dtype
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import PromptStyle, check_prompts, encode
from ace_jax.survey.dataset import Dataset, dataset_directory, select_questions
from ace_jax.survey.holdout import held_out_cells
from ace_jax.survey.sources import open_dataset
from ace_jax.training.state import abstract_model
from ace_jax.training.step import make_scoring_step

QUESTIONS = ["question_id", "topic", "text", "option_labels"]  # what a report needs of them


def main(config: ConfigDict, workdir: Path) -> None:
    """Runs the whole job; see the module's docstring."""
    check_positive("batch.size", config.batch.size)
    dataset = select_questions(open_dataset(config.data.path), config.data.questions)
    cells = cells_to_score(dataset, config)
    say(
        f"survey: {config.data.path}, {len(cells)} cells of {cells['question_id'].nunique()} "
        f"questions ({config.data.split})"
    )
    respond = ask_model if config.reference is None else consult_reference
    answers, who = respond(config, dataset, cells)

    predictions = predictions_table(cells, answers[UNALTERED])
    scores = score_table(predictions, config.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    predictions.to_parquet(workdir / "predictions.parquet", index=False)
    scores.to_csv(workdir / "scores.csv", index=False)
    scored = dataset.questions[dataset.questions["question_id"].isin(cells["question_id"])]
    scored[QUESTIONS].to_parquet(workdir / "questions.parquet", index=False)
    name = config.reference or ("adapter" if config.adapter.path else "base model")
    score_by_granularity({name: scores}, workdir / "scores.png")
    print(scores.to_string(index=False, float_format="{:.4f}".format))
    if config.audit:
        audit = audit_table(cells, answers, config.seed)
        audit.to_csv(workdir / "audit.csv", index=False)
        print("\nThe same cells put in other ways, over all countries:\n")
        print(audit.to_string(index=False, float_format="{:.4f}".format))
    run = json.dumps(survey_identity(config, dataset) | who, indent=2)
    (workdir / "run.json").write_text(run + "\n")
    say(f"predictions and scores: {workdir}")


def ask_model(
    config: ConfigDict, dataset: Dataset, cells: pd.DataFrame
) -> tuple[dict[str, Answers], dict[str, object]]:
    """Returns a model's answers, by variant if they are audited, and what run.json says of it."""
    mesh = make_mesh(**config.mesh)
    adapter = Path(config.adapter.path) if config.adapter.path else None
    lora_config = read_lora_config(adapter, dropout=0.0) if adapter else None
    checkpoint = open_checkpoint(config.model.path)
    dtype, quantization = base_dtype(config.model.dtype), config.model.quantization
    model = abstract_model(checkpoint.config, lora_config, dtype, quantization=quantization)
    say(f"model: {checkpoint.name} in {config.model.dtype}, adapter: {adapter or 'none'}")

    style = PromptStyle.of(config.prompt.template, config.prompt.option_style)
    asked = {UNALTERED: Variant(style)}
    if config.audit:
        asked |= alterations(style, config.prompt.template)
    options = int(dataset.questions["option_codes"].map(len).max())
    shapes = Shapes(config.batch.row_lengths, row_shards(mesh), options)
    prompts = {}
    for name, variant in asked.items():
        texts = variant.texts(cells, dataset)
        prompts[name] = encode(texts, checkpoint.tokenizer, chat=config.prompt.chat)
        check_prompts(prompts[name], checkpoint.config.vocab_size, checkpoint.config.window)
        shapes.check(prompts[name])

    lora = model.lora
    if adapter:
        lora = load_adapter(adapter, lora, mesh, fingerprint(checkpoint.source))
    base = load_base(model.base, checkpoint.source, mesh)
    step = make_scoring_step(model.graph, mesh)
    respondent = Respondent(step, lora, base, mesh, shapes, config.batch.size)
    answers = {
        name: variant.in_order(respondent.answers(prompts[name], name))
        for name, variant in asked.items()
    }
    return answers, model_identity(config, checkpoint, adapter, style)


def consult_reference(
    config: ConfigDict, dataset: Dataset, cells: pd.DataFrame
) -> tuple[dict[str, Answers], dict[str, object]]:
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
    return {UNALTERED: answers}, {"reference": config.reference, **nobody}


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


def survey_identity(config: ConfigDict, dataset: Dataset) -> dict[str, object]:
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
) -> dict[str, object]:
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


if __name__ == "__main__":
    command.run_with_config(main)
