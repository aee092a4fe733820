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
from datetime import date
from pathlib import Path
from runpy import run_path

import jax
import numpy as np
import pandas as pd
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from ace_jax.interop.hub import Checkpoint
from ace_jax.model.lora import ATTENTION_TARGETS
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import PromptStyle
from ace_jax.survey.codebook import CODEBOOKS, read_codebook
from ace_jax.survey.dataset import Dataset, question_table
from ace_jax.survey.personas import ATTRIBUTES, personas

MODEL = "smollm2-135m-instruct"
CONFIGS = Path(__file__).parents[1] / "configs"


def survey(granularities: tuple[int, ...]) -> Dataset:
    """Returns a cell for every question and persona, with random answers."""
    codebook = read_codebook(CODEBOOKS / "wvs7.toml")
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
    file = checkpoint.files[0]
    gguf = {"gguf_file": file.name} if file.suffix == ".gguf" else {}
    return AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **gguf).eval()


def with_adapter(model: torch.nn.Module, directory: Path) -> PeftModel:
    """Puts a random adapter on the model and saves it."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(ATTENTION_TARGETS))
    worn = get_peft_model(model, config)
    for name, parameter in worn.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    worn.save_pretrained(directory)
    return worn


def left_padded(prompts: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Returns a batch as transformers' tokenizers pad it for a model that goes on writing."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


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
