"""What processes of others use, read from /proc: a server and all that it started count as one."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for one in Path("/proc").iterdir():
        if one.name.isdecimal() and (stat := _stat(int(one.name))):
            children.setdefault(int(stat[1]), []).append(int(one.name))
    found = [pid]
    for one_pid in found:  # grows while it is read
        found += children.get(one_pid, [])
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of the tree; pages that its processes share count once for each."""
    return sum(int(_read(one, "statm").split()[1]) * _PAGE_BYTES for one in tree(pid) if _read(one, "statm"))


def cpu_s(pid: int) -> float:
    """Processor time of the tree, user and system, in steps of some 10 ms."""
    return sum((int(stat[11]) + int(stat[12])) / _TICKS_PER_S for one in tree(pid) if (stat := _stat(one)))


def open_files(pid: int) -> int:
    """File descriptors of the process alone: files, sockets, pipes."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def open_sockets(pid: int) -> int:
    """Those of the process's file descriptors that are sockets: connections, listeners, and an event loop's own."""
    return sum(_target(one).startswith("socket:") for one in Path(f"/proc/{pid}/fd").iterdir())


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name: state, parent, ...; none where it has ended."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
