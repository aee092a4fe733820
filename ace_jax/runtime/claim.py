"""A directory belongs to one run or evaluation, and to one job at a time."""

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ace_jax.errors import InputError
from ace_jax.experiment import FILE, Experiment, read_experiment

LOCK = "lock"
OTHER_WORKDIR = "choose another --workdir"


class Claim:
    """Holds a directory against other jobs until it is closed, or the process dies.

    The lock is `flock` on WORKDIR/lock: a crash leaves the file but no lock. It also holds between
    machines on NFS (v4, or v3 with its lock daemon), Lustre mounted with `flock`, and GPFS.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self._lock: TextIO | None = None

    def check(self, experiment: Experiment) -> None:
        """Locks the directory if it is there, and checks that a run in it is this experiment.

        Raises `InputError` if another job holds it, or the run there is another experiment.
        """
        self.hold()
        file = self.workdir / FILE
        if not file.exists():
            if (self.workdir / "config.json").exists():
                raise InputError(
                    f"{self.workdir} holds a run of an older version of ace_jax; {OTHER_WORKDIR}"
                )
            return
        before = read_experiment(file)
        if differing := before.differences(experiment):
            raise InputError(
                f"{self.workdir} holds a run with another {', '.join(differing)}; {OTHER_WORKDIR}"
            )

    def take(self, experiment: Experiment) -> None:
        """Makes the directory this experiment's: locked, with experiment.json in it.

        Raises `InputError` as `check` does, or if it cannot be written.
        """
        self.check(experiment)
        self.make()
        whole = self.workdir / f"{FILE}.new"
        try:
            whole.write_text(json.dumps(experiment.to_json(), indent=2) + "\n")
            whole.replace(self.workdir / FILE)
        except OSError as error:
            raise InputError(f"{self.workdir}: cannot be written ({error.strerror})") from None

    def check_still_there(self) -> None:
        """Raises `InputError` if the directory was moved or deleted under the run."""
        if not (self.workdir / FILE).is_file():
            raise InputError(
                f"{self.workdir} is gone, moved or deleted while the run went on; bring it back "
                "and run the same command again, or start anew"
            )

    def make(self) -> None:
        """Makes the directory and locks it; raises `InputError` as `hold`, or if it cannot."""
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.workdir}: cannot be made ({error.strerror})") from None
        self.hold()

    def hold(self) -> None:
        """Locks the directory if it is there; raises `InputError` if another job holds it."""
        if self._lock is not None or not self.workdir.is_dir():
            return
        path = self.workdir / LOCK
        try:
            lock = path.open("a+")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise InputError(
                f"{self.workdir} is in use by {holder}; wait for it, or {OTHER_WORKDIR}"
            ) from None
        except OSError as error:
            lock.close()
            raise InputError(
                f"{path}: this file system cannot lock files ({error.strerror}); put --workdir on "
                "one that can (Lustre: mount with flock)"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        self._lock = lock

    def __enter__(self) -> "Claim":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.close()
