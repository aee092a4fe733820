"""A run directory belongs to one run, and to one job at a time."""

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ace_jax.errors import InputError

CONFIG, LOCK = "config.json", "lock"
IDENTITY = "identity"  # in config.json: digests of the base model and of what is learnt from
# Config fields that a resumed run may differ in.
FREE_TO_CHANGE = ("max_steps", "checkpoint", "mesh", "distributed", "log", "profile")
OTHER_WORKDIR = "choose another --workdir"


class Claim:
    """Holds a run directory against other jobs until it is closed, or the process dies.

    The lock is `flock` on WORKDIR/lock: a crash leaves the file but no lock. It also holds between
    machines on NFS (v4, or v3 with its lock daemon), Lustre mounted with `flock`, and GPFS.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self._lock: TextIO | None = None

    def check(self, settings: dict[str, Any]) -> None:
        """Locks the directory if it is there, and checks that a run in it has these settings.

        Raises `InputError` where another job holds it, the settings differ, or its config.json
        cannot be read.
        """
        self.hold()
        before = self._recorded()
        if not before:
            return
        differing = sorted(
            name
            for name in (settings.keys() | before.keys()) - {*FREE_TO_CHANGE, IDENTITY}
            if settings.get(name) != before.get(name)
        )
        if differing:
            raise InputError(
                f"{self.workdir} holds a run with other settings of {', '.join(differing)}; "
                f"{OTHER_WORKDIR}"
            )

    def take(self, settings: dict[str, Any], identity: dict[str, str]) -> None:
        """Makes the directory this run's: locked, with config.json in it.

        Args:
          settings: the config.
          identity: digests by what they are of.

        Raises:
          InputError: as `check`; or a digest is not that of the run that is there, because a file
            was changed under the same name.
        """
        self.check(settings)
        before = self._recorded().get(IDENTITY, identity)
        differing = [name for name in identity if before.get(name) != identity[name]]
        if differing:
            raise InputError(
                f"{self.workdir} holds a run whose {' and '.join(differing)} had other contents, "
                f"under the same name; bring them back, or {OTHER_WORKDIR}"
            )
        self.make()
        try:
            described = json.dumps(settings | {IDENTITY: identity}, indent=2) + "\n"
            whole = self.workdir / f"{CONFIG}.new"
            whole.write_text(described)
            whole.replace(self.workdir / CONFIG)
        except OSError as error:
            raise InputError(f"{self.workdir}: cannot be written ({error.strerror})") from None

    def check_still_there(self) -> None:
        """Raises `InputError` where the directory was moved or deleted under the run."""
        if not (self.workdir / CONFIG).is_file():
            raise InputError(
                f"{self.workdir} is gone, moved or deleted while the run went on; bring it back "
                "and run the same command again, or start anew"
            )

    def _recorded(self) -> dict[str, Any]:
        path = self.workdir / CONFIG
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, TypeError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {OTHER_WORKDIR}") from None

    def make(self) -> None:
        """Makes the directory and locks it; raises `InputError` as `hold`, or where it cannot."""
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.workdir}: cannot be made ({error.strerror})") from None
        self.hold()

    def hold(self) -> None:
        """Locks the directory if it is there; raises `InputError` where another job holds it."""
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
