"""Flips bits in the files that the program writes: each is noticed, or changes no result.

    python -m tests.faults.bit_flips --flips 600 --seed 0

Every output is written once, small, by the program's own writers. Then a bit of one of its files is
flipped, at a place that the seed draws, the output is read as the commands read it, and the bit is
put back. Prints a table; ends with status 1 if a flip gave another result without a word, or an
error that is no `InputError`. metrics.jsonl is apart: it is a log that no result is made of.
"""

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own writers

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from test_report import predictions

from ace_jax.errors import InputError
from ace_jax.evaluation.record import write_output
from ace_jax.files import read_object, write_record
from ace_jax.model.formats import peft
from ace_jax.model.lora import LoRAConfig
from ace_jax.report.runs import read_runs
from ace_jax.runtime.metrics import read_rows
from ace_jax.runtime.saved_answers import Progress, SavedAnswers
from ace_jax.survey.dataset import read_dataset, select_questions, write_dataset
from ace_jax.survey.personas import ATTRIBUTES
from ace_jax.training.checkpoints import Checkpoints, Policy, digest, read_state
from ace_jax.training.step import TrainState

NOTICED, EQUAL, OTHER, ERROR = "noticed", "equal", "another result", "no line"
LOG = "metrics.jsonl"
RECORD = {"model": {"name": "m", "fingerprint": "f" * 64}, "seed": 3, "held_out": ["q1", "q2"]}
Reader = Callable[[Path], Any]


def _checkpoint(directory: Path) -> Reader:
    draw = np.random.default_rng(0)
    lora = nnx.State({"a": jnp.array(draw.normal(size=(4, 32, 8)), jnp.float32)})
    state = TrainState(jnp.int32(7), lora, {"mu": lora, "count": jnp.int32(7)}, jax.random.key(3))
    with Checkpoints(directory, Policy(1, math.inf, 2)) as saved:
        saved.save(state, iter(grain.MapDataset.range(9).to_iter_dataset()))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    return lambda directory: digest(read_state(directory, 7, abstract))


def _adapter(directory: Path) -> Reader:
    draw, config = np.random.default_rng(0), LoRAConfig(4, 8.0, 0.0, ("q_proj",))
    kernels = {"a": (2, 64, 4), "b": (2, 4, 64)}
    abstract = nnx.State(
        {
            "layers": {
                "q_proj": {
                    "lora": {
                        name: jax.ShapeDtypeStruct(shape, jnp.float32)
                        for name, shape in kernels.items()
                    }
                }
            }
        }
    )
    lora = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), abstract)
    base = peft.BaseModel("m", "f" * 64)
    peft.write_adapter(directory, peft.factors_of(lora), config, base, "a card", RECORD)

    def read(directory: Path) -> Any:
        factors = peft.read_factors(directory, abstract, base.fingerprint)
        config = asdict(peft.read_lora_config(directory, 0.0))
        of = {name: factor.tobytes() for name, factor in factors.items()}
        record = peft.read_record(directory) or {}
        return of, config, {key: record.get(key) for key in RECORD}

    return read


def _dataset(directory: Path) -> Reader:
    survey = read_dataset("gss2018")
    write_dataset(select_questions(survey, ("natcity", "abany")), directory)

    def read(directory: Path) -> Any:
        dataset = read_dataset(directory)
        return dataset.digest, {key: dataset.manifest.get(key) for key in survey.manifest}

    return read


def _evaluation(directory: Path) -> Reader:
    table = predictions(1)
    questions = table[["question_id"]].drop_duplicates().assign(topic="Trust", text="How much?")
    questions["option_labels"] = [["none", "some", "all"]] * len(questions)
    levels = {attribute.name: list(attribute.levels) for attribute in ATTRIBUTES}
    identity = {"seed": 0, "attributes": levels, "data": {"min_n": 10}, "model": {"name": "tiny"}}
    directory.mkdir()
    tables = {"predictions.parquet": table, "questions.parquet": questions}
    write_output(directory, tables, identity)

    def read(directory: Path) -> Any:
        (run,) = read_runs("a run", directory)
        known = {key: run.identity.get(key) for key in identity}
        return run.predictions.to_json(), run.questions.to_json(), known

    return read


def _saved_answers(directory: Path) -> Reader:
    directory.mkdir()
    p = np.random.default_rng(0).dirichlet(np.ones(4), 40).astype(np.float32)
    saved = SavedAnswers(directory, {"model": "m", "seed": 3})
    saved.save(Progress(p, p.sum(axis=1), 5))
    empty = Progress.empty(40, 4)

    def read(directory: Path) -> Any:
        found = SavedAnswers(directory, {"model": "m", "seed": 3}).restore(empty)
        return found.p.tobytes(), found.option_mass.tobytes(), found.batches

    return read


def _record(directory: Path) -> Reader:
    directory.mkdir()
    write_record(directory / "experiment.json", RECORD)

    def read(directory: Path) -> Any:
        found = read_object(directory / "experiment.json", "a run")
        return {key: found.get(key) for key in RECORD}

    return read


def _log(directory: Path) -> Reader:
    directory.mkdir()
    rows = [{"step": step, "loss": 1 / step, "grad_norm": 0.1 * step} for step in range(1, 30)]
    (directory / LOG).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return lambda directory: read_rows(directory / LOG)


OUTPUTS = {
    "checkpoint": _checkpoint,
    "adapter": _adapter,
    "DATASET": _dataset,
    "OUT": _evaluation,
    "answers.partial": _saved_answers,
    "experiment.json": _record,
    LOG: _log,
}


def campaign(flips: int, seed: int, directory: Path) -> Iterator[tuple[str, str, str]]:
    """Yields output, outcome, and what was flipped; the outputs take turns."""
    readers = {name: make(directory / name) for name, make in OUTPUTS.items()}
    sound = {name: read(directory / name) for name, read in readers.items()}
    files = {
        name: sorted(file for file in (directory / name).rglob("*") if file.stat().st_size)
        for name in OUTPUTS
    }
    draw = Random(seed)
    for number in range(flips):
        name = [*OUTPUTS][number % len(OUTPUTS)]
        file = draw.choice([file for file in files[name] if file.is_file()])
        content = file.read_bytes()
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        file.write_bytes(flipped)
        what = f"{file.relative_to(directory)}, byte {place}, bit {bit}"
        try:
            outcome = EQUAL if readers[name](directory / name) == sound[name] else OTHER
        except InputError as error:
            outcome = NOTICED if "\n" not in str(error) else ERROR
        except Exception as error:  # what the campaign is looking for
            outcome, what = ERROR, f"{what}: {error!r:.200}"
        file.write_bytes(content)
        yield name, outcome, what


def main() -> None:
    """Runs the campaign; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as directory:
        for name, outcome, what in campaign(args.flips, args.seed, Path(directory)):
            counts[name][outcome] += 1
            if outcome in (OTHER, ERROR) and name != LOG:
                print(outcome, what, flush=True)
    for name, of in counts.items():
        print(f"{name:<16}" + "".join(f"{kind}: {of[kind]:<6}" for kind in (NOTICED, EQUAL, OTHER)))
    results = sum((of for name, of in counts.items() if name != LOG), Counter())
    sys.exit(1 if results[OTHER] + results[ERROR] else 0)


if __name__ == "__main__":
    main()
