"""What a program costs: operations of its matrix products, and the collectives of its HLO.

XLA's own count of operations takes a loop's body once; this one takes it once an iteration.
Everything but matrix products is left out: it adds a few per cent. A collective inside a loop runs
once an iteration, too. XLA for TPU splits a collective that overlaps with other work into several
fused copies; only the copy that starts it counts.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
from jax.extend import core

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\n((?: .*\n)*)\}", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"^ +(?:ROOT )?%?[\w.-]+ = (?P<type>.*?) (?P<op>[a-z][a-z\d-]*)\((?P<rest>.*)$", re.MULTILINE
)
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<dims>[\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?(%[\w.-]+(?:, ?%[\w.-]+)*)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ASYNCHRONOUS = '"AsyncCollectiveStart"'


@dataclass(frozen=True)
class Collective:
    """A collective of one of `KINDS`, between `group` devices, `times` a call of the program.

    `bytes` is the size of the whole arrays: after gathering, before scattering.
    """

    kind: str
    bytes: int
    group: int
    times: int = 1

    @property
    def sent(self) -> float:
        """Bytes that one device sends in one call of the program, if devices form a ring."""
        if self.kind == "collective-permute":
            return float(self.times * self.bytes)
        rounds = 2 if self.kind == "all-reduce" else 1
        return self.times * rounds * self.bytes * (self.group - 1) / self.group


def matmul_flops(jaxpr: core.Jaxpr) -> int:
    """Returns two operations for each multiplication and addition of all matrix products.

    Raises `ValueError` for a `while` loop with products: its number of iterations is not known.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left: Any = equation.invars[0].aval
            result: Any = equation.outvars[0].aval
            total += 2 * result.size * math.prod(left.shape[axis] for axis in contracted)
            continue
        # What jit, checkpoint, scan, while and custom rules run is among their parameters.
        parts = jax.tree.leaves(list(equation.params.values()))
        parts = [each.jaxpr if isinstance(each, core.ClosedJaxpr) else each for each in parts]
        inner = sum(matmul_flops(each) for each in parts if isinstance(each, core.Jaxpr))
        if inner and name == "while":
            raise ValueError("a while loop with matrix products has no fixed number of iterations")
        total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def collectives(hlo: str) -> list[Collective]:
    """Returns the collectives of `compiled.as_text()`, in no particular order.

    Raises `ValueError` if a loop contains collectives and its number of iterations is not fixed.
    """
    computations = {name: body for _, name, body in _COMPUTATION.findall(hlo)}
    entry = next(name for is_entry, name, _ in _COMPUTATION.findall(hlo) if is_entry)
    started = {
        channel
        for body in computations.values()
        if _ASYNCHRONOUS in body
        for channel in _CHANNEL.findall(body)
    }

    @cache
    def run(name: str) -> list[Collective]:
        body, found = computations[name], []
        for instruction in _INSTRUCTION.finditer(body):
            op, rest = instruction["op"], instruction["rest"]
            if op.removesuffix("-start") in KINDS:
                if _ASYNCHRONOUS in body or started.isdisjoint(_CHANNEL.findall(rest)):
                    found.append(_collective(instruction, name.startswith("all-reduce-scatter")))
            # The update and the end of an asynchronous call name the callee of its start again.
            elif (called := _CALLED.search(rest)) and not op.endswith(("-update", "-done")):
                callees = called[1].replace("%", "").split(", ")
                if inner := [one for callee in callees for one in run(callee)]:
                    times = _iterations(rest, computations) if op == "while" else 1
                    found += [replace(one, times=one.times * times) for one in inner]
        return found

    return run(entry)


def by_kind(found: Iterable[Collective]) -> dict[str, dict[str, int | float]]:
    """Returns for each kind how often it runs (`times`) and the bytes a device sends (`sent`)."""
    totals: dict[str, dict[str, int | float]] = {}
    for one in found:
        total = totals.setdefault(one.kind, {"times": 0, "sent": 0.0})
        total["times"] += one.times
        total["sent"] += one.sent
    return totals


def _iterations(loop: str, computations: dict[str, str]) -> int:
    """Returns how often a loop runs: XLA for CPU writes it, XLA for TPU compares with it."""
    if trips := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop):
        return int(trips[1])
    condition = re.findall(r"condition=%([\w.-]+)", loop)[0]
    bounds = re.findall(r" constant\((\d+)\)", computations[condition])
    if len(bounds) != 1 or "direction=LT" not in computations[condition]:
        raise ValueError(f"loop condition {condition}: the number of iterations is not fixed")
    return int(bounds[0])


def _collective(instruction: re.Match[str], scatters: bool) -> Collective:
    """Reads an instruction; `scatters` says that a fusion makes a reduce-scatter of it."""
    op, rest = instruction["op"], instruction["rest"]
    arrays = list(_ARRAY.finditer(instruction["type"]))
    if op in ("all-gather-start", "collective-permute-start"):  # (operands, results, ...)
        operands = rest.partition(")")[0].count("%")
        arrays = arrays[operands : 2 * operands]
    kind, size, group = op.removesuffix("-start"), sum(map(_bytes, arrays)), _group(rest)
    if kind == "reduce-scatter":
        return Collective(kind, size * group, group)
    return Collective("reduce-scatter" if scatters else kind, size, group)


def _bytes(array: re.Match[str]) -> int:
    bits = int(array["bits"] or 8)  # a truth value takes a byte
    return math.prod(int(size) for size in array["dims"].split(",") if size) * bits // 8


def _group(rest: str) -> int:
    """Reads `replica_groups`, which HLO writes in three ways; a permutation has pairs instead."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", rest):
        sizes = dict(re.findall(r"('\w+')=(\d+)", mesh[1]))
        axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", mesh[2])  # an axis, or a part of one
        return math.prod(int(part or sizes[name]) for name, part in axes)
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed[1].count(",") + 1
    return 2
