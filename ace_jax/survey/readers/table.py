"""Any survey: tables of codes (CSV, Parquet, SPSS, Stata), read with the user's own codebook."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ace_jax.errors import InputError
from ace_jax.survey.codebook import Codebook
from ace_jax.survey.readers.delimited import header, read_csv
from ace_jax.survey.readers.spss_stata import (
    Reader,
    binary_reader,
    check_columns,
    check_fits,
    head,
    read_binary,
)

WHOLE = "a file that has it, or change the codebook"


def read(paths: list[Path], codebook: Codebook, weights: str | None) -> pd.DataFrame:
    """Returns one row a respondent: the codebook's columns and the weights, codes as in the files.

    Forms are told apart by content. Rows of several files are put one below the other. Raises
    InputError for a file that is of none of the forms, is damaged, or lacks a column.
    """
    needed = [
        *([codebook.country_column] if codebook.country_column else []),
        *(recode.column for recode in codebook.recodes),
        *(question.question_id for question in codebook.questions),
        *([weights] if weights else []),
    ]
    needed = list(dict.fromkeys(needed))  # a column may serve two attributes
    return pd.concat([_read(path, needed) for path in paths], ignore_index=True)


def _read(path: Path, needed: list[str]) -> pd.DataFrame:
    first = head(path)
    if reader := binary_reader(first):
        return _read_statistics(reader, path, needed)
    if first.startswith(b"PAR1"):
        return _read_parquet(path, needed)
    delimiter, names = header(path, needed)
    check_columns(needed, names.values(), path, WHOLE)
    wanted = {cell: name for cell, name in names.items() if name in needed}
    return read_csv(path, delimiter, usecols=list(wanted)).rename(columns=wanted)


def _read_statistics(reader: Reader, path: Path, needed: list[str]) -> pd.DataFrame:
    _, metadata = read_binary(reader, path, metadataonly=True)
    check_columns(needed, metadata.column_names, path, WHOLE)
    return read_binary(reader, path, usecols=needed)[0]


def _read_parquet(path: Path, needed: list[str]) -> pd.DataFrame:
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        check_columns(needed, schema.names, path, WHOLE)
        if nested := [name for name in needed if pa.types.is_nested(schema.field(name).type)]:
            raise InputError(f"{path}: column {nested[0]} holds lists or records; give it codes")
        check_fits(metadata.num_rows * len(needed), path)
        # Without what pandas noted in it, which damage may have reached.
        return pq.read_table(path, columns=needed).replace_schema_metadata(None).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a Parquet file ({reason:.200}); save it again") from None
