"""Makes a DATASET directory of a survey: cells by persona, every rule on the record.

    python -m ace_jax.prepare --source gss2018 --output data/gss
    python -m ace_jax.prepare --source wvs7 --input WVS_Cross-National_Wave_7.csv --output data/wvs
    python -m ace_jax.prepare --source issp --input ZA7570.sav ZA7600.dta --output data/issp
    python -m ace_jax.prepare --source table --codebook own.toml --input own.csv --output data/own
    python -m ace_jax.prepare --source release --input ACE-Align/data/eval --output data/release

Respondents' rows are read and never written. docs/surveys.md says what each source needs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ace_jax.command import run
from ace_jax.errors import InputError
from ace_jax.report.figures import effect_sizes
from ace_jax.runtime.progress import log as say
from ace_jax.survey import selection
from ace_jax.survey.audit import audit
from ace_jax.survey.cells import aggregate
from ace_jax.survey.codebook import with_rules
from ace_jax.survey.dataset import (
    EMBEDDED,
    PICTURE,
    Dataset,
    question_table,
    read_dataset,
    write_dataset,
)
from ace_jax.survey.estimators import main_effects, posterior
from ace_jax.survey.manifest import make_manifest
from ace_jax.survey.readers import release_eval, sources
from ace_jax.survey.readers.sources import Raw, Request
from ace_jax.survey.respondents import complete_cases, from_table
from ace_jax.survey.selection import Selection
from ace_jax.survey.story import count, count_cells, tell

SOURCES = (*sources.READERS, "release")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the survey's files, aggregates respondents to cells and writes the DATASET."""
    args = _arguments(argv)
    dataset = _dataset(args)
    if args.estimator == "shrunk":
        say("Shrinking cells towards the main effects of their question and country.")
        dataset = with_shrunk_cells(dataset)
    write_dataset(dataset, args.output)
    effect_sizes(dataset, args.output / PICTURE)
    print(tell(dataset.manifest))
    say(f"DATASET written to {args.output}")


def prepare(raw: Raw, weights: str | None, rules: dict[str, float], paths: list[Path]) -> Dataset:
    """Returns the dataset of a survey's respondents; raises InputError if they do not fit."""
    codebook = with_rules(raw.codebook, rules)
    everyone = from_table(raw.table, codebook, weights)
    complete = complete_cases(everyone)
    cells = aggregate(complete)
    counts = count(everyone, complete) | count_cells(cells, codebook.attributes)
    manifest = make_manifest(codebook, paths, weights, raw.notes) | {"counts": counts}
    return Dataset(question_table(codebook.questions), cells, manifest)


def with_shrunk_cells(dataset: Dataset) -> Dataset:
    """Returns the dataset with `p_shrunk` beside the raw shares.

    The manifest has what the prior of each question is worth, in respondents.
    """
    prior = main_effects(dataset.cells, dataset.attributes)
    estimates = posterior(dataset.cells, dataset.attributes, prior)
    cells = dataset.cells.assign(p_shrunk=pd.Series(estimates, dataset.cells.index))
    settled = {"estimator": "shrunk", "prior_respondents": prior.strength}
    return replace(dataset, cells=cells, manifest=dataset.manifest | settled)


def _dataset(args: argparse.Namespace) -> Dataset:
    if args.source == "release":
        _refuse_choices(args)
        if len(args.input) != 1:
            raise InputError("--source release needs --input DIRECTORY: the authors' data/eval")
        return release_eval.read_eval(args.input[0])
    if args.input:
        raw, rules = sources.read(args.source, _request(args)), _rules(args.rule)
        if absent := raw.notes.get("countries_not_in_input"):
            say(f"Not in the input: {', '.join(absent)}.")
        if args.audit:
            _audit(raw, rules, args)
        return prepare(raw, args.weights, rules, args.input)
    if args.source not in EMBEDDED:
        raise InputError(f"--source {args.source} needs the survey's files; give them with --input")
    _refuse_choices(args)
    return read_dataset(args.source)


def _audit(raw: Raw, rules: dict[str, float], args: argparse.Namespace) -> None:
    """Prints how well the cells agree with the authors', under these rules and others."""
    released = release_eval.read_eval(args.audit)
    table = audit(
        lambda moved: prepare(raw, args.weights, dict(moved), args.input),
        raw.codebook,
        rules,
        released,
    )
    print(f"Cells beside those of {args.audit}, the best rule first:\n")
    print(table.to_string(index=False, float_format="{:.4f}".format) + "\n")


def _request(args: argparse.Namespace) -> Request:
    paper = "all-240" if args.source == "wvs7" else "all"
    chosen = Selection(args.countries, args.questions or paper)
    return Request(args.input, args.codebook, args.weights, args.labels or "codebook", chosen)


def _refuse_choices(args: argparse.Namespace) -> None:
    """Where cells are taken as they are, nothing about respondents can be chosen."""
    for name in ("weights", "rule", "codebook", "countries", "questions", "labels", "audit"):
        if getattr(args, name):
            raise InputError(
                f"--{name} is for a survey's own files; leave it out, or give them with --input"
            )


def _rules(texts: list[str]) -> dict[str, float]:
    rules = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            rules[key] = float(value)
        except ValueError:
            raise InputError(
                f"--rule {text}: write KEY=NUMBER, such as education.college=3"
            ) from None
    return rules


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", required=True, choices=SOURCES, help="which survey it is")
    parser.add_argument(
        "--input",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="the survey's files, in any order (gss2018: without them, the cells that come with "
        "ace_jax; release: the authors' directory data/eval)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DATASET", help="directory to write"
    )
    parser.add_argument(
        "--codebook", type=Path, metavar="TOML", help="table: what its columns and codes mean"
    )
    parser.add_argument(
        "--weights",
        metavar="COLUMN",
        help="column of survey weights (default: every respondent counts the same)",
    )
    parser.add_argument(
        "--rule",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="move a cut of the codebook, such as education.college=3 (lowest code that is "
        "College Educated) or residence.rural=5 (lowest code that is Rural)",
    )
    parser.add_argument(
        "--countries",
        nargs="+",
        type=str.upper,
        metavar="CODE",
        help="ISO 3166-1 alpha-3 codes of the countries to take, tier1, tier2 or tier3 (the "
        "paper's), or all (default: wvs7 and issp: those of the paper; others: all)",
    )
    parser.add_argument(
        "--questions",
        choices=selection.QUESTIONS,
        help="questions to take (default: wvs7: all-240, which are the paper's; others: all)",
    )
    parser.add_argument(
        "--labels",
        choices=["codebook", "file"],
        help="wvs7: label options as ace_jax's codebook does (the default), or as the .sav or "
        ".dta file does",
    )
    parser.add_argument(
        "--audit",
        type=Path,
        metavar="RELEASE",
        help="compare the cells with the authors' data/eval, and say under which rule they agree "
        "best",
    )
    parser.add_argument(
        "--estimator",
        choices=["raw", "shrunk"],
        default="raw",
        help="what training learns from: the cells' raw shares (the default, as in the paper), or "
        "shares shrunk towards the main effects of their question and country",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
