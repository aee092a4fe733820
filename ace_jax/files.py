"""Files and directories, read with care and written whole."""

import csv
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from ace_jax.errors import InputError

DIGEST = "content_sha256"  # a key of a record
LONGEST = 200  # characters of another library's message


def user_cache() -> Path:
    """Returns where this program keeps what it can make again; it may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ace_jax"


def sha256_of(files: Iterable[Path]) -> str:
    """Returns the SHA-256 (hex) of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)
    return digest.hexdigest()


def read_object(file: Path, kind: str) -> dict[str, Any]:
    """Reads a JSON object; raises `InputError` for a file that holds anything else.

    So it does for a record of `write_record` that is not as it was written. `kind` is what its
    directory is not where the file is missing, such as "a PEFT adapter".
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
    if content.pop(DIGEST, None) not in (None, _digest(content)):
        raise InputError(
            f"{file}: is not what was written; restore it, or if you changed it on purpose take "
            f"{DIGEST} out of it"
        )
    return content


def write_record(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object with a digest of what it says, which `read_object` checks."""
    write_json(file, {**content, DIGEST: _digest(json.loads(json.dumps(content)))})


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digests(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 (hex) of files of a directory, by name."""
    return {name: sha256_of([directory / name]) for name in names}


def check_digests(directory: Path, known: Mapping[str, str], names: Iterable[str]) -> None:
    """Raises `InputError` naming a file whose SHA-256 is known and is another one now."""
    for file in [directory / name for name in names if name in known]:
        if file.is_file() and sha256_of([file]) != known[file.name]:
            raise InputError(f"{file}: is not what was written; restore it, or make it anew")


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


def check_free(directory: Path, own: Sequence[str] = (), also: Sequence[str] = ()) -> None:
    """Raises `InputError` unless a directory is absent, empty or an earlier output of a command.

    An earlier output has every file of `own`, and no other file than these and those of `also`.
    """
    if not directory.is_dir():
        if directory.exists():
            raise InputError(f"{directory} is a file; name a directory")
        return
    found = {path.name for path in directory.iterdir()}
    others = sorted(found.difference(own, also) if own and found.issuperset(own) else found)
    if others:
        raise InputError(
            f"{directory} exists and is not empty: {', '.join(others[:3])} would be lost; choose "
            "another directory"
        )


@contextmanager
def whole_directory(
    output: Path, own: Sequence[str] = (), also: Sequence[str] = ()
) -> Iterator[Path]:
    """Gives a new directory to fill, which becomes `output` once the block ends without an error.

    An earlier output, as of `check_free`, is replaced. A symbolic link is followed.

    Raises `InputError` where the output is not free or cannot be written.
    """
    with _new_beside(output) as (final, partial):
        check_free(final, own, also)
        partial.mkdir(parents=True)
        yield partial
        former = _beside(final, "old", str(os.getpid()))
        if final.exists():
            final.rename(former)
        partial.rename(final)
        shutil.rmtree(former, ignore_errors=True)


@contextmanager
def whole_file(output: Path, replace: bool = False) -> Iterator[Path]:
    """Gives a file to write, which becomes `output` once the block ends without an error.

    A crash leaves what was there or the new file, complete. A symbolic link is followed.

    Raises `InputError` where it cannot be written, or there is a file already and not `replace`.
    """
    with _new_beside(output) as (final, partial):
        if not replace:
            if final.exists():
                raise InputError(f"{output} exists; choose another file")
            final.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.rename(final)


@contextmanager
def _new_beside(output: Path) -> Iterator[tuple[Path, Path]]:
    """Gives where an output lies, and a path beside it, which is free and is cleared at the end."""
    final = output.resolve()
    partial = _beside(final, "new", str(os.getpid()))
    try:
        _clear_beside(final)
        yield final, partial
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written ({error.strerror or error}); make room or choose another "
            "place, and run the same command again"
        ) from None
    finally:
        _remove(partial)


def _beside(final: Path, kind: str, pid: str) -> Path:
    return final.with_name(f".{final.name}.{kind}.{socket.gethostname()}.{pid}")


def _clear_beside(final: Path) -> None:
    """Puts back or removes what killed processes of this machine left beside an output."""
    for kind in ("old", "new"):
        for left in final.parent.glob(escape(_beside(final, kind, "").name) + "*"):
            pid = left.name.rpartition(".")[2]
            if not pid.isdecimal() or (int(pid) != os.getpid() and _is_alive(int(pid))):
                continue
            if kind == "old" and not final.exists():
                left.rename(final)
            else:
                _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
