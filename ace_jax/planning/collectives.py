"""Which collectives a compiled program has, how large they are and how often they run.

Read from the optimised HLO. A loop's collectives run once a trip. For TPU, XLA splits a collective
that others work beside into several fused copies of one instruction: only the first counts.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^ +(?:ROOT )?%?[\w.-]+ = (?P<type>.*?) (?P<op>[a-z][a-z\d-]*)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<dims>[\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?(%[\w.-]+(?:, ?%[\w.-]+)*)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_FRAME = re.compile(r"^(\d+) \{file_location_id=(\d+)")
_LOCATION = re.compile(r"^(\d+) \{file_name_id=(\d+) .*? line=(\d+)")
_FILE = re.compile(r'^(\d+) "(.*)"')


@dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      kind: one of `KINDS`.
      shapes: the arrays, as HLO writes them, for example `bf16[4096,8]`.
      bytes: their size where they are whole: after gathering, before scattering.
      group: how many devices take part together.
      times: how often it runs in one call of the program.
      op: the operation of the traced program that it comes from, with its loops.
      source: file and line of that operation; empty where the compiler made it up.
    """

    kind: str
    shapes: tuple[str, ...]
    bytes: int
    group: int
    times: int
    op: str
    source: str

    @property
    def traffic(self) -> float:
        """Bytes that a device sends each time, in a ring."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        share = self.bytes * (self.group - 1) / self.group
        return 2 * share if self.kind == "all-reduce" else share


@dataclass(frozen=True)
class _Called:
    names: tuple[str, ...]
    condition: str | None  # of a loop
    trips: int | None  # as the loop itself says


@dataclass
class _Computation:
    collectives: list[tuple[str, Collective]] = field(default_factory=list)  # by channel
    calls: list[_Called] = field(default_factory=list)
    starts: bool = False  # an asynchronous collective, here
    bound: int | None = None  # what its only comparison compares with


def collectives(hlo: str) -> list[Collective]:
    """Returns the collectives of a compiled program, in no particular order.

    Args:
      hlo: `compiled.as_text()`.

    Raises:
      ValueError: a loop with collectives in it whose number of trips the program does not fix.
    """
    computations, entry = _computations(hlo.splitlines())
    started = {
        channel
        for computation in computations.values()
        if computation.starts
        for channel, _ in computation.collectives
    }

    def of(name: str, times: int) -> Iterable[Collective]:
        computation = computations[name]
        for channel, collective in computation.collectives:
            if computation.starts or channel not in started:
                yield replace(collective, times=times)
        for called in computation.calls:
            for inner in called.names:
                yield from of(inner, times * _trips(called, computations) if has[inner] else times)

    has: dict[str, bool] = {}

    def look(name: str) -> bool:
        if name not in has:
            own = computations[name]
            inner = [look(called) for call in own.calls for called in call.names]
            has[name] = bool(own.collectives) or any(inner)
        return has[name]

    look(entry)
    return list(of(entry, 1))


def by_kind(found: Iterable[Collective]) -> dict[str, tuple[int, float]]:
    """Returns how often each kind runs in a call, and the bytes a device sends for it."""
    totals: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for one in found:
        count, sent = totals[one.kind]
        totals[one.kind] = (count + one.times, sent + one.times * one.traffic)
    return {kind: totals[kind] for kind in KINDS if kind in totals}


def _trips(called: _Called, computations: dict[str, _Computation]) -> int:
    if called.condition is None:
        return 1
    trips = called.trips or computations[called.condition].bound
    if trips is None:
        raise ValueError(f"loop condition {called.condition}: its trips are not fixed")
    return trips


def _computations(lines: list[str]) -> tuple[dict[str, _Computation], str]:
    """Returns all computations by name, and the name of the one that the program begins with."""
    found: dict[str, _Computation] = {}
    entry = name = ""
    constants: dict[str, int] = {}
    sources = _sources(lines)
    for line in lines:
        if header := _COMPUTATION.match(line):
            name, constants = header["name"], {}
            found[name] = _Computation()
            entry = name if header["entry"] else entry
        elif name and (instruction := _INSTRUCTION.match(line)):
            _read(instruction, found[name], name, constants, sources)
    return found, entry


def _read(
    instruction: re.Match[str],
    computation: _Computation,
    name: str,
    constants: dict[str, int],
    sources: dict[str, str],
) -> None:
    op, rest = instruction["op"], instruction["rest"]
    kind = op.removesuffix("-start")
    if kind in KINDS:
        scattered = kind == "all-reduce" and name.startswith("all-reduce-scatter")
        one = _collective("reduce-scatter" if scattered else kind, instruction, sources, scattered)
        channel = _after("channel_id=", rest) or str(id(one))
        computation.collectives.append((channel, one))
    elif op == "custom-call" and '"AsyncCollectiveStart"' in rest:
        computation.starts = True
    elif op == "constant" and re.match(r"\d+\)", rest):
        constants[instruction[0].split(" = ")[0].split()[-1]] = int(rest.partition(")")[0])
    elif op == "compare" and "direction=LT" in rest:
        operands = re.findall(r"%[\w.-]+", rest.partition(")")[0])
        computation.bound = constants.get(operands[-1])
    # What an asynchronous call's update and end name again is the call that its start names.
    if not op.endswith(("-update", "-done")) and (called := _CALLED.search(rest)):
        names = tuple(called[1].replace("%", "").split(", "))
        trips = _KNOWN_TRIPS.search(rest)
        condition = _after("condition=%", rest) if op == "while" else None
        computation.calls.append(_Called(names, condition, int(trips[1]) if trips else None))


def _collective(
    kind: str, instruction: re.Match[str], sources: dict[str, str], whole: bool
) -> Collective:
    arrays = list(_ARRAY.finditer(instruction["type"]))
    if instruction["op"] in ("all-gather-start", "collective-permute-start"):
        operands = instruction["rest"].partition(")")[0].count("%")
        arrays = arrays[operands : 2 * operands]
    size = sum(math.prod(_dims(array)) * _bits(array) for array in arrays) // 8
    group = _group(instruction["rest"])
    if kind == "reduce-scatter" and not whole:
        size *= group
    op = re.search(r'op_name="([^"]*)"', instruction["rest"])
    frame = _after("stack_frame_id=", instruction["rest"])
    shapes = tuple(f"{array['dtype']}[{array['dims']}]" for array in arrays)
    return Collective(kind, shapes, size, group, 1, op[1] if op else "", sources.get(frame, ""))


def _dims(array: re.Match[str]) -> list[int]:
    return [int(size) for size in array["dims"].split(",") if size]


def _bits(array: re.Match[str]) -> int:
    return int(array["bits"] or 8)  # a truth value takes a byte


def _group(rest: str) -> int:
    """Reads `replica_groups`, which HLO writes in four ways; a permutation has pairs instead."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", mesh[1])}
        parts = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed[1].count(",") + 1
    return 2


def _after(label: str, text: str) -> str:
    found = re.search(re.escape(label) + r"([\w.-]+)", text)
    return found[1] if found else ""


def _sources(lines: list[str]) -> dict[str, str]:
    """Returns file and line of each stack frame, by its number, from the tables at the top."""
    table = ""
    files: dict[str, str] = {}
    locations: dict[str, str] = {}
    frames: dict[str, str] = {}
    for line in lines:
        if not line[:1].isdigit():
            table = line
        elif table == "FileNames" and (file := _FILE.match(line)):
            files[file[1]] = file[2]
        elif location := _LOCATION.match(line):
            locations[location[1]] = f"{files[location[2]]}:{location[3]}"
        elif frame := _FRAME.match(line):
            frames[frame[1]] = locations[frame[2]]
    return frames
