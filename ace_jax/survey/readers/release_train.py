"""The pairs that the authors of ACE-Align released, `data/train`. Their cells: `release_eval`."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ace_jax.errors import InputError, within
from ace_jax.survey.readers.release_eval import (
    Labels,
    alpha3,
    expected,
    field,
    option_numbers,
    parse_json,
    shares,
    whole_number,
)

CONCATENATED = "all_countries.jsonl"
OPTIONAL = ("attribute", "country", "question_id")

Endpoint = tuple[str, Labels, tuple[float, ...], int]


@dataclass(frozen=True)
class ReleasePairs:
    """The pairs of a training file. An endpoint that several pairs share is one cell.

    By cell: the prompt scored (trailing blanks removed, one newline added), the options' texts
    (bare numbers), the survey's distribution over them (sums to 1), and the position of the most
    frequent one, as the file has it. `pairs` has the columns `attribute`, `cell_0` and `cell_1`
    (int64 positions in the lists; A=0 is `group_A`), `country`, `question_id`, `context` (int64,
    0-based). Pairs of a context, which are those that shared endpoints connect, are contiguous,
    contexts in the order in which they first appear.
    """

    texts: list[str]
    labels: list[Labels]
    answers: list[Float[np.ndarray, "_"]]
    modes: list[int]
    pairs: pd.DataFrame


def is_release_train(path: Path) -> bool:
    """Returns whether `path` is a training file of the authors', or a directory of such."""
    return path.suffix == ".jsonl" or any(path.glob("*.jsonl"))


def read_train(path: Path) -> ReleasePairs:
    """Reads the authors' training pairs: a JSONL file, or a directory of them.

    Of a directory `all_countries.jsonl` is read only where it is alone, as it repeats the others.
    Only distinct endpoints (prompt, options, answers and mode all equal) are kept; a line repeated
    counts twice.
    Probabilities that sum to 1 within 1e-3 are divided by their sum; all 0 means that every option
    is as likely. `country`, `question_id` and `attribute` are the lines' own where they have these
    keys. Else they are: the file's name (countries of COUNTRIES as alpha-3 either way); a hash of
    the lines that all prompts of the context share, which are the question's and not the
    persona's; and "". Raises InputError, with file and line number, for files of another form.
    """
    files = [path]
    if path.is_dir():
        every = sorted(path.glob("*.jsonl"))
        files = [file for file in every if file.name != CONCATENATED] or every
    if not files:
        raise InputError(f"{path} has no *.jsonl; give the authors' data/train or a file of it")
    endpoints: dict[Endpoint, int] = {}
    rows: list[tuple[str, int, int, str, str]] = []
    for file in files:
        before = len(rows)
        for number, line in _lines(file):
            with within(f"{file}, line {number}"):
                labels = option_numbers(field(line, "options", list))
                cells = [_endpoint(line, group, labels) for group in ("group_A", "group_B")]
            cell_0, cell_1 = (endpoints.setdefault(cell, len(endpoints)) for cell in cells)
            attribute, country, question_id = (_optional(line, key) for key in OPTIONAL)
            rows.append((attribute, cell_0, cell_1, alpha3(country or file.stem), question_id))
        if len(rows) == before:
            raise InputError(f"{file} is empty; give a file with one pair a line")
    texts = [cell[0] for cell in endpoints]
    return ReleasePairs(
        texts,
        labels=[cell[1] for cell in endpoints],
        answers=[np.array(cell[2]) for cell in endpoints],
        modes=[cell[3] for cell in endpoints],
        pairs=_in_contexts(rows, texts),
    )


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, parse_json(line, f"{path}, line {number}")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _endpoint(line: Any, group: str, labels: Labels) -> Endpoint:
    half = field(line, group, dict)
    with within(group):
        text = field(half, "prompt_text", str).rstrip() + "\n"
        answer = shares(field(half, "p_real", dict), labels)
        mode = str(whole_number(field(half, "mode_option", object), "mode_option"))
        if mode not in labels:
            raise expected("mode_option", mode, "one of the options")
    uniform = (1 / len(labels),) * len(labels)
    return text, labels, answer if any(answer) else uniform, labels.index(mode)


def _optional(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    return sys.intern(str(value)) if isinstance(value, str | int) else ""


def _in_contexts(rows: Sequence[tuple[str, int, int, str, str]], texts: list[str]) -> pd.DataFrame:
    """Returns the table of pairs; a context is a connected component of the graph they make."""
    names = ["attribute", "cell_0", "cell_1", "country", "question_id"]
    pairs = pd.DataFrame(rows, columns=names)
    edges = (np.ones(len(pairs)), (pairs["cell_0"], pairs["cell_1"]))
    graph = coo_array(edges, shape=(len(texts), len(texts)))
    _, component = connected_components(graph, directed=False)
    of_pair = component[pairs["cell_0"]]
    nameless = pairs["question_id"] == ""
    if nameless.any():
        order = np.argsort(component, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
        ids = np.array([_shared_lines([texts[cell] for cell in cells]) for cells in members])
        pairs["question_id"] = pairs["question_id"].where(~nameless, ids[of_pair])
    pairs["context"] = pd.factorize(of_pair)[0]
    return pairs.sort_values("context", kind="stable", ignore_index=True)


def _shared_lines(texts: Sequence[str]) -> str:
    """Returns a hash of the lines that all texts have, or of the texts where they have none."""
    lines = [text.splitlines() for text in texts]
    shared = set(lines[0]).intersection(*lines[1:])
    kept = [line for line in lines[0] if line.strip() and line in shared] or sorted(texts)
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]
