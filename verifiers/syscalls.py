"""The system calls that a program in the sandbox is refused, and the filter that refuses them."""

from __future__ import annotations

import errno
import platform
import struct
from functools import cache

REFUSED = (
    *("clone", "clone3", "fork", "vfork", "socket", "memfd_create", "memfd_secret", "shmget", "semget", "msgget"),
    *("mq_open", "io_uring_setup", "userfaultfd", "ptrace", "add_key", "request_key", "keyctl", "bpf"),
    *("perf_event_open", "mount", "unshare", "setns", "chroot", "pivot_root", "mknod", "mknodat", "personality"),
    *("process_vm_readv", "process_vm_writev", "name_to_handle_at", "open_by_handle_at"),
)
"""Calls that start processes, connect, hold memory that RLIMIT_AS does not count, or act on other processes; and rarely
tested parts of the kernel."""

_X86_64 = (
    *(56, 435, 57, 58, 41, 319, 447, 29, 64, 68, 240, 425, 323, 101, 248, 249, 250, 321),
    *(298, 165, 272, 308, 161, 155, 133, 259, 135, 310, 311, 303, 304),
)
_AARCH64 = (
    *(220, 435, None, None, 198, 279, 447, 194, 190, 186, 180, 425, 282, 117, 217, 218, 219, 280),
    *(241, 40, 97, 268, 51, 41, None, 33, 92, 270, 271, 264, 265),
)

SYSTEM_CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, dict(zip(REFUSED, _X86_64, strict=True))),
    "aarch64": (0xC00000B7, {k: n for k, n in zip(REFUSED, _AARCH64, strict=True) if n is not None}),
}
"""For each machine: its audit number (linux/audit.h) and the numbers of the refused calls (asm/unistd.h)."""


@cache
def syscall_filter() -> bytes:
    """A classic BPF program (linux/filter.h, linux/seccomp.h): kills a call made for another machine, refuses those of
    the list with EPERM, allows the rest."""
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
    audit, numbers = SYSTEM_CALLS[platform.machine()]
    calls = sorted(numbers.values())
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (end, 0, 0, kill), (load, 0, 0, 0)]
    # Numbers from 2^30 on are x86_64's second face, x32, under which every call has another number.
    code += [(at_least, len(calls) + 1, 0, 0x40000000)]
    code += [(equal, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    code += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *line) for line in code)
