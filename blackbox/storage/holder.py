"""Who writes a run: the identity of a process, and whether it is still alive.

Process identifiers are used again, machines restart and containers see only their own processes. A holder is
therefore known by its process identifier and start time, and by the boot of the kernel and the namespace in which
that identifier means something.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import sqlite3
from pathlib import Path
from typing import Literal, NamedTuple

from blackbox.errors import JournalError

NETWORK_FILE_SYSTEMS = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone",
        "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "pvfs2", "smb2",
        "smb3", "smbfs",
    )
)  # fmt: skip
_tokens: set[str] = set()
"""Of the journals that this process writes: a token of ours that is not here was left by a lost object."""


class Holder(NamedTuple):
    """A process that writes a run."""

    pid: int
    started: str
    """Start time in clock ticks since boot; empty where the system does not tell."""
    host: str
    boot: str
    """Identifier of this boot of the kernel; empty where the system does not tell."""
    namespace: str
    """Namespace of process identifiers (containers have their own); empty where there are none."""

    @classmethod
    def current(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        namespace = ""
        if Path("/proc/self/ns/pid").is_symlink():
            namespace = os.readlink("/proc/self/ns/pid")
        return cls(pid, _start_time(pid) or "", platform.node(), _read("/proc/sys/kernel/random/boot_id"), namespace)

    def liveness(self) -> Literal["alive", "dead", "elsewhere"]:
        """What can be known from here; ``elsewhere`` means another machine or container, which cannot be asked."""
        here = Holder.current()
        same_boot = bool(self.boot) and self.boot == here.boot
        if not same_boot and self.host != here.host:
            return "elsewhere"
        if self.boot != here.boot:
            return "dead"  # this machine has restarted since
        if self.namespace != here.namespace:
            return "elsewhere"
        if here.started:  # a system with /proc
            return "alive" if _start_time(self.pid) == self.started else "dead"
        return "alive" if _exists(self.pid) else "dead"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host or 'an unnamed host'}"


def claim(connection: sqlite3.Connection, path: Path, steal: bool) -> str:
    """Write this process into the file as its writer, and return the token that says so.

    Raises:
        JournalError: another writer lives, or cannot be asked, and ``steal`` is False.
    """
    # Looked at first without a transaction: a refusal need not wait for what the live writer is writing.
    _refuse_live(connection, path, steal)
    token = secrets.token_hex(16)
    try:
        connection.execute("BEGIN IMMEDIATE")
        _refuse_live(connection, path, steal)
        connection.execute(
            "UPDATE writer SET token = ?, pid = ?, started = ?, host = ?, boot = ?, namespace = ?,"
            " revision = revision + 1",
            (token, *Holder.current()),
        )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    _tokens.add(token)
    return token


def release(connection: sqlite3.Connection, token: str) -> None:
    """Leave the file without a writer, if it is still ours and can be written to."""
    with contextlib.suppress(sqlite3.Error):
        connection.execute("UPDATE writer SET token = NULL, revision = revision + 1 WHERE token = ?", (token,))
    _tokens.discard(token)


def holder(connection: sqlite3.Connection) -> Holder:
    """The last writer of the file."""
    pid, *texts = connection.execute("SELECT pid, started, host, boot, namespace FROM writer").fetchone()
    return Holder(pid if isinstance(pid, int) else 0, *("" if text is None else str(text) for text in texts))


def _refuse_live(connection: sqlite3.Connection, path: Path, steal: bool) -> None:
    row = connection.execute("SELECT token FROM writer").fetchone()
    if row is None:
        raise JournalError(f"{path} is damaged: the record of its writer is missing")
    token, writer = row[0], holder(connection)
    if token is None or steal or (writer == Holder.current() and token not in _tokens):
        return
    if (liveness := writer.liveness()) != "dead":
        why = "which is alive: end it first" if liveness == "alive" else "which cannot be asked from here: end it"
        if writer == Holder.current():
            why = "which is this one: close what writes it here first"
        raise JournalError(f"{path} is being written by {writer}, {why}, or open the file with steal=True")


def refuse_network(path: Path) -> None:
    """JournalError for a file that several machines can see."""
    if (kind := network_file_system(path)) is not None:
        raise JournalError(
            f"path: {str(path)!r} is on a network file system ({kind}), where SQLite's log is not safe; choose a local"
            " disk, or, for studies that several machines write, Optuna with one of its server storages"
        )


def network_file_system(path: Path) -> str | None:
    """Type of the network file system that holds ``path``, or None; only Linux is asked."""
    path = path.resolve()
    longest, kind = -1, None
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        # The kernel writes blanks and backslashes in octal; the last of several mounts on one point is in force.
        mount = Path(before.split()[4].encode().decode("unicode_escape"))
        if len(mount.parts) >= longest and path.is_relative_to(mount):
            longest, kind = len(mount.parts), after.split()[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _start_time(pid: int) -> str | None:
    """Field 22 of ``/proc/PID/stat``, or None for a process that is gone, a zombie, or a system without it."""
    stat = _read(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[19] if fields and fields[0] not in "ZX" else None


def _exists(pid: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 would be a console event here: only `steal` helps
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
