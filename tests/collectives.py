"""The collectives of a program that XLA compiled for CPU, read from its HLO.

A collective inside a loop runs once an iteration. Devices form a ring.
"""

import math
import re
from functools import cache
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\n((?: .*\n)*)\}", re.MULTILINE)
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z\d-]*)\((.*)$", re.MULTILINE)
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?(%[\w.-]+(?:, ?%[\w.-]+)*)")


class Collective(NamedTuple):
    """Between `group` devices, `times` a call; `bytes` is the size of the whole arrays."""

    kind: str
    bytes: int
    group: int
    times: int = 1

    @property
    def sent(self):
        """Bytes that one device sends in one call of the program."""
        if self.kind == "collective-permute":
            return self.times * self.bytes
        rounds = 2 if self.kind == "all-reduce" else 1
        return self.times * rounds * self.bytes * (self.group - 1) / self.group


def collectives(hlo):
    """Returns the collectives of `compiled.as_text()`."""
    computations = {name: body for _, name, body in _COMPUTATION.findall(hlo)}

    @cache
    def run(name):
        found = []
        for type_, op, rest in _INSTRUCTION.findall(computations[name]):
            if op in KINDS:
                found.append(_collective(type_, op, rest))
            elif called := _CALLED.search(rest):
                times = 1
                inner = [each for to in called[1].replace("%", "").split(", ") for each in run(to)]
                if inner and op == "while":
                    times = int(re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)[1])
                found += [one._replace(times=one.times * times) for one in inner]
        return found

    return run(next(name for entry, name, _ in _COMPUTATION.findall(hlo) if entry))


def _collective(type_, kind, rest):
    size = sum(
        int(bits or 8) * math.prod(int(each) for each in dims.split(",") if each) // 8
        for bits, dims in _ARRAY.findall(type_)
    )
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", rest):
        sizes = dict(re.findall(r"('\w+')=(\d+)", mesh[1]))
        axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", mesh[2])  # an axis, or a part of one
        group = math.prod(int(part or sizes[name]) for name, part in axes)
    elif iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        group = int(iota[1])
    elif listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        group = listed[1].count(",") + 1
    else:
        group = 2  # a permutation has pairs instead
    return Collective(kind, size * group if kind == "reduce-scatter" else size, group)
