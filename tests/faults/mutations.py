"""Damage, by chance and in the ways in which files are damaged or forged: each from one draw."""

import io
import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pandas as pd

HUGE = (0, 1, 2, 9, 255, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**62, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2.5, 2**31, 10**12, -(10**18), 10**400, 1e308, 5e-324),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        "x",
        "1",
        "-1",
        "nan",
        "é\u0000\u2028",
        "\ud800",
    ),
    *("../../etc/passwd", "{{ 1 }}", "x" * 5000, [], {}, [[]], [1, "x"], {"x": {}}, [None] * 50),
)
TEXTS = (
    *("", "-1", "1e999", "nan", "inf", "9" * 30, "9" * 5000, "true", '"', "'", "\n", "\x00", ","),
    *(
        ";",
        "\t",
        "[",
        "]",
        "{",
        "}",
        "=",
        "#",
        "null",
        "é",
        "\ufeff",
        "\u2028",
        "1979-05-27",
        "x" * 999,
    ),
)
KEY = re.compile(r'"(\w+)"\s*:')
WORD = re.compile(r"[^\s,;\t\[\]{}=\"']+")
GGUF_KEY = re.compile(rb"[a-z0-9_]+(?:\.[a-z0-9_]+)+")
DEEP = "\ue000"


def damaged(content: bytes, form: str, draw: Random) -> tuple[str, bytes]:
    """Returns the name of what was done, and the content after it; `form` is one of `FORMS`."""
    every = [*BYTES, *FORMS[form] * 2]  # of the form as often as of any file
    change = draw.choice(every)
    return change.__name__, change(content, draw)


# Of any file.


def flip_bits(content: bytes, draw: Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[_place(changed, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut_off(content: bytes, draw: Random) -> bytes:
    return content[: _place(content, draw)]


def cut_out(content: bytes, draw: Random) -> bytes:
    start = _place(content, draw)
    return content[:start] + content[start + draw.choice((1, 2, 8, 100, 4096)) :]


def splice(content: bytes, draw: Random) -> bytes:
    start, target = _place(content, draw), _place(content, draw)
    piece = content[start : start + draw.choice((1, 4, 8, 64, 1024))]
    over = draw.choice((0, len(piece)))
    return content[:target] + piece + content[target + over :]


def plant_number(content: bytes, draw: Random) -> bytes:
    number = struct.pack(draw.choice(("<Q", ">Q")), draw.choice(HUGE))
    number = number[: draw.choice((1, 2, 4, 8))]
    start = _place(content, draw)
    return content[:start] + number + content[start + len(number) :]


def zero_out(content: bytes, draw: Random) -> bytes:
    start, length = _place(content, draw), draw.choice((4, 64, 1024))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def append(content: bytes, draw: Random) -> bytes:
    return content + draw.choice((b"\0" * 64, draw.randbytes(64), content, b"\n\n{", b"\xff\xfe"))


def replace_all(content: bytes, draw: Random) -> bytes:
    whole = (
        b"",
        b"\0",
        b"\n",
        b" ",
        draw.randbytes(200),
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe\0",
        b"PK\3\4",
    )
    return draw.choice(whole)


def _place(content: bytes | bytearray, draw: Random) -> int:
    """Mostly where headers and footers lie."""
    size = max(len(content), 1)
    near = min(size, draw.choice((16, 128, 4096)))
    return draw.choice(
        (draw.randrange(near), size - 1 - draw.randrange(near), draw.randrange(size))
    )


# Of texts.


def replace_word(content: bytes, draw: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    words = list(WORD.finditer(text))
    if not words:
        return draw.choice(TEXTS).encode()
    word = draw.choice(words)
    new = draw.choice((*TEXTS, draw.choice(words)[0]))
    return (text[: word.start()] + new + text[word.end() :]).encode()


def change_lines(content: bytes, draw: Random) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    changes: tuple[Callable[[], None], ...] = (
        lambda: lines.pop(one) and None,
        lambda: lines.insert(other, lines[one]),
        lambda: lines.__setitem__(one, lines[other]),
        lambda: lines.__setitem__(one, lines[one].rstrip()),
        lambda: lines.__setitem__(one, b"\n"),
        lambda: lines.extend(lines[one:] * 3),
    )
    draw.choice(changes)()
    return b"".join(lines)


def other_encoding(content: bytes, draw: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(
        draw.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp037")), "replace"
    )


# Of JSON.


def change_value(content: bytes, draw: Random) -> bytes:
    try:
        tree = json.loads(content)
    except ValueError:
        return replace_word(content, draw)
    for _ in range(draw.choice((1, 1, 1, 3))):
        tree = _changed(tree, draw)
    deep = draw.choice((("[", "]"), ('{"a":', "}")))
    count = draw.choice((50, 900, 100_000))
    text = json.dumps(tree).replace(json.dumps(DEEP), deep[0] * count + "1" + deep[1] * count)
    return text.encode("utf-8", "surrogatepass")


def repeat_key(content: bytes, draw: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    keys = list(KEY.finditer(text))
    if not keys:
        return replace_word(content, draw)
    key = draw.choice(keys)
    value = json.dumps(draw.choice(VALUES))
    return (
        text[: key.start()] + f'"{draw.choice(keys)[1]}": {value}, ' + text[key.start() :]
    ).encode()


def change_line_value(content: bytes, draw: Random) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    one = draw.randrange(len(lines))
    lines[one] = draw.choice((change_value, repeat_key))(lines[one], draw) + b"\n"
    return b"".join(lines)


def _changed(tree: Any, draw: Random) -> Any:
    """Returns the tree with one of its values, at any depth, gone or another."""
    if isinstance(tree, dict | list) and tree and draw.random() < 0.85:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = draw.choice(keys)
        if draw.random() < 0.15:
            del tree[key]
        elif isinstance(tree, dict) and draw.random() < 0.1:
            tree[draw.choice(("", "x", "é", "__class__", "0", "nan"))] = tree.pop(key)
        else:
            tree[key] = _changed(tree[key], draw)
        return tree
    similar = {
        str: (lambda: tree + "x", lambda: tree.upper(), lambda: [tree], lambda: {tree: 1}),
        int: (
            lambda: str(tree),
            lambda: float(tree),
            lambda: -tree,
            lambda: tree * 10**9,
            lambda: [tree],
        ),
        float: (lambda: str(tree), lambda: -tree, lambda: tree * 1e300, lambda: tree + 1e-2),
        list: (lambda: tree * 2, lambda: dict(enumerate(tree)), lambda: tree[::-1], lambda: "x"),
        dict: (lambda: list(tree), lambda: list(tree.values()), lambda: [tree]),
    }.get(type(tree), (lambda: DEEP,))
    return draw.choice((lambda: draw.choice((*VALUES, DEEP)), *similar))()


# Of binary forms.


def change_header(content: bytes, draw: Random) -> bytes:
    """The JSON with which a safetensors file begins, behind its length."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = draw.choice((change_value, repeat_key))(content[8:end], draw)
    length = draw.choice((len(header), len(header), len(header), draw.choice(HUGE)))
    return struct.pack("<Q", length) + header + content[end:]


def change_field(content: bytes, draw: Random) -> bytes:
    """The type, the value or the name of one of a GGUF file's fields or tensors."""
    keys = list(GGUF_KEY.finditer(content[:20_000]))
    key = draw.choice([one for one in keys if len(one[0]) > 8])
    start = key.end() + draw.choice((0, 4, 4, 4, 8, 12, 16, -1, -4, -len(key[0]) - 8))
    width, number = draw.choice((1, 4, 8)), draw.choice((*HUGE, *range(13)))
    return content[:start] + struct.pack("<Q", number)[:width] + content[start + width :]


def change_column(content: bytes, draw: Random) -> bytes:
    """A column of a Parquet file: gone, renamed, of another type, with other values."""
    table = pd.read_parquet(io.BytesIO(content))
    name = draw.choice(list(table.columns))
    column = table[name].astype(object)
    row = draw.randrange(max(len(table), 1))
    values = (*VALUES, np.nan, [0.5, np.nan], [-1.0, 2.0], [2.0], list(map(float, range(40))))
    change = draw.choice(("drop", "rename", "text", "one", "one", "one", "every", "rows", "none"))
    if change == "drop":
        table = table.drop(columns=name)
    elif change == "rename":
        table = table.rename(columns={name: draw.choice((*table.columns, "x", ""))})
    elif change == "text":
        table[name] = column.map(str)
    elif change == "one":
        changed = list(column)
        changed[row] = draw.choice((*values, changed[0]))
        table[name] = pd.Series(changed, table.index, dtype=object)
    elif change == "every":
        value = draw.choice(values)
        table[name] = pd.Series([value] * len(table), table.index, dtype=object)
    else:
        table = pd.concat([table] * 2) if change == "rows" else table.iloc[:0]
    out = io.BytesIO()
    try:
        table.to_parquet(out, index=False)
    except Exception:  # not every such table has a Parquet file; this one stays as it is
        return flip_bits(content, draw)
    return out.getvalue()


Change = Callable[[bytes, Random], bytes]
BYTES: tuple[Change, ...] = (
    flip_bits,
    cut_off,
    cut_out,
    splice,
    plant_number,
    zero_out,
    append,
    replace_all,
)
TEXT: tuple[Change, ...] = (replace_word, replace_word, change_lines, other_encoding)
FORMS: dict[str, tuple[Change, ...]] = {
    "bytes": (plant_number, flip_bits),
    "text": (*TEXT, replace_word),
    "json": (change_value, change_value, change_value, change_value, repeat_key, other_encoding),
    "lines": (change_line_value, change_line_value, change_line_value, *TEXT),
    "safetensors": (change_header, change_header, change_header),
    "gguf": (change_field, change_field, change_field),
    "parquet": (change_column, change_column, change_column),
}
