"""Small files of every kind that the program reads, as it or the programs around it write them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyreadstat
from issp_files import BACKGROUND, DEGREE, NEW_COUNTRIES, NEW_ITEMS, drawn
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file
from test_gguf import write_gguf
from test_gss import ABORTION, SPENDING, WAGES
from test_kinds import ods, por, rds, upper_names, xlsx, xpt
from test_release_eval import put, put_everyone
from test_release_train import pair, write_lines
from test_table import CODEBOOK
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ace_jax.model.formats.peft import BaseModel, write_adapter
from ace_jax.model.lora import LoRAConfig
from ace_jax.survey.dataset import Dataset, read_dataset, write_dataset

WIDTH, MLP, RANK = 64, 32, 4
LORA = LoRAConfig(rank=RANK, alpha=8.0, dropout=0.0, targets=("q_proj",))


def make_seeds(directory: Path) -> None:
    """Makes a directory of seeds for each reader."""
    for make in (_checkpoints, _adapters, _datasets, _release, _surveys, _outputs, _templates):
        make(directory)


def _checkpoints(directory: Path) -> None:
    plain = save_model(directory / "checkpoint" / "model")
    _sharded(plain, directory / "sharded" / "model")
    write_gguf(_made(directory / "gguf") / "model.gguf", plain)


def save_model(directory: Path) -> Path:
    """Saves a random LLaMA of one layer, as transformers does; returns its directory."""
    _tokenizer().save_pretrained(_made(directory))
    vocabulary = len(_tokenizer())
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    (directory / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(0)
    rows = {"q_proj": WIDTH, "k_proj": 32, "v_proj": 32, "o_proj": WIDTH}
    shapes = {f"self_attn.{name}": (size, WIDTH) for name, size in rows.items()}
    shapes |= {"mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH)}
    shapes |= {"mlp.down_proj": (WIDTH, MLP), "input_layernorm": (WIDTH,)}
    shapes |= {"post_attention_layernorm": (WIDTH,)}
    weights = {f"model.layers.0.{name}.weight": size for name, size in shapes.items()}
    weights |= {"model.embed_tokens.weight": (vocabulary, WIDTH), "model.norm.weight": (WIDTH,)}
    values = {name: draw.normal(0, 0.1, size).astype(np.float32) for name, size in weights.items()}
    save_file(values, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _sharded(plain: Path, sharded: Path) -> None:
    shutil.copytree(plain, sharded)
    (sharded / "model.safetensors").unlink()
    weights = load_file(plain / "model.safetensors")
    shard_of = {name: f"model-{1 + ('mlp' in name)}.safetensors" for name in weights}
    for shard in set(shard_of.values()):
        inside = {
            name: w.astype(bfloat16) for name, w in weights.items() if shard_of[name] == shard
        }
        save_file(inside, sharded / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": shard_of}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bos = "<|begin_of_text|>"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[bos], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["Imagine you are a person living in Canada."] * 3, trainer)
    template = "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, chat_template=template
    )


def _adapters(directory: Path) -> None:
    shapes = {"lora_A": (RANK, WIDTH), "lora_B": (WIDTH, RANK)}
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        f"{prefix}.{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()
    }
    base = BaseModel("some/llama", "0" * 64)
    write_adapter(directory / "adapter" / "peft", factors, LORA, base, "A card.")


def _datasets(directory: Path) -> None:
    gss = read_dataset("gss2018")
    questions = gss.questions.head(2)
    cells = gss.cells[gss.cells["question_id"].isin(questions["question_id"])]
    small = Dataset(questions, cells.reset_index(drop=True), gss.manifest)
    write_dataset(small, _made(directory / "dataset") / "data")


def _release(directory: Path) -> None:
    put_everyone(directory / "eval", "japan")
    put_everyone(directory / "eval", "chile", seed=1)
    put(directory / "eval", "egypt", json.dumps([]))
    lines = [pair(), pair(country="egypt", question_id="q", attribute="gender")] * 2
    write_lines(_made(directory / "train") / "egypt.jsonl", *lines)


def _surveys(directory: Path) -> None:
    table = _made(directory / "table")
    draw = np.random.default_rng(0)
    size = 120
    answers = pd.DataFrame(
        {
            "land": draw.choice(["FRA", "MEX"], size),
            "age_group": draw.integers(1, 4, size),
            "sex": draw.choice(["m", "f", "?"], size, p=[0.45, 0.45, 0.1]),
            "q1": draw.choice([0, 1, 9], size),
            "q2": draw.integers(1, 4, size),
            "weight": draw.uniform(0.5, 2, size).round(3),
        }
    )
    (table / "own.toml").write_text(CODEBOOK)
    answers.to_csv(table / "own.csv", index=False)
    answers.to_parquet(table / "own.parquet")
    pyreadstat.write_sav(answers, table / "own.sav")
    pyreadstat.write_sav(answers, table / "own.zsav", compress=True)
    pyreadstat.write_dta(answers, table / "own.dta")
    xlsx(answers, table / "own.xlsx")
    ods(answers, table / "own.ods")
    rds(answers, table / "own.rds")
    short = answers.rename(columns={"age_group": "age_grp"}).rename(columns=str.upper)
    por(short, table / "own.por")
    xpt(short, table / "own.xpt")
    (table / "short.toml").write_text(upper_names(CODEBOOK.replace("age_group", "age_grp")))
    head = CODEBOOK[: CODEBOOK.index("[[questions]]")]
    (table / "asked.toml").write_text('questions = "asked.csv"\n' + head)
    (table / "asked.csv").write_text(
        "id,text,options,missing\nq1,Trust [COUNTRY]?,0=No; 1=Yes,9\nq2,How?,1=A; 2=B; 3=C,\n"
    )
    gss = _made(directory / "gss")
    for name, its in (("spending", SPENDING), ("wages", WAGES), ("abortion", ABORTION)):
        its.to_csv(gss / f"{name}.csv", index=False)
    items = NEW_ITEMS | BACKGROUND | {"DEGREE": DEGREE}
    module = (
        drawn(20, NEW_COUNTRIES, items, {"studyno": 7650.0}).rename(columns=str.lower).head(100)
    )
    labels = {name.lower(): its for name, (_, its, _) in items.items()}
    texts = {name.lower(): text for name, (text, _, _) in items.items() if text}
    issp = _made(directory / "issp")
    options = {"variable_value_labels": labels, "column_labels": texts}
    pyreadstat.write_sav(module, issp / "ZA7650.sav", **options)
    pyreadstat.write_dta(module, issp / "ZA7650.dta", **options)


def _outputs(directory: Path) -> None:
    run = _made(directory / "run" / "run")
    lines = [{"step": step, "loss": 1.0 / step, "stage": 1} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _templates(directory: Path) -> None:
    template = Path(__file__).parents[2] / "ace_jax/prompts/templates/persona_first.j2"
    shutil.copy(template, _made(directory / "template"))


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
