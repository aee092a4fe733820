"""Feeds every reader with damaged files: each must be read, or refused by one line.

    python -m tests.faults.fuzz_readers --inputs 10000 --seed 0
    python -m tests.faults.fuzz_readers --seed 0 --case gguf:17    # one input again; it is kept

Inputs are real small files (`seed_files`) with one of `mutations`, drawn from the seed, the reader
and the input's number. They are read in a process of their own that may take 2 GiB more than it has
after reading all seeds, and 20 s an input. Prints a table, and every input that was neither read
nor refused; ends with status 1 if there is one.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own writers

import transformers
from faults.mutations import damaged
from forked import CONTEXT

from ace_jax.convert import inspect
from ace_jax.errors import InputError
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.hf import fingerprint, own_tensors
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.formats.peft import read_factors, read_lora_config
from ace_jax.model.llama import abstract_model
from ace_jax.prompts.encode import PromptStyle, PromptText, encode, render_cells
from ace_jax.prompts.options import listed
from ace_jax.prompts.template import in_chat
from ace_jax.runtime.metrics import read_rows
from ace_jax.survey.build import build
from ace_jax.survey.cells import from_table
from ace_jax.survey.codebook_file import read_codebook
from ace_jax.survey.draft import draft
from ace_jax.survey.readers import release_eval, release_train, sources

MEMORY = 2 << 30
SECONDS = 20.0
LONGEST = 2000  # characters of a line that anyone reads

Case = tuple[str, int]  # a reader, and the number of its input

abstract = cache(abstract_model)


@dataclass(frozen=True)
class Reader:
    """What reads a seed's directory.

    Attributes:
      seed: the directory.
      damaged: its files that are damaged, each with its form.
      read: what the commands do with it.
      every: in which rounds it takes part; those that start a process do so in few.
    """

    seed: str
    damaged: dict[str, str]
    read: Callable[[Path], object]
    every: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of an input: `read`, `refused`, or what it should not have been, and why."""

    reader: str
    number: int
    kind: str
    change: str
    message: str

    @property
    def fine(self) -> bool:
        return self.kind in ("read", "refused")


def _checkpoint(path: Path) -> None:
    checkpoint = open_checkpoint(str(path))
    model = abstract(checkpoint.config, None, base_dtype("float32"))
    for name in own_tensors(model.base, checkpoint.source):
        checkpoint.source.read(name)
    fingerprint(checkpoint.source)
    encode([PromptText("Who are you?\n", ("1", "2"))], checkpoint.tokenizer, chat=False)


def _chat(path: Path) -> None:
    in_chat(["Who are you?\n"], open_checkpoint(str(path)).tokenizer)


def _inspected(path: Path) -> None:
    inspect(str(path))


def _adapter(path: Path) -> None:
    model = open_checkpoint(str(path.parents[1] / "checkpoint" / "model"))
    config = read_lora_config(path)
    read_factors(path, abstract(model.config, config, base_dtype("float32")).lora, None)
    _inspected(path)


def _dataset(path: Path) -> None:
    dataset = sources.load_survey(str(path))
    render_cells(dataset.cells, dataset, PromptStyle.of("persona_first", "number"))


def _survey(
    source: str, *names: str, codebook: str | None = None, aggregated: bool = False
) -> Callable[[Path], None]:
    def read(directory: Path) -> None:
        paths = [directory / name for name in names]
        weights = {"table": "weight"}.get(source) if codebook != SHORT else "WEIGHT"
        its = directory / codebook if codebook else None
        raw = sources.read(source, paths, its, weights)
        if source != "gss2018":  # its small tables lack most questions
            from_table(raw.table, raw.codebook, weights)
        if aggregated:
            build(raw, paths, {}, weights)

    return read


def _draft(*names: str) -> Callable[[Path], None]:
    def read(directory: Path) -> None:
        for name in names:
            written = directory / "draft.toml"
            form = {"sheet": "answers"} if name.endswith("xlsx") else {}
            text = draft(directory / name, "FRA", form)
            if "UNSURE: no column looks like one" in text:  # the user is to make an attribute
                continue
            written.write_text(text, encoding="utf-8")
            try:
                read_codebook(written)
            except InputError as error:
                raise ValueError(f"the draft is no codebook: {error}") from None

    return read


def _template(directory: Path) -> None:
    style = PromptStyle.of(str(directory / "persona_first.j2"), "number")
    persona = {"gender": "Female", "residence": "Rural"}
    options = listed(("No", "Yes"), (1, 2), "number", False)
    style.template.render("Chile", persona, "Why?", options)


def _own(name: str) -> Reader:
    form = {"csv": "text", "parquet": "parquet"}.get(name.rpartition(".")[2], "bytes")
    codebook = SHORT if name in ("own.por", "own.xpt") else "own.toml"
    return Reader("table", {name: form}, _survey("table", name, codebook=codebook))


def _model(seed: str, damaged: dict[str, str], read: Callable[[Path], None]) -> Reader:
    files = {f"model/{name}": form for name, form in damaged.items()}
    return Reader(seed, files, lambda at: read(at / "model"))


SHORT = "short.toml"  # with the names that old formats have
GSS = ("spending.csv", "wages.csv", "abortion.csv")
FINEST = "4_attributes/gender_education_residence_marital_status"
CONFIG, WEIGHTS = {"config.json": "json"}, {"model.safetensors": "safetensors"}
TOKENIZER = {"tokenizer.json": "json", "tokenizer_config.json": "json"}
SHARDS = {"model.safetensors.index.json": "json", "model-1.safetensors": "safetensors"}
READERS = {
    "gguf": Reader("gguf", {"model.gguf": "gguf"}, lambda at: _checkpoint(at / "model.gguf")),
    "config.json": _model("checkpoint", CONFIG, _checkpoint),
    "tokenizer": _model("checkpoint", TOKENIZER, _checkpoint),
    "safetensors": _model("checkpoint", WEIGHTS, _checkpoint),
    "index": _model("sharded", SHARDS, _checkpoint),
    "inspect": _model("checkpoint", CONFIG | WEIGHTS, _inspected),
    "peft": Reader(
        "adapter",
        {"peft/adapter_config.json": "json", "peft/adapter_model.safetensors": "safetensors"},
        lambda at: _adapter(at / "peft"),
    ),
    "dataset": Reader(
        "dataset",
        {"data/cells.parquet": "parquet", "data/questions.parquet": "parquet"}
        | {"data/manifest.json": "json"},
        lambda at: _dataset(at / "data"),
    ),
    "release eval": Reader(
        "eval",
        {f"japan/{FINEST}/environment_real.json": "json"},
        release_eval.read_eval,
    ),
    "release train": Reader(
        "train", {"egypt.jsonl": "lines"}, lambda at: release_train.read_train(at / "egypt.jsonl")
    ),
    "codebook": Reader(
        "table",
        {"own.toml": "text"},
        _survey("table", "own.csv", codebook="own.toml", aggregated=True),
    ),
    "csv": _own("own.csv"),
    "parquet": _own("own.parquet"),
    "sav": _own("own.sav"),
    "zsav": _own("own.zsav"),
    "dta": _own("own.dta"),
    "por": _own("own.por"),
    "xpt": _own("own.xpt"),
    "xlsx": _own("own.xlsx"),
    "ods": _own("own.ods"),
    "rds": _own("own.rds"),
    "questions": Reader(
        "table", {"asked.csv": "text"}, _survey("table", "own.csv", codebook="asked.toml")
    ),
    "draft": Reader(
        "table",
        {"own.csv": "text", "own.parquet": "parquet", "own.xlsx": "bytes", "own.rds": "bytes"},
        _draft("own.csv", "own.parquet", "own.xlsx", "own.rds"),
    ),
    "draft labels": Reader(
        "issp",
        {"ZA7650.sav": "bytes", "ZA7650.dta": "bytes"},
        _draft("ZA7650.sav", "ZA7650.dta"),
    ),
    "gss csv": Reader("gss", dict.fromkeys(GSS, "text"), _survey("gss2018", *GSS)),
    "issp sav": Reader("issp", {"ZA7650.sav": "bytes"}, _survey("issp", "ZA7650.sav")),
    "issp dta": Reader("issp", {"ZA7650.dta": "bytes"}, _survey("issp", "ZA7650.dta")),
    "run": Reader(
        "run", {"run/metrics.jsonl": "lines"}, lambda at: read_rows(at / "run" / "metrics.jsonl")
    ),
    "template": Reader("template", {"persona_first.j2": "text"}, _template, every=5),
    "chat template": Reader(
        "checkpoint",
        {"model/chat_template.jinja": "text"},
        lambda at: _chat(at / "model"),
        every=25,
    ),
}


def turns(inputs: int, names: Sequence[str]) -> list[Case]:
    """Returns the inputs of a campaign, the readers in turn."""
    rounds = ((name, n) for n in count() for name in names if n % READERS[name].every == 0)
    return list(islice(rounds, inputs))


def campaign(cases: list[Case], seed: int, seeds: Path) -> Iterator[Outcome]:
    """Yields the outcome of every input."""
    while cases:
        done = yield from _in_a_worker(cases, seed, seeds)
        cases = cases[done:]


def _in_a_worker(cases: list[Case], seed: int, seeds: Path) -> Iterator[Outcome]:
    """Yields outcomes until a worker is through, hangs or dies; returns of how many inputs."""
    ours, theirs = CONTEXT.Pipe()
    worker = CONTEXT.Process(target=_work, args=(theirs, cases, seed, seeds))
    worker.start()
    theirs.close()
    try:
        ours.recv()  # imported, and through all seeds
        for number, (reader, case) in enumerate(cases):
            if not ours.poll(SECONDS):
                yield Outcome(reader, case, "hung", "?", f"longer than {SECONDS:g} s")
                return number + 1
            try:
                yield ours.recv()
            except EOFError:
                worker.join()
                yield Outcome(reader, case, "died", "?", f"exit code {worker.exitcode}")
                return number + 1
        return len(cases)
    finally:
        ours.close()
        worker.kill()
        worker.join()


def _work(pipe: Connection, cases: list[Case], seed: int, seeds: Path) -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "seeds")
        shutil.copytree(seeds, copy)
        for reader in READERS.values():
            reader.read(copy / reader.seed)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        pipe.send(None)
        for name, number in cases:
            pipe.send(outcome_of(name, number, seed, copy))


def outcome_of(name: str, number: int, seed: int, seeds: Path) -> Outcome:
    """Reads one damaged input in this process."""
    reader = READERS[name]
    file, content, change = damage(name, number, seed, seeds)
    try:
        reader.read(seeds / reader.seed)
        kind, message = "read", ""
    except InputError as error:
        message = str(error)
        kind = "refused" if "\n" not in message and len(message) <= LONGEST else "no line"
    except BaseException as error:  # whatever it is, it is what the campaign is looking for
        kind, message = type(error).__name__, f"{_origin(error)}: {str(error)[:300]}"
    finally:
        file.write_bytes(content)
    return Outcome(name, number, kind, f"{file.name}, {change}", message)


def damage(name: str, number: int, seed: int, seeds: Path) -> tuple[Path, bytes, str]:
    """Damages one of a reader's files; returns it, what it held, and what was done to it."""
    reader = READERS[name]
    draw = Random(f"{seed} {name} {number}")
    relative = draw.choice(sorted(reader.damaged))
    file = seeds / reader.seed / relative
    content = file.read_bytes()
    change, new = damaged(content, reader.damaged[relative], draw)
    file.write_bytes(new)
    return file, content, change


def _origin(error: BaseException) -> str:
    """The last place of ours that the error went through."""
    trace, origin = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        if "ace_jax" in code.co_filename:
            origin = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return origin


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the campaign, or one input of it; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.fuzz_readers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=READERS, help="only these")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--case", metavar="READER:NUMBER", help="only this input")
    args = parser.parse_args(argv)
    from faults.seed_files import make_seeds  # torch comes with it, which workers do without

    seeds = Path(tempfile.mkdtemp(prefix="fuzz."))
    make_seeds(seeds)
    if args.case:
        name, _, number = args.case.rpartition(":")
        print("kept:", *damage(name, int(number), args.seed, seeds)[::2])
        READERS[name].read(seeds / READERS[name].seed)
        return
    started = time.monotonic()
    counts: dict[str, Counter[str]] = {name: Counter() for name in args.reader or READERS}

    def go_through(cases: list[Case]) -> None:
        for one in campaign(cases, args.seed, seeds):
            counts[one.reader][one.kind if one.fine else "neither"] += 1
            if not one.fine:
                what = f"{one.reader}:{one.number} {one.kind} ({one.change})"
                print(what, " ".join(one.message.split()), flush=True)

    cases = turns(args.inputs, list(counts))
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(go_through, [cases[n :: args.workers] for n in range(args.workers)]))
    shutil.rmtree(seeds)
    kinds = ("read", "refused", "neither")
    total = sum(counts.values(), Counter())
    print(f"{'reader':<16}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, its in [*counts.items(), ("all", total)]:
        print(f"{name:<16}" + "".join(f"{its[kind]:>10,}" for kind in kinds))
    print(f"{total.total():,} inputs, seed {args.seed}, {time.monotonic() - started:.0f} s")
    sys.exit(1 if total["neither"] else 0)


if __name__ == "__main__":
    main()
