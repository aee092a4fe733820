"""The European Quality of Life Survey, from a file of the waves of 2007 and 2011."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ace_jax.errors import InputError
from ace_jax.survey.codebook_file import BUILTIN, read_codebook
from ace_jax.survey.readers.tables import Raw, read_codes


def read(paths: Sequence[Path], wave: str) -> Raw:
    """Reads the respondents of a wave from one file with the columns of builtin/eqls2011.toml.

    The file's `wave` says of which year a respondent is. Questions that nobody answered were not
    asked in the wave, and are left out. Raises InputError for several files, a column that is
    missing, or a file without respondents of the wave.
    """
    if len(paths) != 1:
        raise InputError(f"--source eqls{wave} takes one file, .csv or .parquet, with both waves")
    codebook, source = read_codebook(BUILTIN / "eqls2011.toml"), f"eqls{wave}"
    questions = tuple(replace(question, source=source) for question in codebook.questions)
    codebook = replace(codebook, source=source, questions=questions)
    table = read_codes(paths[0], codebook, "the integrated file of 2007 and 2011", ["wave"])
    table = table[table["wave"].astype(str).str.removesuffix(".0") == wave].reset_index(drop=True)
    if table.empty:
        raise InputError(f"{paths[0]}: has no respondents of {wave} in its column wave")
    ids = [question.question_id for question in questions]
    table = table.drop(columns=[name for name in ids if table[name].isna().all()])
    return Raw(table, codebook, {"filters": [f"wave == {wave}"]})
