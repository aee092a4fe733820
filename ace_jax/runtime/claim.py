"""A directory belongs to one run or evaluation, and to one job at a time."""

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from ace_jax.errors import InputError
from ace_jax.experiment import FILE, Experiment, read_experiment
from ace_jax.files import whole_file, write_record

LOCK = "lock"
OTHER_WORKDIR = "choose another --workdir"


class Claim:
    """Holds a directory against other jobs until it is closed, or the process dies.

    The lock is `flock` on WORKDIR/lock: a crash leaves the file but no lock. It also holds between
    machines on NFS (v4, or v3 with its lock daemon), Lustre mounted with `flock`, and GPFS.
    The directory must be free, or hold a run that training began; or an evaluation, if `evaluates`.
    """

    def __init__(self, workdir: Path, evaluates: bool = False):
        self.workdir, self._evaluates = workdir, evaluates
        self._lock: TextIO | None = None

    def check(self, experiment: Experiment) -> None:
        """Raises `InputError` if another job holds the directory, or it has another experiment."""
        self.hold()
        file = self.workdir / FILE
        if file.exists() and (differing := read_experiment(file).differences(experiment)):
            raise InputError(
                f"{self.workdir} holds a run with another {', '.join(differing)}; {OTHER_WORKDIR}"
            )

    def take(self, experiment: Experiment) -> None:
        """Makes the directory, locks it and writes experiment.json; raises `InputError`."""
        self.check(experiment)
        self.make()
        with whole_file(self.workdir / FILE, replace=True) as file:
            write_record(file, experiment.to_json())

    def make(self) -> None:
        """Makes the directory and locks it; raises `InputError` as `hold`, or if it cannot."""
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.workdir}: cannot be made ({error.strerror})") from None
        self.hold()

    def hold(self) -> None:
        """Locks the directory if it is there.

        Raises `InputError` if another job holds it, or it holds what is not of this command.
        """
        if self._lock is not None or not self.workdir.is_dir():
            return
        path = self.workdir / LOCK
        found = {each.name for each in self.workdir.iterdir() if not each.name.startswith(".")}
        is_own = LOCK in found and FILE not in found if self._evaluates else FILE in found
        if found - {LOCK} and not is_own:
            what = "a run of train" if FILE in found else "files of another kind"
            raise InputError(f"{self.workdir} holds {what}; {OTHER_WORKDIR}")
        try:
            lock = path.open("a+")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip() or "another process"
            raise InputError(
                f"{self.workdir} is in use by {holder}; wait for it, or {OTHER_WORKDIR}"
            ) from None
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written or locked ({error.strerror}); put --workdir on a file "
                "system that can lock files (Lustre: mount with flock)"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        self._lock = lock

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()


def write_whole(file: Path, content: bytes) -> None:
    """Replaces a file: a crash leaves the old one or the new one. Raises `InputError`."""
    with whole_file(file, replace=True) as whole:
        whole.write_bytes(content)
