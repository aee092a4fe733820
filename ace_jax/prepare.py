"""Turns survey files into a DATASET directory: python -m ace_jax.prepare --help."""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ace_jax import __version__
from ace_jax.command import run, say
from ace_jax.errors import InputError
from ace_jax.survey import cells, gss, pairs, respondents, selection, wvs
from ace_jax.survey.codebook import CODEBOOKS, Codebook, describe, read_codebook, with_rules
from ace_jax.survey.dataset import (
    EMBEDDED,
    Dataset,
    question_table,
    read_dataset,
    write_dataset,
)
from ace_jax.survey.respondents import Respondents
from ace_jax.survey.selection import Selection

SOURCES = {"gss2018": gss, "wvs7": wvs}


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the survey's files, aggregates respondents to cells and writes the DATASET."""
    args = _arguments(argv)
    chosen = _selection(args)
    if args.input:
        dataset = prepare(args.source, args.input, args.weights, _rules(args.rule), chosen)
    elif args.source not in EMBEDDED:
        raise InputError(f"--source {args.source} needs the survey's files; give them with --input")
    elif args.rule or args.weights:
        raise InputError("--rule and --weights need the survey's files; give them with --input")
    else:
        say(f"Without --input: taking the {args.source} cells that come with ace_jax.")
        dataset = read_dataset(args.source)
    write_dataset(dataset, args.output)
    counts = dataset.manifest["counts"]
    say(
        f"{counts['questions']} questions, {counts['cells']} cells, "
        f"{counts['pairs_min_n_10']} pairs with n >= 10 at both ends."
    )
    say(f"DATASET written to {args.output}")


def prepare(
    source: str,
    paths: list[Path],
    weights: str | None,
    rules: dict[str, float],
    chosen: Selection | None = None,
) -> Dataset:
    """Returns the dataset made from the survey's files; raises InputError if they do not fit.

    `chosen` is for surveys of many countries (wvs7).
    """
    codebook = with_rules(read_codebook(CODEBOOKS / f"{source}.toml"), rules)
    say(f"Reading {', '.join(path.name for path in paths)} as {source}.")
    table = SOURCES[source].read(paths)
    taken: dict[str, Any] = {}
    if chosen is not None:
        labels = wvs.read_labels(paths) if chosen.labels == "file" else {}
        table, codebook, taken = selection.select(table, codebook, chosen, labels)
        if absent := taken["countries_not_in_input"]:
            say(f"Not in the input: {', '.join(absent)}.")
    everyone = respondents.from_table(table, codebook, weights)
    complete = respondents.complete_cases(everyone)
    say(
        f"{len(everyone.frame)} respondents; {len(everyone.frame) - len(complete.frame)} dropped "
        f"because an attribute is missing; {len(complete.frame)} kept."
    )
    made = cells.aggregate(complete)
    counts = _counts(everyone, complete) | {
        "questions": len(codebook.questions),
        "cells": len(made),
        "pairs_min_n_10": len(pairs.toggle_pairs(made, codebook.attributes, min_n=10)),
    }
    manifest = _manifest(codebook, paths, weights, SOURCES[source].FILTERS)
    manifest["rules"] |= taken
    return Dataset(question_table(codebook.questions), made, manifest | {"counts": counts})


def _manifest(
    codebook: Codebook, paths: list[Path], weights: str | None, filters: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "version": __version__,
        "source": codebook.source,
        "citation": codebook.citation,
        # By name, so that the order on the command line does not show.
        "inputs": [
            {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(paths, key=lambda path: path.name)
        ],
        "rules": describe(codebook)
        | {"weights": weights, "filters": [*filters, "level of every attribute known"]},
    }


def _counts(everyone: Respondents, complete: Respondents) -> dict[str, Any]:
    return {
        "respondents_in": len(everyone.frame),
        "respondents_out": len(complete.frame),
        "missing": {
            attribute.name: int(everyone.frame[attribute.name].isna().sum())
            for attribute in everyone.attributes
        },
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.prepare",
        description="Turn survey files into a DATASET directory: questions, and how each persona "
        "answered them. Respondents' rows are never written.",
    )
    parser.add_argument("--source", required=True, choices=SOURCES, help="which survey it is")
    parser.add_argument(
        "--input",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="the survey's files (gss2018: gss_spending.csv, gss_wages.csv and gss_abortion.csv "
        "in any order; without them, the cells that come with ace_jax; wvs7: the cross-national "
        ".csv, .sav or .dta, or any number of single-country .csv files with labels)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DATASET", help="directory to write"
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
        help="wvs7: ISO 3166-1 alpha-3 codes of the countries to take, or all (default: the "
        "fourteen of the paper's Table 1)",
    )
    parser.add_argument(
        "--questions",
        choices=selection.QUESTIONS,
        help="wvs7: the paper's 240 (the default), or only the ordinal ones among them",
    )
    parser.add_argument(
        "--labels",
        choices=["codebook", "file"],
        help="wvs7: label options as ace_jax's codebook does (the default), or as the .sav or "
        ".dta file does",
    )
    return parser.parse_args(argv)


def _selection(args: argparse.Namespace) -> Selection | None:
    given = {
        name: value
        for name in ("countries", "questions", "labels")
        if (value := getattr(args, name)) is not None
    }
    if args.source == "wvs7":
        return Selection(**given)
    if given:
        raise InputError(f"--{next(iter(given))} is for --source wvs7; leave it out")
    return None


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


if __name__ == "__main__":
    run(main)
