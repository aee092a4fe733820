"""What the speed benchmarks work on: prompts of real length, and one model for both sides.

The questions are those of the World Values Survey's codebook, asked of the personas of one country;
the answers are drawn at random. Options are labelled with letters, each of which is one token, so
that the peers may read all options off one position.
"""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from runpy import run_path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from ace_jax.model.formats.hub import Checkpoint
from ace_jax.planning.workload import stand_in_tokenizer
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt, PromptStyle, encode
from ace_jax.recipe import ROW_LENGTHS, Batch
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.dataset import Dataset, question_table
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import ATTRIBUTES, personas
from ace_jax.training.data import Collate, Examples, TrainingBatch, of_dataset
from ace_jax.training.units import Units

MODEL = "smollm2-135m-instruct"
CONFIGS = Path(__file__).parents[1] / "configs"


def survey(granularities: tuple[int, ...]) -> Dataset:
    """Returns a cell for every question and persona, with random answers."""
    codebook = read_codebook(BUILTIN / "wvs7.toml")
    draw = np.random.default_rng(0)
    cells = [
        {"question_id": question.question_id, "granularity": granularity, **persona}
        | {"p": draw.dirichlet(np.ones(len(question.option_codes)))}
        for question in codebook.questions
        for granularity in granularities
        for persona in personas(ATTRIBUTES, granularity)
    ]
    table = pd.DataFrame(cells).assign(source="wvs7", country="NZL", n=100, effective_n=100.0)
    return Dataset(question_table(codebook.questions), table, {})


def style(template: str) -> PromptStyle:
    """Returns how cells are put to the model."""
    return PromptStyle.of(template, "letter")


def shapes(options: int) -> Shapes:
    """Returns the sizes that the shipped config pads batches to, on one device."""
    config = run_path(str(CONFIGS / "ace.py"))["get_config"]()
    return Shapes(config.batch.row_lengths, row_multiple=1, options=options)


def torch_model(checkpoint: Checkpoint) -> torch.nn.Module:
    """Returns the checkpoint as transformers loads it, in float32."""
    file = checkpoint.source.files[0]
    gguf = {"gguf_file": file.name} if file.suffix == ".gguf" else {}
    return AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **gguf).eval()


@dataclass(frozen=True)
class Pairs:
    """Pairs to train on, and the two batches that are timed.

    Attributes:
      examples: all of them.
      prompts: theirs, tokenised.
      few: rows of the pairs table, a batch of the released code, out of `group`.
      group: all pairs of neighbouring contexts.
      batches: the two laid out for ace_jax, `pair` and `context`.
    """

    examples: Examples
    prompts: list[Prompt]
    few: np.ndarray
    group: np.ndarray
    batches: dict[str, TrainingBatch]

    def sizes(self) -> dict[str, object]:
        """Returns what a reader needs to know of the batches."""
        tokens = [len(self.prompts[cell].tokens) for cell in self._endpoints(self.group)]
        layouts = {name: batch.scoring for name, batch in self.batches.items()}
        return {
            "prompt_tokens": float(np.mean(tokens)),
            "nodes": {name: layout.nodes for name, layout in layouts.items()},
            "padding": {name: 1 - of.nodes / of.tokens.size for name, of in layouts.items()},
        }

    def _endpoints(self, rows: np.ndarray) -> np.ndarray:
        return np.unique(self.examples.pairs[["cell_0", "cell_1"]].to_numpy()[rows])


def pairs_of(
    template: str, tokenizer: PreTrainedTokenizerBase | None, neighbours: int, count: int
) -> Pairs:
    """Lays out `count` pairs, and all of a group of neighbours of typical length.

    A tokenizer of words takes the place of the model's where that is None.
    """
    dataset = survey(granularities=(4,))
    table = toggle_pairs(dataset.cells, dataset.attributes, min_n=10)
    examples = of_dataset(dataset, table, style(template), "none")
    prompts = encode(
        examples.prompts, tokenizer or stand_in_tokenizer(examples.prompts), chat=False
    )
    contexts = Units.cut(examples, Batch("context", neighbours, neighbours, ROW_LENGTHS))
    group = _typical(contexts.rows, examples, prompts)
    few = np.random.default_rng(0).choice(group, count, replace=False)
    sizes = shapes(max(map(len, examples.answers)))
    batches = {
        name: Collate(examples, prompts, sizes, len(rows))([rows])
        for name, rows in (("pair", few), ("context", group))
    }
    return Pairs(examples, prompts, few, group, batches)


def _typical(units: list[np.ndarray], examples: Examples, prompts: list[Prompt]) -> np.ndarray:
    """Returns the unit whose prompts' mean length is nearest to that of all."""
    longest = max(map(len, units))
    units = [rows for rows in units if len(rows) == longest]
    size = np.array([len(prompt.tokens) for prompt in prompts])
    ends = examples.pairs[["cell_0", "cell_1"]].to_numpy()
    means = np.array([size[np.unique(ends[rows])].mean() for rows in units])
    return units[int(np.argmin(np.abs(means - size.mean())))]


def bfloat16_is_faster() -> bool:
    """Times PyTorch's matmuls of the model's shape in both types."""

    def seconds(dtype: torch.dtype) -> float:
        x, w = torch.ones(2048, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        return min(timed(lambda: x @ w) for _ in range(10))

    return seconds(torch.bfloat16) < seconds(torch.float32)


def timed(run: Callable[[], object]) -> float:
    """Returns the seconds that `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matmul_rate(size: int, dtype: str) -> float:
    """Returns the operations a second of a large matrix product on random values."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    product = jax.jit(jnp.matmul)
    seconds = [timed(lambda: product(left, right).block_until_ready()) for _ in range(11)]
    return 2 * size**3 / float(np.median(seconds[1:]))


def alternate(runs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Times every run once a repetition, one after the other, after a first turn that is not kept.

    Others may use the machine: what one repetition compares was measured side by side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            lap = timed(run)
            if repetition:
                seconds[name].append(lap)
            print(f"{repetition or 'warm-up'} {name}: {lap:.1f} s", flush=True)
    return seconds


def ratios(rates: dict[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Returns the median, the least and the greatest ratio of two rates over the repetitions."""
    each = np.array(rates[ours]) / np.array(rates[theirs])
    return {"median": np.median(each), "least": each.min(), "greatest": each.max()}


def machine() -> dict[str, object]:
    """Returns what the figures were measured on."""
    names = [line for line in _cpu().splitlines() if line.startswith("Model name")]
    return {
        "date": date.today().isoformat(),
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "load_1_min": os.getloadavg()[0],
        "jax": jax.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def _cpu() -> str:
    return subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
