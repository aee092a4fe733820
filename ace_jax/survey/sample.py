"""Two halves of a survey's respondents: a sample, and the others to compare it with."""

import re
from dataclasses import replace

import numpy as np

from ace_jax.errors import InputError
from ace_jax.survey.cells import countries
from ace_jax.survey.readers.tables import Raw

PARTS = ("sample", "rest")
SPEC = re.compile(r"(0?\.\d+)(?:@(\d+))?")


def split_respondents(raw: Raw, spec: str) -> dict[str, Raw]:
    """Draws a share of each country's respondents, such as `0.1@7`: a tenth, drawn by seed 7.

    Returns the PARTS, each with what it is in its notes. At least one respondent of a
    country is in each. Raises InputError for another spec, or a country of a single respondent.
    """
    given = SPEC.fullmatch(spec)
    if given is None or not float(given[1]):
        raise InputError(f"--sample {spec}: write SHARE@SEED with 0 < SHARE < 1, such as 0.1@0")
    share, seed = float(given[1]), int(given[2] or 0)
    country = countries(raw.table, raw.codebook)
    drawn = np.zeros(len(raw.table), bool)
    generator = np.random.default_rng(seed)
    for name, rows in sorted(country.groupby(country).indices.items()):
        if len(rows) < 2:
            raise InputError(f"--sample {spec}: {name} has a single respondent; leave it out")
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        drawn[generator.permutation(rows)[:count]] = True
    return {
        name: replace(
            raw,
            table=raw.table[rows].reset_index(drop=True),
            notes={**raw.notes, "sample": {"part": name, "share": share, "seed": seed}},
        )
        for name, rows in zip(PARTS, (drawn, ~drawn), strict=True)
    }
