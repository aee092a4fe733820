"""Files and directories, read with care and written whole."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ace_jax.errors import InputError

LONGEST = 200  # characters of another library's message


def sha256_of(files: Iterable[Path]) -> str:
    """Returns the SHA-256 (hex) of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)
    return digest.hexdigest()


def read_object(file: Path, kind: str) -> dict[str, Any]:
    """Reads a JSON object; raises `InputError` for a file that holds anything else.

    `kind` is what its directory is not where the file is missing, such as "a PEFT adapter".
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file.parent}: not {kind}, {file.name} is missing") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({reason(error)}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a JSON object; fetch it again")
    return content


def write_json(file: Path, content: object) -> None:
    """Writes JSON that people can read, too."""
    file.write_text(json.dumps(content, indent=2) + "\n")


def read_rows(path: Path, needed: Sequence[str] = ()) -> dict[int, dict[str, str]]:
    """Returns the rows of a CSV file by line number, without blanks around names and values.

    Raises `InputError` for a file that is no CSV in UTF-8, lacks a `needed` column or has one
    twice, and for a row that is longer or shorter than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [value.strip() for value in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({reason(error)})") from None
    if len(lines) < 2:
        raise InputError(f"{path}: has no rows under a header")
    (_, header), *rows = lines
    if lacking := [name for name in needed if name not in header]:
        raise InputError(f"{path}: has no column {lacking[0]!r}; it has {', '.join(header)}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"{path}: has the column {twice[0]!r} twice; take one out")
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{path}: row {number}: has {len(row)} fields, the header {len(header)}; put "
                "texts with a comma in quotes"
            )
    return {number: dict(zip(header, row, strict=True)) for number, row in rows}


def reason(error: BaseException) -> str:
    """Returns another library's message, cut to one line of 200 characters."""
    text = " ".join(str(error).split())
    return text[:LONGEST] or type(error).__name__


def check_free(directory: Path, replaced: str | None = None) -> None:
    """Raises `InputError` unless a directory is absent, empty or holds a file named `replaced`."""
    is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if not is_free and not (replaced and (directory / replaced).is_file()):
        raise InputError(f"{directory} exists and is not empty; choose another directory")


@contextmanager
def whole_directory(output: Path, replaced: str | None = None) -> Iterator[Path]:
    """Gives a new directory to fill, which becomes `output` once the block ends without an error.

    An output that holds a file named `replaced` is replaced. Any other must be free.

    Raises `InputError` where the output is not free or cannot be written.
    """
    final = output.absolute()
    partial = final.with_name(f".{final.name}.{os.getpid()}")
    former = final.with_name(f"{partial.name}.old")
    try:
        check_free(final, replaced)
        partial.mkdir(parents=True)
        yield partial
        if final.exists():
            final.rename(former)
        partial.rename(final)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(output: Path) -> Iterator[Path]:
    """Gives a file to write, which becomes `output` once the block ends without an error.

    Raises `InputError` where there is an output already, or it cannot be written.
    """
    if output.exists():
        raise InputError(f"{output} exists; choose another file")
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.rename(output)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)
