"""The European Quality of Life Survey 2011, from a file of the waves of 2007 and 2011."""

from collections.abc import Sequence
from pathlib import Path

from ace_jax.errors import InputError
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.readers.tables import Raw, read_codes

WAVE = "2011"


def read(paths: Sequence[Path]) -> Raw:
    """Reads the respondents of 2011 from one file with the columns of builtin/eqls2011.toml.

    The file's `wave` says of which year a respondent is. Raises InputError for several files, a
    column that is missing, or a file without respondents of 2011.
    """
    if len(paths) != 1:
        raise InputError("--source eqls2011 takes one file, .csv or .parquet, with both waves")
    codebook = read_codebook(BUILTIN / "eqls2011.toml")
    table = read_codes(paths[0], codebook, "the integrated file of 2007 and 2011", ["wave"])
    of_wave = table["wave"].astype(str).str.removesuffix(".0") == WAVE
    if not of_wave.any():
        raise InputError(f"{paths[0]}: has no respondents of {WAVE} in its column wave")
    notes = {"filters": [f"wave == {WAVE}"]}
    return Raw(table[of_wave].reset_index(drop=True), codebook, notes)
