"""The program that runs untrusted Python: it locks itself in, then executes the source.

Run as a script by `thinkscale.verifiers.code`; standard library only. Arguments: the work folder (also
the current one), the source file, the file to report the isolation in, the module name to run under, and the limits
on CPU seconds, memory bytes and file bytes.
"""

from __future__ import annotations

import ctypes
import linecache
import os
import resource
import struct
import sys
import traceback
import types
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_SIGKILL = 9

_MODES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_THREADS = 64


def main() -> None:
    folder, source_path, report_path, name, cpu_s, memory_bytes, file_bytes = sys.argv[1:]
    with open(source_path, encoding="utf-8") as file:  # noqa: PTH123 - importing pathlib takes 10 ms of a run's 60
        source = file.read()
    report = os.open(report_path, os.O_WRONLY)
    readable = installation()
    isolation = [*lock_kernel(folder, readable, int(cpu_s), int(memory_bytes), int(file_bytes)), "audit hook"]
    os.write(report, "\n".join(isolation).encode())
    os.close(report)
    linecache.cache["solution.py"] = (len(source), None, source.splitlines(keepends=True), "solution.py")
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules[name] = module
    sys.argv = ["solution.py"]
    for loaded in ("ctypes", "ctypes._endian", "_ctypes", "resource"):
        sys.modules.pop(loaded, None)
    watch(os.path.realpath(folder), readable)
    try:
        exec(compile(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # noqa: BLE001 - any failure of the source is its result
        ours = error.__traceback__
        traceback.print_exception(type(error), error, ours.tb_next if ours else None)
        sys.exit(1)


def installation() -> list[str]:
    """What may be read: the standard library, and what the loader needs for its compiled modules."""
    paths = {*sys.path, f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"}
    paths |= {"/usr/share/zoneinfo", "/etc/localtime", "/etc/ld.so.cache", "/etc/ssl/openssl.cnf"}
    paths |= {"/dev/urandom", "/dev/null"}
    return sorted({os.path.realpath(path) for path in paths if os.access(path, os.R_OK)})


# -- what the kernel enforces -------------------------------------------------------------------------------------


def lock_kernel(folder: str, readable: list[str], cpu_s: int, memory_bytes: int, file_bytes: int) -> list[str]:
    """Turn on what this kernel has, and name it."""
    names = []
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    if linux and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) == 0:
        names.append("network namespace")
        # In a user namespace of its own this counts its own threads only, not the user's other processes.
        _limit(resource.RLIMIT_NPROC, _THREADS)
    if linux:
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    limits = (
        _limit(resource.RLIMIT_CPU, cpu_s, grace=1),
        _limit(resource.RLIMIT_AS, memory_bytes),
        _limit(resource.RLIMIT_FSIZE, file_bytes),
        _limit(resource.RLIMIT_NOFILE, 64),
        _limit(resource.RLIMIT_CORE, 0),
    )
    if all(limits):
        names.append("rlimits")
    if linux and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        if _landlock(libc, folder, readable):
            names.append("landlock")
        if _seccomp(libc):
            names.append("seccomp")
    return names


def _limit(kind: int, most: int, *, grace: int = 0) -> bool:
    """Whether the limit holds; macOS refuses the one on memory. A tighter one that was there stays.

    At `most` seconds of CPU comes SIGXCPU, which tells the parent why; `grace` seconds later, SIGKILL.
    """
    _, hard = resource.getrlimit(kind)
    tightest = most + grace if hard == resource.RLIM_INFINITY else min(most + grace, hard)
    try:
        resource.setrlimit(kind, (min(most, tightest), tightest))
    except (ValueError, OSError):
        return False
    return True


_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC, _CLONE_THREAD = 0x10000000, 0x40000000, 0x08000000, 0x00010000

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_NEVER = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 11  # execute a file; make a character device, a socket, a block device


def _landlock(libc: ctypes.CDLL, folder: str, readable: list[str]) -> bool:
    """Files: read `readable`, read and write beneath `folder`, nothing else, no execution. TCP and signals: none."""
    abi = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return False
    every = (1 << 13) - 1 | (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0) | (1 << 15 if abi >= 5 else 0)
    attributes = struct.pack("=QQQ", every, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    rules = [(path, _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)) for path in readable]  # noqa: PTH112
    rules += [(folder, every & ~_NEVER), ("/dev/null", _READ_FILE | _WRITE_FILE)]
    for path, allowed in rules:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        added = libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed, beneath), 0)
        os.close(beneath)
        if added != 0:
            return False
    locked = libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return bool(locked == 0)


_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# System calls with their numbers on x86_64 and aarch64. Refused: new processes and programs, sockets, signals and
# tracing, the memory of others, namespaces and mounts, and kernel interfaces that are a common way out.
_REFUSED = """
    fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, socket 41 198, socketpair 53 199,
    tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, pidfd_open 434 434, pidfd_send_signal 424 424,
    pidfd_getfd 438 438, ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271,
    unshare 272 97, setns 308 268, chroot 161 51, pivot_root 155 41, mount 165 40, umount2 166 39,
    bpf 321 280, io_uring_setup 425 425, userfaultfd 323 282, perf_event_open 298 241, kexec_load 246 104,
    add_key 248 217, request_key 249 218, keyctl 250 219
"""
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_SIGNAL = {"x86_64": (62, 234), "aarch64": (129, 131)}  # kill, tgkill
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026


def _seccomp(libc: ctypes.CDLL) -> bool:
    """No other process, no other program, no socket: by system call, so that no Python trick helps."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
        return False
    column = 1 + list(_ARCHITECTURES).index(machine)
    refused = [call.split()[column] for call in _REFUSED.split(",")]
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _EPERM), (_LOAD, 0, 0, 0)]
    program += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _EPERM)]  # the x32 numbering of the same calls
    for number in refused:
        if number != "-":
            program += [(_EQUAL, 0, 1, int(number)), (_RETURN, 0, 0, _EPERM)]
    # Its flags lie in memory, where a filter cannot look; the C library then uses clone.
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ENOSYS)]
    conditions = [(_CLONE[machine], _ANY_BIT, _CLONE_THREAD), (_PRLIMIT[machine], _EQUAL, 0)]
    conditions += [(call, _EQUAL, os.getpid()) for call in _SIGNAL[machine]]
    for call, test, value in conditions:  # on the low half of the first argument
        program += [(_EQUAL, 0, 4, call), (_LOAD, 0, 0, 16), (test, 0, 1, value)]
        program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    program.append((_RETURN, 0, 0, _ALLOW))
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(packed))
    return bool(libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0) == 0)


# -- what the interpreter enforces --------------------------------------------------------------------------------

_DENIED_FAMILIES = ("socket", "ctypes", "subprocess", "gc", "pty", "syslog", "winreg")
_DENIED = {
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill"),
    *("os.killpg", "signal.pthread_kill", "resource.prlimit", "resource.setrlimit", "code.__new__"),
    *("setopencodehook", "cpython._PySys_ClearAuditHooks", "cpython.PyInterpreterState_Clear"),
}
_DENIED_MODULES = {"ctypes", "_ctypes", "_posixsubprocess", "_xxsubinterpreters", "_interpreters", "_testcapi"}
_READS = {"os.listdir", "os.scandir", "os.listxattr", "os.getxattr"}
_WRITES = {
    *("os.chdir", "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr"),
    *("os.rename", "os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime", "sqlite3.connect"),
}
_TWO_PATHS = {"os.link", "os.rename", "os.symlink"}


def watch(folder: str, readable: list[str]) -> None:
    """Deny, from now on and for good, what the source has no business with.

    The names the hook uses are bound here, which stops a source that patches this module or the builtins. A clever one
    can still get around an audit hook; it then faces what the kernel enforces.
    """
    realpath, fsdecode, kind, string, number, binary = os.path.realpath, os.fsdecode, type, str, int, bytes
    permission_error, import_error = PermissionError, ImportError
    families, denied, modules, reads, writes, pairs = (
        *(_DENIED_FAMILIES, frozenset(_DENIED), frozenset(_DENIED_MODULES)),
        *(frozenset(_READS), frozenset(_WRITES), frozenset(_TWO_PATHS)),
    )
    write_roots = (folder,)
    read_roots = (folder, *readable)
    modes = _MODES

    def beneath(path: Any, roots: tuple[str, ...]) -> bool:
        if path is None or kind(path) is number:
            return True  # the current folder, or a descriptor that was opened under these rules
        if kind(path) is not string and kind(path) is not binary:
            return False
        if path in ("/dev/null", ":memory:"):
            return True
        real = realpath(fsdecode(path))
        for root in roots:  # noqa: SIM110 - any() is a builtin that a source could replace
            if real == root or real.startswith(root + "/"):
                return True
        return False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not beneath(args[0], write_roots if args[2] & modes else read_roots):
                raise permission_error(f"opening {args[0]!r} is not allowed here")
        elif event == "import":
            if args[0] in modules:
                raise import_error(f"importing {args[0]} is not allowed here")
        elif event in writes:
            if not beneath(args[0], write_roots) or (event in pairs and not beneath(args[1], write_roots)):
                raise permission_error(f"{event} outside the work folder is not allowed here")
        elif event in reads:
            if not beneath(args[0], read_roots):
                raise permission_error(f"{event} outside the work folder is not allowed here")
        elif event in denied or event.partition(".")[0] in families:
            raise permission_error(f"{event} is not allowed here")
        elif event == "object.__setattr__" and args[1] == "__code__":
            raise permission_error("replacing a function's code is not allowed here")

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
