"""What a process gives up before it runs a program that nobody has read: limits, files, system calls.

It imports the standard library alone, since its text is sent to the process that confines itself. Nothing given up
can be had back: hard limits, Landlock rules and filters of system calls only ever get stricter, and without
capabilities root is a user like others, one who owns many files.

Sources: setrlimit(2), landlock(7), seccomp(2), capabilities(7); numbers of system calls from Linux's
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Sequence

OPEN_FILES = 64

# fmt: off
CALLS = {  # numbers on x86-64 and on 64-bit ARM
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57),
    "close_range": (436, 436), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "faccessat": (269, 48), "faccessat2": (439, 439), "readlinkat": (267, 78),
    "pselect6": (270, 72), "ppoll": (271, 73), "sched_yield": (24, 124), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "times": (100, 153), "getrusage": (98, 165), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getcwd": (79, 17),
    "getdents64": (217, 61), "dup": (32, 23), "dup3": (292, 24), "futex": (202, 98), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "rseq": (334, 293), "set_tid_address": (218, 96), "getrlimit": (97, 163),
    "uname": (63, 160), "sysinfo": (99, 179), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
    "restart_syscall": (219, 128), "sched_getaffinity": (204, 123), "membarrier": (324, 283), "getcpu": (309, 168),
    "setitimer": (38, 103), "getitimer": (36, 102), "fcntl": (72, 25), "ioctl": (16, 29), "openat": (257, 56),
    "prlimit64": (302, 261),
}
# fmt: on
"""What computing, printing, sleeping and importing take. All else is refused: processes, threads, sockets, signals to
others, changes of files, memory that outlives its mapping, and whatever kernels to come may add."""

OLD_CALLS = {"access": 21, "readlink": 89, "poll": 7, "select": 23, "dup2": 33, "stat": 4, "lstat": 6, "open": 2}
"""Those of x86-64 that ARM never had."""

MACHINES = {
    "x86_64": (0xC000003E, {name: numbers[0] for name, numbers in CALLS.items()} | OLD_CALLS),
    "aarch64": (0xC00000B7, {name: numbers[1] for name, numbers in CALLS.items()}),
}

COMMANDS = {
    "fcntl": (0, 1, 2, 3, 4, 1030),  # not F_SETOWN and F_SETSIG, which send any signal to any process
    "ioctl": (0x5401, 0x5450, 0x5451),  # is it a terminal; close on exec
}
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM


def confine(level: str, memory: int, seconds: int, readable: Sequence[str]) -> None:
    """Give up all that the level takes away.

    Args:
        memory: bytes of address space.
        seconds: of processor time.
        readable: at level ``landlock``, folders and files that can be read still.
    Raises:
        OSError: this kernel or machine cannot do it.
    """
    if level == "none":
        return
    limits = {"AS": memory, "CPU": seconds, "FSIZE": 0, "NPROC": 0, "NOFILE": OPEN_FILES, "CORE": 0, "MEMLOCK": 0}
    for name, limit in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(number)[1]
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(number, (limit, limit))
    if level == "limits":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS, without which the rest would take privileges
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.capset(struct.pack("II", 0x20080522, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
    if level == "landlock":
        _restrict_reading(libc, readable)
    _filter_calls(libc)


def end_with_parent() -> None:
    """Be killed when the thread that started this process ends, as by a signal that ends the whole parent."""
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL


def _restrict_reading(libc: ctypes.CDLL, readable: Sequence[str]) -> None:
    abi = libc.syscall(444, None, 0, 1)
    if abi < 1:
        raise OSError(ctypes.get_errno(), "this kernel has no Landlock")
    rights = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # of files: each version added one, but for the fourth
    rules = libc.syscall(444, struct.pack("Q", (1 << rights) - 1), 8, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    execute, read_file, read_folder = 1 << 0, 1 << 2, 1 << 3
    for path in readable:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = execute | read_file | (read_folder if os.path.isdir(path) else 0)
        failed = libc.syscall(445, rules, 1, struct.pack("=Qi", allowed, file), 0)
        os.close(file)
        if failed:
            raise OSError(ctypes.get_errno(), "landlock_add_rule", path)
    if libc.syscall(446, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


def _filter_calls(libc: ctypes.CDLL) -> None:
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    code = _filter(*MACHINES[machine])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(22, 2, program, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")


def _filter(architecture: int, numbers: dict[str, int]) -> bytes:
    """The filter in classic BPF: every call that is not on the list, or is with other arguments, fails with EPERM."""
    code: list[tuple[int, int, int, int]] = []  # operation, how many to skip if true, and if false, operand

    def require(operation: int, operand: int, wanted: bool = True, otherwise: int = REFUSE) -> None:
        code.extend([(operation, int(wanted), int(not wanted), operand), (RETURN, 0, 0, otherwise)])

    def load(argument: int, high: bool = False) -> None:
        code.append((LOAD, 0, 0, 16 + 8 * argument + 4 * high))

    code.append((LOAD, 0, 0, 4))
    require(EQUAL, architecture, otherwise=KILL)  # 32-bit calls have other numbers
    code.append((LOAD, 0, 0, 0))
    for name, number in numbers.items():
        code.append((EQUAL, 0, 0, number))
        begin = len(code)
        if name in COMMANDS:
            load(1)
            for command in COMMANDS[name]:
                require(EQUAL, command, wanted=False, otherwise=ALLOW)
            code.append((RETURN, 0, 0, REFUSE))
        elif name in ("open", "openat"):
            load(2 if name == "openat" else 1)
            require(ANY_BIT, CHANGES, wanted=False)
        elif name == "prlimit64":  # of other processes it would end them, of our own undo what was given up
            for argument, high in [(0, False), (2, False), (2, True)]:
                load(argument, high)
                require(EQUAL, 0)
        if name not in COMMANDS:
            code.append((RETURN, 0, 0, ALLOW))
        code[begin - 1] = (EQUAL, 0, len(code) - begin, number)
    code.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
