"""Kills training in two processes at random moments, and starts it again until it is done.

    python -m tests.faults.kill_training --kills 20 --seed 0

A tiny random model is trained in two processes of this machine (gloo). Each start is killed at a
moment drawn from the seed between the first import and the last file: SIGKILL of one process or of
both, or SIGTERM of one. Where one dies, the other must end by itself; only while it starts, when
it may wait for one that never comes, it is ended as launch/gpu_2x.sh does. Started again until it
is done, a run must end as one that was not killed: the adapter and all rows of its metrics to the
bit. Then the next run begins. Prints a line a kill and a table; ends with status 1 if something was
not as it should be.
"""

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGTERM, Signals
from subprocess import Popen

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own helpers

from faults.seed_files import save_model
from processes import python, start, statuses
from test_checkpoints import outcome

from ace_jax.convert import saved_steps

KINDS = ((SIGKILL, (0,)), (SIGKILL, (1,)), (SIGKILL, (0, 1)), (SIGTERM, (0,)), (SIGTERM, (1,)))
MOMENTS = ("starting", "compiling", "stepping", "saving", "ending")
SETTINGS = {
    "batch__row_lengths": (320,),
    "lora__dropout": 0.1,
    "objective__stages": ((0.0, 1.0, 10), (1.0, 0.0, 10)),
    "checkpoint__every_steps": 4,
    "validation__select_best": True,
}
GRACE = 10.0  # seconds that a process has that starts when the other has died
LIMIT = 150.0  # seconds that any other has to end
UNKILLED = 600.0  # seconds for a whole run, on however busy a machine


@dataclass(frozen=True)
class Kill:
    """A signal to some of the processes of a run.

    Attributes:
      signal: which.
      ranks: of the processes.
      part: when, as a part of the time that a whole run takes.
      step: not before this one is on record.
    """

    signal: Signals
    ranks: tuple[int, ...]
    part: float
    step: int = 0

    @classmethod
    def drawn(cls, seed: int, number: int) -> "Kill":
        draw = Random(f"{seed} {number}")
        return cls(*draw.choice(KINDS), draw.random())

    @property
    def kind(self) -> str:
        return f"{self.signal.name} of {' and '.join(map(str, self.ranks))}"


@dataclass(frozen=True)
class Killed:
    """What a kill hit, and how the processes ended.

    Attributes:
      kill: it.
      moment: what the run was doing.
      step: the last step on record then.
      took: seconds from the kill to the last process's end.
      forced: whether one had to be killed by the launcher.
      statuses: of the processes.
    """

    kill: Kill
    moment: str
    step: int
    took: float
    forced: bool
    statuses: tuple[int, ...]

    def __str__(self) -> str:
        ends = ", ".join(map(str, self.statuses))
        how = "all ended" if not self.forced else "the other was ended"
        return (
            f"{self.kill.kind} at step {self.step}, {self.moment}; {how} after {self.took:.1f} s "
            f"({ends})"
        )

    @property
    def fine(self) -> bool:
        """Whether all ended as they should."""
        if self.moment == "starting":
            return True
        saved = self.kill.signal is SIGKILL or self.moment == "ending" or {*self.statuses} == {42}
        return saved and not self.forced


@dataclass
class Campaign:
    """Runs that are all to end alike.

    Attributes:
      directory: of the runs and what they share.
      checkpoint: the model.
      steps: of a run.
      devices: of both processes.
      settings: of the config.
      begin: starts a process.
      seconds: what the last whole run took.
    """

    directory: Path
    checkpoint: Path
    steps: int = 40
    devices: int = 2
    settings: Mapping[str, object] = field(default_factory=lambda: SETTINGS)
    begin: Callable[..., Popen] = python
    seconds: float = math.nan

    def start(self, name: str) -> list[Popen]:
        run = self.directory / name
        changes = {**self.settings, "max_steps": self.steps}
        return start(run, self.checkpoint, 2, self.devices, self.begin, **changes)

    def undisturbed(self, name: str) -> None:
        """Lets a run be done."""
        began, fresh = time.monotonic(), not self._step(name)
        processes = self.start(name)
        all_ended(processes, UNKILLED, LIMIT)
        assert statuses(processes) == [0, 0], said_by(processes)
        if fresh:
            self.seconds = time.monotonic() - began

    def kills(self, name: str, draws: Iterator[Kill], most: int) -> Iterator[Killed]:
        """Kills a run until it is done, and lets it be done after so many kills."""
        for _ in range(most):
            killed = self.killed(name, next(draws))
            if killed is None:
                return
            yield killed
        self.undisturbed(name)

    def killed(self, name: str, kill: Kill) -> Killed | None:
        """Starts a run once and kills it; None where it was done before."""
        saved, began = max(saved_steps(self._saved(name)), default=0), time.time()
        processes = self.start(name)
        while time.time() < began + kill.part * self.seconds or self._step(name) < kill.step:
            if all(process.poll() is not None for process in processes):
                break
            time.sleep(0.01)
        moment, step = self._moment(name, began, saved)
        for rank in kill.ranks:
            processes[rank].send_signal(kill.signal)
        struck = time.time()
        forced = not all_ended(processes, LIMIT, GRACE if moment == "starting" else LIMIT)
        ends = tuple(statuses(processes))
        if ends == (0, 0):
            if not saved:  # the machine has become faster
                self.seconds = struck - began
            return None
        done = Killed(kill, moment, step, time.time() - struck, forced, ends)
        if not done.fine:
            print(*said_by(processes), sep="\n")
        return done

    def _step(self, name: str) -> int:
        """Returns how many steps are on record."""
        metrics = self.directory / name / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    def _saved(self, name: str) -> Path:
        return self.directory / name / "checkpoints"

    def _moment(self, name: str, began: float, saved: int) -> tuple[str, int]:
        """Returns what a start of a run is doing, by the files it has touched, and its step."""
        run = self.directory / name

        def touched(path: Path) -> bool:
            return path.exists() and path.stat().st_mtime > began

        step = self._step(name) if touched(run / "metrics.jsonl") else saved
        if not touched(run / "experiment.json"):
            return "starting", saved
        if any(map(touched, self._saved(name).glob("*tmp*"))):
            return "saving", step
        if step <= saved:
            return "compiling", step
        return "ending" if step == self.steps else "stepping", step


def all_ended(processes: list[Popen], limit: float, grace: float) -> bool:
    """Waits for all; returns whether they ended by themselves.

    The rest is killed after so many seconds, or so many after one died.
    """
    until = time.monotonic() + limit
    try:
        while any(process.poll() is None for process in processes):
            if any(status not in (None, 0, 42) for status in statuses(processes)):
                until = min(until, time.monotonic() + grace)
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True
    finally:
        for process in processes:
            process.kill()
            process.wait()


def said_by(processes: list[Popen]) -> list[str]:
    return [process.stderr.read() for process in processes]


def differing(one: Path, other: Path) -> list[str]:
    """Returns what two runs differ in, of what must not depend on kills."""
    (adapter, rows), (its_adapter, its_rows) = outcome(one), outcome(other)
    return ["adapter"] * (adapter != its_adapter) + ["metrics"] * (rows != its_rows)


def main() -> None:
    """Runs the campaign; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kill_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="kills."))
    campaign = Campaign(directory, save_model(directory / "model"))
    campaign.undisturbed("cold")
    campaign.undisturbed("whole")
    print(f"{campaign.seconds:.1f} s a run without a kill, once all is compiled", flush=True)
    draws = (Kill.drawn(args.seed, number) for number in count())
    hits: list[Killed] = []
    wrong, began = 0, time.monotonic()
    for run in count(1):
        for hit in campaign.kills(f"run{run}", draws, args.kills - len(hits)):
            hits.append(hit)
            print(f"{len(hits)}: {hit}", flush=True)
            wrong += not hit.fine
        differs = differing(directory / f"run{run}", directory / "whole")
        wrong += bool(differs)
        print(f"run {run} ends {'with another ' + ' and '.join(differs) if differs else 'alike'}")
        if len(hits) == args.kills:
            break
    report(hits, run, time.monotonic() - began)
    if wrong:
        print(f"{wrong} things were not as they should be; see {directory}")
    else:
        shutil.rmtree(directory)
    sys.exit(1 if wrong else 0)


def report(hits: list[Killed], runs: int, seconds: float) -> None:
    """Prints how many kills of a kind hit at which moment, and how the others ended."""
    counts = Counter((hit.kill.kind, hit.moment) for hit in hits)
    print(f"{'':<20}" + "".join(f"{moment:>11}" for moment in MOMENTS) + f"{'all':>6}")
    for kind in sorted({hit.kill.kind for hit in hits}):
        row = [counts[kind, moment] for moment in MOMENTS]
        print(f"{kind:<20}" + "".join(f"{number:>11}" for number in row) + f"{sum(row):>6}")
    forced = sum(hit.forced for hit in hits)
    took = max((hit.took for hit in hits if not hit.forced), default=0)
    print(
        f"{len(hits)} kills and restarts of {runs} run(s) in {seconds:.0f} s; a process "
        f"that started was ended {forced} time(s), else all ended by themselves after {took:.0f} s "
        "at most"
    )


if __name__ == "__main__":
    main()
