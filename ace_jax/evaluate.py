"""Asks a model, with or without an adapter, for its answers and scores them against the survey.

    python -m ace_jax.evaluate --config configs/evaluate.py:quickstart --workdir runs/base

Writes predictions.parquet (a row a cell), scores.csv (by country and granularity, in [0, 1]),
scores.png and run.json (what was scored) into WORKDIR.
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict
from tqdm import tqdm

from ace_jax import __version__, command
from ace_jax.analysis.alignment import alignment_distance, score_table
from ace_jax.analysis.figures import score_by_granularity
from ace_jax.command import say
from ace_jax.errors import InputError, check_positive
from ace_jax.interop.hf_weights import fingerprint, load_base
from ace_jax.interop.hub import Checkpoint, open_checkpoint, sha256_of
from ace_jax.interop.peft import load_adapter, read_lora_config
from ace_jax.model.architecture import base_dtype
from ace_jax.model.sharding import make_mesh, place_scoring, row_shards
from ace_jax.prompts.batches import Shapes, alike, scoring
from ace_jax.prompts.encode import PromptStyle, check_prompts, encode, render_cells
from ace_jax.survey.dataset import Dataset, dataset_directory, select_questions
from ace_jax.survey.holdout import held_out_cells
from ace_jax.survey.sources import open_dataset
from ace_jax.training.state import abstract_model
from ace_jax.training.step import make_scoring_step


def main(config: ConfigDict, workdir: Path) -> None:
    """Runs the whole job; see the module's docstring."""
    check_positive("batch.size", config.batch.size)
    dataset = select_questions(open_dataset(config.data.path), config.data.questions)
    cells = cells_to_score(dataset, config)
    say(
        f"survey: {config.data.path}, {len(cells)} cells of {cells['question_id'].nunique()} "
        f"questions ({config.data.split})"
    )

    mesh = make_mesh(**config.mesh)
    adapter = Path(config.adapter.path) if config.adapter.path else None
    lora_config = read_lora_config(adapter, dropout=0.0) if adapter else None
    checkpoint = open_checkpoint(config.model.path)
    dtype, quantization = base_dtype(config.model.dtype), config.model.quantization
    model = abstract_model(checkpoint.config, lora_config, dtype, quantization=quantization)
    say(f"model: {checkpoint.name} in {config.model.dtype}, adapter: {adapter or 'none'}")

    style = PromptStyle.of(config.prompt.template, config.prompt.option_style)
    texts = render_cells(cells, dataset, style)
    prompts = encode(texts, checkpoint.tokenizer, chat=config.prompt.chat)
    check_prompts(prompts, checkpoint.config.vocab_size, checkpoint.config.window)
    options = int(dataset.questions["option_codes"].map(len).max())
    shapes = Shapes(config.batch.row_lengths, row_shards(mesh), options)
    shapes.check(prompts)

    lora = model.lora
    if adapter:
        lora = load_adapter(adapter, lora, mesh, fingerprint(checkpoint.source))
    base = load_base(model.base, checkpoint.source, mesh)

    answer = make_scoring_step(model.graph, mesh)
    p_model = np.empty(len(cells), object)
    mass = np.empty(len(cells))
    for rows in tqdm(alike(prompts, config.batch.size), unit="batch", desc="evaluate"):
        batch = scoring([prompts[row] for row in rows], shapes, config.batch.size)
        p, mass_of_batch = jax.device_get(answer(lora, base, place_scoring(batch, mesh)))
        mass[rows] = mass_of_batch[: len(rows)]
        for slot, row in enumerate(rows):
            p_model[row] = p[slot, : len(prompts[row].options)].astype(np.float64)

    predictions = predict(cells, p_model, mass)
    scores = score_table(predictions, config.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    predictions.to_parquet(workdir / "predictions.parquet", index=False)
    scores.to_csv(workdir / "scores.csv", index=False)
    score_by_granularity({"adapter" if adapter else "base model": scores}, workdir / "scores.png")
    run = json.dumps(identity(config, dataset, checkpoint, adapter, style), indent=2)
    (workdir / "run.json").write_text(run + "\n")
    print(scores.to_string(index=False, float_format="{:.4f}".format))
    say(f"predictions and scores: {workdir}")


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


def predict(cells: pd.DataFrame, p_model: np.ndarray, mass: np.ndarray) -> pd.DataFrame:
    """Returns the table of predictions: the cells with the model's answers and their distance."""
    predictions = cells.rename(columns={"p": "p_data"}).assign(p_model=p_model, option_mass=mass)
    distance = [
        alignment_distance(*answers)
        for answers in zip(predictions["p_data"], predictions["p_model"], strict=True)
    ]
    return predictions.assign(distance=distance, score=1 - np.asarray(distance))


def identity(
    config: ConfigDict,
    dataset: Dataset,
    checkpoint: Checkpoint,
    adapter: Path | None,
    style: PromptStyle,
) -> dict[str, object]:
    """Returns what was scored, each part with the SHA-256 of what it was read from."""
    template = hashlib.sha256(style.template.source.encode()).hexdigest()
    tables = sorted(dataset_directory(config.data.path).glob("*.parquet"))
    # The authors' directory has no tables, but its manifest a digest of all its files.
    data = sha256_of(tables) if tables else dataset.manifest["inputs"][0]["sha256"]
    return {
        "version": __version__,
        "seed": config.seed,
        "model": {
            "path": config.model.path,
            "name": checkpoint.name,
            "dtype": config.model.dtype,
            "quantization": config.model.quantization,
            "sha256": sha256_of(checkpoint.files),
        },
        "adapter": adapter
        and {"path": str(adapter), "sha256": sha256_of(sorted(adapter.glob("adapter_*")))},
        "data": config.data.to_dict() | {"sha256": data},
        "attributes": {attribute.name: attribute.levels for attribute in dataset.attributes},
        "prompt": config.prompt.to_dict() | {"sha256": template},
    }


if __name__ == "__main__":
    command.run_with_config(main)
