"""Asks a model, with or without an adapter, for its answers and scores them against the survey.

    python -m ace_jax.evaluate --adapter RUN/adapter --workdir OUT
    python -m ace_jax.evaluate --config configs/evaluate.py:quickstart --workdir OUT

The first form takes everything from the adapter's record: survey, split, prompt and base model.
What a flag or config contradicts is refused; `--allow-mismatch FIELD` (model, survey, questions,
split, prompt) lets it through and marks the output. The second form is for base models.

WORKDIR gets predictions.parquet (a row a cell), answers.csv (a row a cell and option), scores.csv,
blocks.csv (scores and slopes by what training had not seen), national.csv, questions.parquet,
references.parquet (the answers of what needs no language model, docs/analysis.md) and run.json. It
has the order gap: how far answers move when the options are listed in the other order. Run it again
with the same WORKDIR to go on where it stopped.
"""

import threading
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.answering import Batching
from ace_jax.evaluation import record as recording
from ace_jax.evaluation.answers import Answers
from ace_jax.evaluation.orders import Orders, described
from ace_jax.experiment import adapter_experiment
from ace_jax.language_model import LanguageModel
from ace_jax.model.sharding import make_mesh
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.processes import keep_compiled, on_first, start, stop_on_signal
from ace_jax.runtime.progress import log
from ace_jax.runtime.saved_answers import SavedAnswers, delete_saved


def main(config: ConfigDict, workdir: Path, allowed: tuple[str, ...] = ()) -> None:
    """Answers, scores, writes, and prints the scores."""
    start(**config.distributed)
    keep_compiled()
    stop = stop_on_signal()
    adapter = Path(config.adapter.path) if config.adapter.path else None
    record = adapter_experiment(adapter) if adapter else None
    scored = recording.requested_set(config, record)
    log(f"survey: {scored.survey.described()}, {len(scored.cells)} cells of {scored.part}")
    log(f"held out ({scored.split.spec}): {scored.held_out.describe()}")
    with Claim(workdir, evaluates=True) as claim:
        on_first(claim.hold)
        settings = recording.requested_model(config, record)
        model = LanguageModel.from_pretrained(
            adapter or settings["base"],
            **settings,
            mesh=make_mesh(**config.mesh),
            rebased="model" in allowed,
        )
        marks = model.marks(scored, allowed)
        answers, run = ask_model(model, config, scored, marks, claim, stop)
        references = scored.references
        run["marks"] += [
            f"reference {name}: {mark}" for name, of in references.items() for mark in of.marks
        ]
        tables = recording.result_tables(scored, answers, references)
        on_first(lambda: recording.write_output(workdir, tables, run))
        on_first(lambda: delete_saved(workdir))
    on_first(lambda: print(recording.shown(tables)))
    log(f"predictions and scores: {workdir}")


def ask_model(
    model: LanguageModel,
    config: ConfigDict,
    scored: recording.EvaluationSet,
    marks: tuple[str, ...],
    claim: Claim,
    stop: threading.Event,
) -> tuple[Answers, dict[str, Any]]:
    """Returns a model's answers, and run.json; saves the answers meanwhile."""
    log(f"model: {model}")
    orders = Orders.of(model.style, scored.cells)
    texts = orders.texts(scored.dataset)
    run = model.run_record(scored, marks)
    saved = SavedAnswers(claim.workdir, run | {"batch": config.batch.to_dict()})
    saved.check()
    model.load()
    on_first(claim.make)
    answers = model.ask(texts, Batching(**config.batch), saved=saved, stop=stop)
    gap = orders.gap(answers)
    log(described(gap))
    return orders.settle(answers), run | {"order_gap": gap}


def cli() -> None:
    """Runs the command line."""
    workdir = command.workdir_flag()
    adapter = flags.DEFINE_string("adapter", None, "PEFT directory; all else from its record")
    allowed = flags.DEFINE_multi_string(
        "allow-mismatch", [], "what may contradict the adapter's record"
    )

    def run(config: ConfigDict) -> None:
        config.adapter.path = adapter.value or config.adapter.path
        main(config, command.directory(workdir), tuple(allowed.value))

    command.run_with_config(run, workdir, adapter, allowed, default="evaluate:record")


if __name__ == "__main__":
    cli()
