"""What tests share: eight CPU devices, tiny checkpoints, a small real model, a survey of pairs."""

import os
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests compile much and run little. What one process has compiled, the others read.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # Later ones do not know it.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jax") < "0.11" else ""),
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="compiled")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import torch
from flax import nnx
from jax.sharding import AxisType, Mesh
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch_reference import Endpoint, Pair
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.hf import load_base
from ace_jax.model.formats.hub import Checkpoint, open_checkpoint
from ace_jax.model.formats.peft import load_adapter, read_lora_config
from ace_jax.model.llama import abstract_model
from ace_jax.model.sharding import MESH_AXES
from ace_jax.prompts.batches import Shapes
from ace_jax.prompts.encode import Prompt, PromptStyle, encode, render_cells
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.pairs import mode
from ace_jax.training.data import Collate, Examples, TrainingBatch

# Before the first use of a device; tests of sharding need more than one.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tiny matrices, and XLA's threads beside: more threads only wait for one another.
torch.set_num_threads(1)

QUESTIONS = pd.DataFrame(
    {
        "question_id": ["trust", "god"],
        "text": ["Can most people be trusted?", "How important is God in your life?"],
        # Eleven options: 1 and 10 are prefixes of one another where digits are split.
        "option_labels": [("Yes", "No", "It depends"), tuple(f"{n} of 10" for n in range(11))],
        "option_codes": [(1, 2, 3), tuple(range(11))],
    }
)


# Llama 3.1's, stretched within a prompt's length.
STRETCHED_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.fixture(scope="session")
def mesh() -> Mesh:
    """One device."""
    types = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=types, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits and a start token, as a few sentences teach it."""
    bos = "<|begin_of_text|>"
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])
    tokenizer.decoder = decoders.ByteLevel()
    sentences = [
        "You are a person from Canada. Gender: Female. Education: Not College Educated.",
        "Residence: Urban. Marital status: Married. Answer the question with one number only.",
        *QUESTIONS["text"],
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[bos],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos)


def save_tiny(directory: Path, tokenizer: PreTrainedTokenizerFast, tied: bool) -> Path:
    """Saves a random two-layer LLaMA whose RoPE is stretched within a prompt's length."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_parameters=STRETCHED_ROPE,
        initializer_range=0.15,  # far from uniform answers
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tokenizer) -> Path:
    """A model directory: Llama 3.1 in small."""
    return save_tiny(tmp_path_factory.mktemp("tiny"), tokenizer, tied=False)


@pytest.fixture(scope="session")
def tiny_tied_checkpoint(tmp_path_factory, tokenizer) -> Path:
    """The same, its embedding used as the head."""
    return save_tiny(tmp_path_factory.mktemp("tied"), tokenizer, tied=True)


@pytest.fixture(scope="session")
def smollm2() -> Checkpoint:
    """A real model of 135 million parameters."""
    return open_checkpoint("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def tiny_torch(tiny_checkpoint) -> PreTrainedModel:
    """The tiny checkpoint in PyTorch, as the reference."""
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def load(mesh) -> Callable[..., tuple[nnx.GraphDef, nnx.State, nnx.State]]:
    """Loads a checkpoint, and an adapter, as train and evaluate do: structure, LoRA, base."""

    def load(
        checkpoint: Path | Checkpoint, adapter: Path | None = None, dtype: str = "float32"
    ) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
        if isinstance(checkpoint, Path):
            checkpoint = open_checkpoint(str(checkpoint))
        lora_config = read_lora_config(adapter, dropout=0.0) if adapter else None
        model = abstract_model(checkpoint.config, lora_config, base_dtype(dtype))
        lora = load_adapter(adapter, model.lora, mesh) if adapter else model.lora
        return model.graph, lora, load_base(model.base, checkpoint.source, mesh)

    return load


@pytest.fixture
def peft_adapter(tiny_checkpoint, tmp_path) -> Callable[..., tuple[PeftModel, Path]]:
    """Makes a random adapter with peft: the model that wears it, and where it is saved."""

    def make(*targets: str) -> tuple[PeftModel, Path]:
        base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
        torch.manual_seed(1)
        config = LoraConfig(
            r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        )
        model = get_peft_model(base, config).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero as peft makes it, which would hide half the gradients
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(tmp_path / "peft")
        return model, tmp_path / "peft"

    return make


@dataclass(frozen=True)
class Survey:
    """Two questions, four personas each, and their pairs, for both sides of a comparison."""

    prompts: list[Prompt]
    answers: list[np.ndarray]
    pairs: pd.DataFrame

    @property
    def examples(self) -> Examples:
        """The pairs, all of weight 1."""
        modes = [mode(answer) for answer in self.answers]
        return Examples(self.pairs.assign(weight=1.0), [], self.answers, modes)

    def batch(self, rows: tuple[int, ...]) -> TrainingBatch:
        """Up to four pairs as train lays them out; mostly of one shape, so compiled once."""
        options = max(map(len, self.answers))
        collate = Collate(
            examples=self.examples,
            prompts=self.prompts,
            shapes=Shapes((256,), row_multiple=4, options=options),
            max_pairs=4,
        )
        return collate([np.array([row]) for row in rows])

    def torch_pairs(self, rows: tuple[int, ...]) -> list[Pair]:
        """The same pairs for the reference."""

        def endpoint(cell: int) -> Endpoint:
            prompt, answer = self.prompts[cell], self.answers[cell]
            options = [list(option) for option in prompt.options]
            return Endpoint(list(prompt.tokens), options, answer.tolist(), int(np.argmax(answer)))

        pairs = self.pairs.iloc[list(rows)]
        return [
            Pair(endpoint(s0), endpoint(s1))
            for s0, s1 in zip(pairs["cell_0"], pairs["cell_1"], strict=True)
        ]


@pytest.fixture(scope="session")
def survey(tokenizer) -> Survey:
    """Gender by residence in Canada; every endpoint is in two pairs."""
    personas = [
        {"gender": gender, "residence": residence}
        for gender in ("Male", "Female")
        for residence in ("Urban", "Rural")
    ]
    cells = pd.DataFrame(
        [
            {"country": "CAN", "question_id": question, **persona}
            for question in QUESTIONS["question_id"]
            for persona in personas
        ]
    ).reindex(
        columns=["country", "question_id", "gender", "education", "residence", "marital_status"]
    )
    draw = np.random.default_rng(0)
    sizes = QUESTIONS.set_index("question_id")["option_labels"].map(len)
    answers = [draw.dirichlet(np.ones(sizes[question])) for question in cells["question_id"]]
    toggles = np.array([(0, 1), (0, 2), (1, 3), (2, 3)])
    pairs = pd.DataFrame(np.concatenate([toggles, toggles + 4]), columns=["cell_0", "cell_1"])
    style = PromptStyle.of(template="persona_first", option_style="number")
    texts = render_cells(cells, Dataset(QUESTIONS, cells, {}), style)
    return Survey(encode(texts, tokenizer, chat=False), answers, pairs)


@pytest.fixture
def mark(tmp_path) -> Path:
    """A file that is there once foreign code ran."""
    return tmp_path / "mark"


@pytest.fixture
def copy(tiny_checkpoint, tmp_path) -> Path:
    """The tiny checkpoint, to be damaged."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")
