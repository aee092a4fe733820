"""Turns adapters and checkpoints into one another, and says what they are.

    python -m ace_jax.convert export-adapter --run RUN --scores OUT --output ADAPTER
    python -m ace_jax.convert merge --model MODEL --adapter ADAPTER --output CHECKPOINT
    python -m ace_jax.convert import-adapter --adapter PEFT --model MODEL --output ADAPTER
    python -m ace_jax.convert inspect PATH

MODEL is what `model.path` takes: a Hugging Face directory, a hub id, a .gguf file or a built-in
name. The output is complete or absent; one that already holds files is left alone.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ace_jax.command import run
from ace_jax.errors import InputError
from ace_jax.model.abstract import abstract_model
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats import peft
from ace_jax.model.formats.cards import AdapterCard, CheckpointCard, Scores, Training
from ace_jax.model.formats.hf import fingerprint, own_tensors
from ace_jax.model.formats.hub import open_checkpoint, sha256_of
from ace_jax.model.formats.inspect import inspect, read_settings, saved_steps
from ace_jax.model.formats.merge import (
    DTYPES,
    LowRank,
    write_description,
    write_weights,
)
from ace_jax.model.lora import TARGETS
from ace_jax.model.sharding import make_mesh
from ace_jax.runtime.progress import log as say
from ace_jax.training.checkpoints import read_state
from ace_jax.training.state import abstract_state, make_optimizer

FLOAT32 = base_dtype("float32")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the subcommands; see the module's docstring."""
    args = _arguments(argv)
    args.command(args)


def export_adapter(args: argparse.Namespace) -> None:
    """Writes the adapter of a run's checkpoint in PEFT format, also of a run that was stopped."""
    settings = read_settings(args.run)
    steps = saved_steps(args.run / "checkpoints")
    if not steps:
        raise InputError(f"{args.run}: has no checkpoint yet; let train run on")
    step = steps[-1] if args.step is None else args.step
    if step not in steps:
        raise InputError(f"--step {step}: {args.run} has {', '.join(map(str, steps))}")
    scores = Scores.read(args.scores) if args.scores else None
    try:
        lora_config = peft.adapter_config(ConfigDict(settings["lora"]))
        optimizer = make_optimizer(**settings["optimizer"])
        training = Training.of(settings, step)
        checkpoint = open_checkpoint(settings["model"]["path"])
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{args.run / 'config.json'}: of another version ({error})") from None
    say(f"run: {args.run}, step {step}; base model {checkpoint.name}")
    model = abstract_model(checkpoint.config, lora_config, FLOAT32)
    abstract = abstract_state(model.lora, optimizer, make_mesh(data=-1, fsdp=1, tensor=1))
    state = read_state(args.run / "checkpoints", step, abstract)
    identity = fingerprint(checkpoint.source)
    card = AdapterCard(checkpoint.name, identity, lora_config, training, scores)
    with _complete(args.output) as directory:
        peft.export_adapter(
            directory, state.lora, lora_config, checkpoint.name, card.text(), identity
        )
        if scores and scores.adapter_sha256 != sha256_of(sorted(directory.glob("adapter_*"))):
            raise InputError(f"--scores {args.scores}: are not those of step {step}'s adapter")
    say(f"adapter: {args.output}")


def merge(args: argparse.Namespace) -> None:
    """Writes a model as a Hugging Face checkpoint, with the adapter merged into it, if any."""
    checkpoint = open_checkpoint(args.model)
    identity = fingerprint(checkpoint.source)
    lora_config, adapter = None, None
    if args.adapter:
        lora_config = peft.read_lora_config(args.adapter)
        model = abstract_model(checkpoint.config, lora_config, FLOAT32)
        factors = peft.read_factors(args.adapter, model.lora, identity)
        adapter = LowRank(factors, lora_config.scale)
    base = abstract_model(checkpoint.config, None, FLOAT32).base
    names = own_tensors(base, checkpoint.source)
    say(f"model: {checkpoint.name}, {len(names)} tensors; adapter: {args.adapter or 'none'}")
    dtype = DTYPES[args.dtype] if args.dtype else None
    with _complete(args.output) as directory:
        write_description(directory, checkpoint, dtype)
        size_of = write_weights(
            directory, checkpoint.source, names, adapter, dtype, args.shard_size
        )
        card = CheckpointCard(
            checkpoint.name,
            identity,
            tuple(size_of),
            args.adapter and args.adapter.name,
            lora_config,
        )
        (directory / "README.md").write_text(card.text())
    told = ", ".join(f"{size:,} bytes of {name}" for name, size in size_of.items())
    say(f"checkpoint: {args.output} ({told})")


def import_adapter(args: argparse.Namespace) -> None:
    """Checks an adapter against a base model and writes it as one of that model's."""
    checkpoint = open_checkpoint(args.model)
    config = peft.read_lora_config(args.adapter)
    # peft keeps targets as a set, in any order.
    config = replace(config, targets=tuple(name for name in TARGETS if name in config.targets))
    model = abstract_model(checkpoint.config, config, FLOAT32)
    factors = peft.read_factors(args.adapter, model.lora, base_fingerprint=None)
    identity = fingerprint(checkpoint.source)
    before = peft.recorded_fingerprint(args.adapter)
    if before not in (None, identity):
        say(f"{args.adapter} was trained on {peft.base_model_of(args.adapter)}; it is bound anew")
    card = AdapterCard(checkpoint.name, identity, config).text()
    with _complete(args.output) as directory:
        peft.write_adapter(directory, factors, config, checkpoint.name, card, identity)
    say(f"adapter: {args.output} (of {checkpoint.name})")


def tell(args: argparse.Namespace) -> None:
    """Prints what a checkpoint, an adapter or a run is."""
    facts = inspect(args.path, sha256=args.sha256)
    print(json.dumps(facts, indent=2) if args.json else _table(facts))


def _unused(output: str) -> Path:
    """Returns the output's path; raises `InputError` where something lies there."""
    path = Path(output)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--output {path} exists and is not empty; choose another")
    return path


@contextmanager
def _complete(output: Path) -> Iterator[Path]:
    """Gives a new directory beside the output, which takes its place once it is whole.

    Raises `InputError` where it cannot be written.
    """
    partial = output.absolute().with_name(f".{output.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output.absolute())
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _table(facts: Mapping[str, Any]) -> str:
    """Returns aligned lines, one a fact; of several values each on its own line."""
    width = max(map(len, facts)) + 2
    lines = []
    for name, value in facts.items():
        for number, text in enumerate(_texts(value) or ["none"]):
            lines.append(f"{name if number == 0 else '':<{width}}{text}")
    return "\n".join(lines)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name} {_plain(part)}" for name, part in value.items()]
    return [_plain(part) for part in (value if isinstance(value, list) else [value])]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(_plain(part) for part in value.values())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = commands.add_parser("export-adapter", help="a run's checkpoint to a PEFT adapter")
    export.set_defaults(command=export_adapter)
    export.add_argument("--run", required=True, type=Path, help="what train wrote")
    export.add_argument("--step", type=int, help="a saved step (default: the latest)")
    export.add_argument(
        "--scores", type=Path, metavar="OUT", help="what evaluate wrote of this adapter"
    )

    merging = commands.add_parser("merge", help="a model, and an adapter, to a whole checkpoint")
    merging.set_defaults(command=merge)
    merging.add_argument("--model", required=True, help="the base model")
    merging.add_argument("--adapter", type=Path, metavar="PEFT", help="what to merge into it")
    merging.add_argument(
        "--dtype", choices=DTYPES, help="of the weights written (default: as they are)"
    )
    merging.add_argument(
        "--shard-size", default="5GB", metavar="SIZE", help="the most a file holds (default: 5GB)"
    )

    importing = commands.add_parser(
        "import-adapter", help="an adapter of another program, or of another base model"
    )
    importing.set_defaults(command=import_adapter)
    importing.add_argument("--adapter", required=True, type=Path, metavar="PEFT")
    importing.add_argument("--model", required=True, help="the base model it is to belong to")

    for writing in (export, merging, importing):
        writing.add_argument("--output", required=True, type=_unused, help="directory to write")

    inspecting = commands.add_parser("inspect", help="what a checkpoint, adapter or run is")
    inspecting.set_defaults(command=tell)
    inspecting.add_argument("path", help="a RUN, a PEFT adapter or a model")
    inspecting.add_argument("--json", action="store_true", help="for machines")
    inspecting.add_argument(
        "--sha256", action="store_true", help="hash a checkpoint's weight files too"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
