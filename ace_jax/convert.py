"""Converts adapters and checkpoints into one another, and describes them.

    python -m ace_jax.convert export-adapter --run RUN --output ADAPTER
    python -m ace_jax.convert merge --model MODEL --adapter ADAPTER --output CHECKPOINT
    python -m ace_jax.convert import-adapter --adapter PEFT --model MODEL --output ADAPTER
    python -m ace_jax.convert verify-adapter --adapter ADAPTER
    python -m ace_jax.convert export-gguf --adapter ADAPTER --output FILE.gguf
    python -m ace_jax.convert inspect PATH

MODEL is what `model.path` takes: a Hugging Face directory, a hub id, a .gguf file or a built-in
name. The output is written completely or not at all. An output that holds files is refused.
docs/serving.md says how to serve an adapter elsewhere.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from ace_jax.command import run
from ace_jax.errors import InputError
from ace_jax.experiment import FILE as EXPERIMENT
from ace_jax.experiment import Experiment, adapter_experiment, read_experiment
from ace_jax.files import check_free, whole_directory, whole_file
from ace_jax.model.formats import peft
from ace_jax.model.formats.cards import card
from ace_jax.model.formats.gguf import write_gguf_adapter
from ace_jax.model.formats.hf import SafetensorsSource, fingerprint
from ace_jax.model.formats.hub import Checkpoint, describe, open_checkpoint
from ace_jax.model.formats.merge import DTYPES, write_checkpoint
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import TARGETS, LoRAConfig
from ace_jax.model.sharding import make_mesh
from ace_jax.runtime.metrics import read_rows
from ace_jax.runtime.progress import log
from ace_jax.training.checkpoints import read_state
from ace_jax.training.run import write_adapter
from ace_jax.training.step import abstract_state, make_optimizer
from ace_jax.verification import TOLERANCE, check_same, verify

Facts = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the subcommands; see the module's docstring."""
    args = _arguments(argv)
    args.command(args)


def export_adapter(args: argparse.Namespace) -> None:
    """Writes the adapter of a run's checkpoint in PEFT format, also of a run that was stopped."""
    experiment = read_experiment(args.run / EXPERIMENT)
    recipe = experiment.recipe
    steps = saved_steps(args.run / "checkpoints")
    if not steps:
        raise InputError(f"{args.run}: has no checkpoint yet; let train run on")
    step = steps[-1] if args.step is None else args.step
    if step not in steps:
        raise InputError(f"--step {step}: {args.run} has {', '.join(map(str, steps))}")
    checkpoint = open_checkpoint(experiment.model.name)
    log(f"run: {args.run}, step {step}; base model {checkpoint.name}")
    model = abstract_model(checkpoint.config, recipe.lora)
    mesh = make_mesh(data=-1, fsdp=1, tensor=1)
    abstract = abstract_state(model.lora, make_optimizer(recipe.optimizer), mesh)
    state = read_state(args.run / "checkpoints", step, abstract)
    with whole_directory(args.output) as directory:
        write_adapter(directory, state.lora, experiment, step)
    log(f"adapter: {args.output}")


def merge(args: argparse.Namespace) -> None:
    """Writes a model as a Hugging Face checkpoint, with an adapter merged into it if given."""
    checkpoint = open_checkpoint(args.model)
    base = peft.BaseModel(checkpoint.name, fingerprint(checkpoint.source))
    adapter = _read_adapter(args.adapter, checkpoint, base.fingerprint) if args.adapter else None
    log(f"model: {checkpoint.name}; adapter: {args.adapter or 'none'}")
    dtype = DTYPES[args.dtype] if args.dtype else None
    with whole_directory(args.output) as directory:
        dtypes = write_checkpoint(directory, checkpoint, adapter, dtype, args.shard_size)
        name, lora = (args.adapter.name, adapter[0]) if adapter else (None, None)
        readme = card("checkpoint", base, dtypes=dtypes, adapter=name, lora=lora)
        (directory / "README.md").write_text(readme)
    log(f"checkpoint: {args.output} ({' and '.join(dtypes)})")


def import_adapter(args: argparse.Namespace) -> None:
    """Checks that an adapter fits a base model, and writes it as an adapter of that model."""
    checkpoint = open_checkpoint(args.model)
    config, factors = _read_adapter(args.adapter, checkpoint, None)
    # peft stores targets as a set, in any order.
    config = replace(config, targets=tuple(name for name in TARGETS if name in config.targets))
    base = peft.BaseModel(checkpoint.name, fingerprint(checkpoint.source))
    record, before = peft.read_record(args.adapter), peft.base_of(args.adapter)
    if before.fingerprint not in (None, base.fingerprint):
        log(f"{args.adapter} was trained on another base model, {before.name}")
    if record and before.fingerprint != base.fingerprint:
        log(f"{peft.RECORD} is left out: it records no training on {base.name}")
        record = None
    readme = card("adapter", base, lora=config, facts={})
    peft.write_adapter(args.output, factors, config, base, readme, record)
    log(f"adapter: {args.output} (of {base.name})")


def verify_adapter(args: argparse.Namespace) -> None:
    """Prints how far transformers and peft are from our answers; refuses more than TOLERANCE."""
    table = verify(args.adapter, args.model, args.prompts)
    print(table.to_string(index=False, float_format="{:.1e}".format))
    check_same(table)
    log(f"transformers and peft give the same answers, to {TOLERANCE:g}")


def export_gguf(args: argparse.Namespace) -> None:
    """Writes an adapter as llama.cpp takes it beside a GGUF file of its base model."""
    checkpoint = open_checkpoint(args.model or peft.base_of(args.adapter).name)
    config, factors = _read_adapter(args.adapter, checkpoint, fingerprint(checkpoint.source))
    with whole_file(args.output) as file:
        write_gguf_adapter(file, factors, config, checkpoint.config)
    log(f"adapter: {args.output} (of {checkpoint.name}), {len(factors)} tensors")


def print_facts(args: argparse.Namespace) -> None:
    """Prints what a checkpoint, an adapter or a run is."""
    facts = inspect(args.path)
    width = max(map(len, facts)) + 2
    lines = (f"{name:<{width}}{value}" for name, value in facts.items())
    print(json.dumps(facts, indent=2) if args.json else "\n".join(lines))


def inspect(path: str) -> Facts:
    """Returns the facts about a RUN directory, a PEFT adapter, or what `model.path` takes.

    Raises `InputError` where the path is none of these, or damaged.
    """
    directory = Path(path)
    if (directory / peft.CONFIG).is_file():
        return _adapter(directory)
    return _run(directory) if (directory / EXPERIMENT).is_file() else _checkpoint(path)


def saved_steps(directory: Path) -> list[int]:
    """Returns the steps of a run's checkpoints in ascending order."""
    paths = directory.iterdir() if directory.is_dir() else ()
    return sorted(int(path.name) for path in paths if path.name.isdecimal())


def _read_adapter(
    directory: Path, base: Checkpoint, identity: str | None
) -> tuple[LoRAConfig, peft.Factors]:
    config = peft.read_lora_config(directory)
    shapes = abstract_model(base.config, config).lora
    return config, peft.read_factors(directory, shapes, identity)


def _adapter(directory: Path) -> Facts:
    config, base = peft.read_lora_config(directory), peft.base_of(directory)
    record = adapter_experiment(directory)
    return {
        "kind": "adapter (PEFT, LoRA)",
        "base model": base.name,
        "base fingerprint": base.fingerprint or "not recorded",
        **(_experiment(record) if record else {}),
        **vars(config),
        "scale": config.scale,
        "sha256": peft.identity_of(directory)["sha256"],
    }


def _run(directory: Path) -> Facts:
    rows, adapter = read_rows(directory / "metrics.jsonl"), directory / "adapter"
    return {
        "kind": "training run (RUN)",
        **_experiment(read_experiment(directory / EXPERIMENT)),
        "steps done": rows[-1]["step"] if rows else 0,
        "checkpoints": saved_steps(directory / "checkpoints"),
        "adapter": str(adapter) if (adapter / peft.CONFIG).is_file() else "not written yet",
    }


def _experiment(record: Experiment) -> Facts:
    return {
        "model": record.model.name,
        "survey": record.survey.name,
        "hold-out": record.split.spec,
        "template": record.prompt.template,
    }


def _checkpoint(path: str) -> Facts:
    model = describe(path)
    base, rope = abstract_model(model.config).base, model.config.rope
    facts = {
        "kind": "checkpoint (Hugging Face)" if model.directory else "checkpoint (GGUF)",
        "name": model.name,
        **vars(model.config),
        "rope": f"theta {rope.theta:g}, {'plain' if rope.factors is None else 'stretched'}",
        "tokens": len(model.tokenizer) if model.tokenizer else "no tokenizer",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(base)),
    }
    if model.directory and not any(model.directory.glob("*.safetensors")):
        return facts | {"weights": "not here"}
    source = SafetensorsSource(model.directory) if model.directory else open_checkpoint(path).source
    return facts | {
        "dtypes": sorted({tensor.dtype for tensor in source.stored.values()}),
        "fingerprint": fingerprint(source),
        "files": [file.name for file in source.files],
    }


def _unused(output: str) -> Path:
    check_free(Path(output))
    return Path(output)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = commands.add_parser("export-adapter", help="write a run's checkpoint in PEFT format")
    export.set_defaults(command=export_adapter)
    export.add_argument("--run", required=True, type=Path, help="a directory of ace_jax.train")
    export.add_argument("--step", type=int, help="a saved step (default: the latest)")

    merging = commands.add_parser("merge", help="write a model and an adapter as one checkpoint")
    merging.set_defaults(command=merge)
    merging.add_argument("--model", required=True, help="the base model")
    merging.add_argument("--adapter", type=Path, metavar="PEFT", help="the adapter to merge")
    merging.add_argument("--dtype", choices=DTYPES, help="of the weights (default: unchanged)")
    merging.add_argument("--shard-size", default="5GB", help="of a file at most (default: 5GB)")

    importing = commands.add_parser("import-adapter", help="bind an adapter to a base model")
    importing.set_defaults(command=import_adapter)
    importing.add_argument("--adapter", required=True, type=Path, metavar="PEFT")
    importing.add_argument("--model", required=True, help="its base model from now on")

    for writing in (export, merging, importing):
        writing.add_argument("--output", required=True, type=_unused, help="directory to write")

    verifying = commands.add_parser("verify-adapter", help="compare with transformers and peft")
    verifying.set_defaults(command=verify_adapter)
    verifying.add_argument("--prompts", type=int, default=10, help="how many (default: 10)")

    gguf = commands.add_parser("export-gguf", help="write an adapter for llama.cpp")
    gguf.set_defaults(command=export_gguf)
    gguf.add_argument("--output", required=True, type=Path, metavar="FILE", help="to write")

    for reading in (verifying, gguf):
        reading.add_argument("--adapter", required=True, type=Path, metavar="PEFT")
        reading.add_argument("--model", help="its base model (default: the one it names)")

    inspecting = commands.add_parser("inspect", help="describe a checkpoint, an adapter or a run")
    inspecting.set_defaults(command=print_facts)
    inspecting.add_argument("path", help="a RUN, a PEFT adapter or a model")
    inspecting.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
