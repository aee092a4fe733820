"""What a checkpoint, an adapter or a training run is, according to its files."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ace_jax.errors import InputError
from ace_jax.files import read_object, reason, sha256_of
from ace_jax.model.abstract import abstract_model
from ace_jax.model.formats import peft
from ace_jax.model.formats.hf import SafetensorsSource, fingerprint
from ace_jax.model.formats.hub import describe, open_checkpoint
from ace_jax.model.rope import Rope

EXPERIMENT = "experiment.json"

Facts = dict[str, Any]


def inspect(path: str, *, sha256: bool) -> Facts:
    """Returns the facts about a RUN directory, a PEFT adapter, or what `model.path` takes.

    `sha256` also hashes a checkpoint's weight files, which takes a while.

    Raises `InputError` where the path is none of these, or damaged.
    """
    directory = Path(path)
    if (directory / peft.CONFIG).is_file():
        return _adapter(directory)
    if (directory / EXPERIMENT).is_file():
        return _run(directory)
    return _checkpoint(path, sha256)


def saved_steps(directory: Path) -> list[int]:
    """Returns the steps of a run's checkpoints in ascending order."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def _adapter(directory: Path) -> Facts:
    config, base = peft.read_lora_config(directory), peft.base_of(directory)
    return {
        "kind": "adapter (PEFT, LoRA)",
        "base model": base.name,
        "base fingerprint": base.fingerprint or "not recorded",
        **_experiment(peft.read_record(directory) or {}),
        **vars(config),
        "scale": config.scale,
        "files": _files(sorted(directory.glob("adapter_*")), sha256=True),
    }


def _run(directory: Path) -> Facts:
    experiment = read_object(directory / EXPERIMENT, "a run")
    adapter = directory / "adapter"
    return {
        "kind": "training run (RUN)",
        **_experiment(experiment),
        "steps done": _steps_done(directory / "metrics.jsonl"),
        "checkpoints": saved_steps(directory / "checkpoints"),
        "adapter": str(adapter) if (adapter / peft.CONFIG).is_file() else "not written yet",
    }


def _experiment(record: Facts) -> Facts:
    """Returns what an experiment's record is about."""

    def find(part: str, field: str) -> Any:
        section = record.get(part)
        return section.get(field) if isinstance(section, dict) else "not recorded"

    return {
        "model": find("model", "name"),
        "survey": find("survey", "name"),
        "hold-out": find("split", "spec"),
        "template": find("prompt", "template"),
    }


def _steps_done(file: Path) -> int:
    if not file.is_file():
        return 0
    try:
        # A killed run may leave half a line, the last.
        whole = [line for line in file.read_bytes().splitlines(True) if line.endswith(b"\n")]
        return int(json.loads(whole[-1])["step"]) if whole else 0
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not written by ace_jax.train ({reason(error)})") from None


def _checkpoint(path: str, sha256: bool) -> Facts:
    model = describe(path)
    base = abstract_model(model.config, None, jnp.dtype("float32")).base
    facts = {
        "kind": "checkpoint (Hugging Face)" if model.directory else "checkpoint (GGUF)",
        "name": model.name,
        **vars(model.config),
        "rope": _rope(model.config.rope),
        "tokens": len(model.tokenizer) if model.tokenizer else "no tokenizer",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(base)),
    }
    if model.directory and not any(model.directory.glob("*.safetensors")):
        return facts | {"weights": "not here"}
    source = SafetensorsSource(model.directory) if model.directory else open_checkpoint(path).source
    size_of = Counter[str]()
    for name in source.names():
        dtype, size = source.stored(name)
        size_of[dtype] += size
    return facts | {
        "bytes by dtype": dict(size_of),
        "fingerprint": fingerprint(source),
        "files": _files(source.files, sha256),
    }


def _rope(rope: Rope) -> str:
    text = f"theta {rope.theta:g}"
    if rope.factors is not None:
        text += f", frequencies divided by {min(rope.factors):g} to {max(rope.factors):g}"
    return text if rope.scale == 1 else f"{text}, scale {rope.scale:g}"


def _files(files: Iterable[Path], sha256: bool) -> list[Facts]:
    return [
        {"name": file.name, "bytes": file.stat().st_size}
        | ({"sha256": sha256_of([file])} if sha256 else {})
        for file in files
    ]
