"""Makes a DATASET directory of a survey: cells by persona, every rule on the record.

    python -m ace_jax.prepare --source gss2018 --output data/gss
    python -m ace_jax.prepare --source wvs7 --input WVS_Cross-National_Wave_7.csv --output data/wvs
    python -m ace_jax.prepare --source issp --input ZA7570.sav ZA7600.dta --output data/issp
    python -m ace_jax.prepare --draft-codebook own.toml --input own.sav
    python -m ace_jax.prepare --source table --codebook own.toml --input own.sav --output data/own
    python -m ace_jax.prepare --source release --input ACE-Align/data/eval --output data/release

Respondents' rows are read and never written. docs/surveys.md says what each source needs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ace_jax.command import run
from ace_jax.errors import InputError
from ace_jax.files import check_free, whole_file
from ace_jax.runtime.progress import log
from ace_jax.survey.build import build, summary, with_shrunk_cells
from ace_jax.survey.cells import PARTS, split_respondents
from ace_jax.survey.dataset import EMBEDDED, OWN, Dataset, read_dataset, write_dataset
from ace_jax.survey.draft import draft
from ace_jax.survey.readers import release_eval, sources

# Options that choose among a survey's own files, by the name that argparse gives them.
OF_FILES = ("weights", "rule", "codebook", "countries", "questions", "sample")

HELP = {
    "input": "the survey's files, in any order (gss2018, eqls2011: without them, the cells in "
    "ace_jax; release: the authors' directory data/eval)",
    "draft": "write a first codebook from what the --input file's own labels and values say, for "
    "you to correct (--countries CODE: the country of all its respondents)",
    "form": "how a draft's file is spelt: encoding, delimiter, decimal or sheet, as in a codebook",
    "codebook": "table: the meaning of its columns and codes",
    "weights": "column of survey weights (default: every respondent counts the same)",
    "rule": "move a cut of the codebook, such as education.college=3 (lowest code that is College "
    "Educated) or residence.rural=5 (lowest code that is Rural); marital_status=none leaves the "
    "attribute out",
    "countries": "ISO 3166-1 alpha-3 codes of the countries to take, tier1, tier2 or tier3 (the "
    "paper's), or all (default: wvs7 and issp: those of the paper; others: all)",
    "questions": "questions to take (default: wvs7: all-240, the paper's; others: all)",
    "sample": "draw this share of each country's respondents; write DATASET/sample with their "
    "cells, and DATASET/rest with those of the others",
    "strict": "write nothing if the survey has flags (docs/surveys.md)",
    "estimator": "what training learns from: the cells' raw shares (the default, as in the paper) "
    "or shares shrunk towards the main effects of their question and country",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the survey's files, aggregates respondents to cells and writes the DATASET."""
    args = _arguments(argv)
    if args.draft_codebook is not None:
        return _draft(args)
    for name in PARTS if args.sample else ("",):
        check_free(args.output / name, *OWN)
    datasets = _datasets(args)
    flags = [flag for its in datasets.values() for flag in its.manifest.get("flags", ())]
    if args.strict and flags:
        for flag in dict.fromkeys(flags):  # the parts of a sample may share some
            log(flag)
        raise InputError(f"--strict: the survey has flags ({len({*flags})}), such as {flags[0]}")
    if args.estimator == "shrunk":
        log("Shrinking cells towards the main effects of their question and country.")
        datasets = {name: with_shrunk_cells(dataset) for name, dataset in datasets.items()}
    for name, dataset in datasets.items():
        write_dataset(dataset, args.output / name)
        print(summary(dataset.manifest))
        log(f"DATASET written to {args.output / name}")


def _datasets(args: argparse.Namespace) -> dict[str, Dataset]:
    """Returns the datasets to write, by the directory below --output."""
    if args.input and args.source != "release":
        questions = args.questions or ("all-240" if args.source == "wvs7" else "all")
        choices = (args.codebook, args.weights, args.countries, questions)
        raw = sources.read(args.source, args.input, *choices)
        for line in filter(None, [sources.coverage(raw), *raw.notes.get("warnings", ())]):
            log(line)
        parts = split_respondents(raw, args.sample) if args.sample else {"": raw}
        rules = dict(args.rule)
        return {name: build(part, args.input, rules, args.weights) for name, part in parts.items()}
    # Cells that are read as they are leave nothing to choose.
    if chosen := [name for name in OF_FILES if getattr(args, name)]:
        raise InputError(
            f"--{chosen[0]} is for a survey's own files; leave it out, or give them with --input"
        )
    if args.source == "release":
        if len(args.input) != 1:
            raise InputError("--source release needs --input DIRECTORY: the authors' data/eval")
        return {"": release_eval.read_eval(args.input[0])}
    if args.source not in EMBEDDED:
        raise InputError(f"--source {args.source} needs the survey's files; give them with --input")
    return {"": read_dataset(args.source)}


def _draft(args: argparse.Namespace) -> None:
    if len(args.input) != 1 or len(args.countries or [""]) != 1:
        raise InputError("--draft-codebook FILE.toml takes one --input FILE, and one --countries")
    country = args.countries[0] if args.countries else None
    text = draft(args.input[0], country, dict(args.form))
    with whole_file(args.draft_codebook) as file:
        file.write_text(text, encoding="utf-8")
    questions, attributes, unsure = map(text.count, ("[[questions]]", "[[attributes]]", "UNSURE: "))
    log(
        f"Draft written to {args.draft_codebook}: {questions} questions, {attributes} attributes, "
        f"{unsure} lines that say UNSURE. Read it through; prepare --source table takes it."
    )


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _rule(text: str) -> tuple[str, float | None]:
    key, value = _pair(text)
    try:
        if value == "none":
            return key, None
        return key, float(value)
    except ValueError:
        raise InputError(
            f"--rule {text}: write KEY=NUMBER, such as education.college=3, or ATTRIBUTE=none"
        ) from None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", choices=(*sources.READERS, "table", "release"))
    add("--input", nargs="+", type=Path, default=[], metavar="FILE", help=HELP["input"])
    add("--output", type=Path, metavar="DATASET", help="directory to write")
    add("--codebook", type=Path, metavar="TOML", help=HELP["codebook"])
    add("--draft-codebook", type=Path, metavar="TOML", help=HELP["draft"])
    add("--form", nargs="+", type=_pair, default=[], metavar="KEY=VALUE", help=HELP["form"])
    add("--weights", metavar="COLUMN", help=HELP["weights"])
    rules = add("--rule", nargs="+", action="extend", type=_rule, default=[], help=HELP["rule"])
    rules.metavar = "KEY=VALUE"
    add("--countries", nargs="+", type=str.upper, metavar="CODE", help=HELP["countries"])
    add("--questions", choices=sources.QUESTIONS, help=HELP["questions"])
    add("--sample", metavar="SHARE[@SEED]", help=HELP["sample"])
    add("--estimator", choices=["raw", "shrunk"], default="raw", help=HELP["estimator"])
    add("--strict", action="store_true", help=HELP["strict"])
    args = parser.parse_args(argv)
    if args.draft_codebook is None and None in (args.source, args.output):
        parser.error("--source and --output are required, or --draft-codebook")
    if args.form and args.draft_codebook is None:
        parser.error("--form is for --draft-codebook; a codebook has these keys itself")
    return args


if __name__ == "__main__":
    run(main)
