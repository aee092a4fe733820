"""Files of statistics programs: SPSS, Stata, SAS. They are checked before a library trusts them."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyreadstat

from ace_jax.errors import InputError
from ace_jax.files import reason
from ace_jax.survey.codebook import spelt
from ace_jax.survey.readers import kinds
from ace_jax.survey.readers.kinds import check_fits, kind_of

# The errors that pyreadstat raises for a damaged file, itself or through its arrays.
DAMAGE = (
    pyreadstat.ReadstatError,
    pyreadstat.PyreadstatError,
    ArithmeticError,
    LookupError,
    MemoryError,
    ValueError,
    struct.error,
)
STATISTICS: Mapping[str, Callable[..., Any]] = {
    kinds.SAV: pyreadstat.read_sav,
    kinds.ZSAV: pyreadstat.read_sav,
    kinds.POR: pyreadstat.read_por,
    kinds.DTA: pyreadstat.read_dta,
    kinds.XPT: pyreadstat.read_xport,
}
DEFLATED = 1032  # zlib packs at most so many bytes into one
SAV_HEADER = 176  # bytes before the first record of a .sav file


def read_statistics(
    path: Path,
    choose: Callable[[list[str]], list[str]],
    encoding: str | None = None,
) -> tuple[pd.DataFrame, Any]:
    """Returns some columns of a file of one of the kinds STATISTICS, and pyreadstat's metadata.

    `choose` says which columns, given all names. Codes that a .sav file declares missing are
    read as codes. (Stata's own missing values always are missing.)

    Raises InputError for a file that is not there, is empty or damaged, or claims more respondents
    than it can hold: pyreadstat makes room for all of them before it reads the first.
    """
    kind, size = kind_of(path), path.stat().st_size
    spelt: dict[str, Any] = {"encoding": encoding} if encoding else {}
    _, metadata = _pyreadstat(path, kind, metadataonly=True, **spelt)
    rows, columns = metadata.number_rows, choose(metadata.column_names)
    packed = DEFLATED if kind == kinds.ZSAV else 1
    if rows is None and packed > 1:
        raise InputError(f"{path} does not say how many respondents it has; save it as .sav")
    # In either form a value takes a byte at least.
    if (rows or 0) * len(metadata.column_names) > size * packed:
        raise InputError(
            f"{path} says it has {rows} respondents, more than its {size} bytes can hold; "
            "download it again"
        )
    check_fits((rows or 0) * len(columns), path)
    if kind in (kinds.SAV, kinds.ZSAV):
        spelt["user_missing"] = True
    table, metadata = _pyreadstat(path, kind, usecols=columns, **spelt)
    if rows is not None and len(table) < rows:
        raise InputError(
            f"{path} is cut off: it has {len(table)} of {rows} respondents; download it again"
        )
    return table, metadata


def _pyreadstat(path: Path, kind: str, **options: Any) -> tuple[pd.DataFrame, Any]:
    try:
        if kind in (kinds.SAV, kinds.ZSAV):
            _check_dictionary(path)
        table, metadata = STATISTICS[kind](path, **options)
        if None in metadata.column_names:
            raise ValueError("a variable without a name")
        return table, metadata
    except DAMAGE as error:
        if "encoding" in str(error) or "character set" in str(error):
            raise InputError(
                f"{path} has texts in another encoding than it says; save it as UTF-8, or give it, "
                f"such as {spelt('encoding', 'cp1252')}"
            ) from None
        raise InputError(
            f"{path} is damaged or cut off ({reason(error)}); download it again"
        ) from None


def _check_dictionary(path: Path) -> None:
    """Walks the records at the start of a .sav file; raises an error of DAMAGE for broken ones.

    ReadStat looks up the variables that value labels name. Where the file has no such variable,
    it reads beyond its memory and ends the whole program.
    """
    with path.open("rb") as file:
        order = "<" if file.read(SAV_HEADER)[64:66] in (b"\2\0", b"\3\0") else ">"

        def take(form: str) -> int:
            return int(struct.unpack(order + form, file.read(struct.calcsize(form)))[0])

        variables = 0
        # A negative length reads to the file's end, behind which there is nothing to take.
        while (kind := take("i")) != 999:  # the end of the dictionary
            if kind == 2:  # a variable: width, has a label, number of missing values
                variables += 1
                _, labelled, missing = take("i"), take("i"), take("i")
                file.read(16)  # formats and name
                if labelled:
                    file.read(-(-take("i") // 4) * 4)
                file.read(8 * abs(missing))
            elif kind == 3:  # value labels: value, length, text padded to 8 bytes
                for _ in range(take("i")):
                    file.read(8)
                    file.read((take("B") + 8) // 8 * 8 - 1)
            elif kind == 4:  # the variables of these labels
                for _ in range(take("i")):
                    if not 1 <= take("i") <= variables:
                        raise ValueError("labels of a variable that is not in the file")
            elif kind == 6:  # a document of lines
                file.read(80 * take("i"))
            elif kind == 7:  # an extension: subtype, size, count
                take("i")
                file.read(take("i") * take("i"))
            else:
                raise ValueError(f"a record of type {kind}")
