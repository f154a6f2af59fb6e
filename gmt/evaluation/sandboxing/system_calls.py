"""Makes a seccomp filter that refuses the system calls that namespaces and rlimits leave open.

- Memory that RLIMIT_AS does not count: files without a name, System V IPC, io_uring.
- AF_VSOCK, which no network namespace confines, and which reaches the host of a virtual machine; with it all families
  except unix and internet, for pairs of sockets too.
- Further namespaces, in which a program would be root again, and namespaces of others; mounts; and calls that no answer
  needs and in which security holes were found before.
"""

import platform
import struct

# AUDIT_ARCH_* of linux/audit.h, and the numbers of asm/unistd_64.h and asm-generic/unistd.h.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_MOUNTS = {  # newer calls have one number everywhere
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "open_tree_attr": 467,
}  # fmt: skip
_REFUSED = {
    "x86_64": {
        "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "msgget": 68, "semget": 64, "io_uring_setup": 425,
        "unshare": 272, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250, "setns": 308,
        "mount": 165, "umount2": 166, "pivot_root": 155, "modify_ldt": 154, **_MOUNTS,
    },
    "aarch64": {
        "memfd_create": 279, "memfd_secret": 447, "shmget": 194, "msgget": 186, "semget": 190, "io_uring_setup": 425,
        "unshare": 97, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219, "setns": 268,
        "mount": 40, "umount2": 39, "pivot_root": 41, **_MOUNTS,
    },
}  # fmt: skip
_CLONE = {"x86_64": 56, "aarch64": 220}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
_CLONE3 = 435  # a filter can't read its flags, which lie in memory; libc falls back to clone on ENOSYS
_CLONE_NEWUSER = 0x10000000
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_X32 = 0x40000000  # from here on, the x32 ABI has the same calls under other numbers

_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; both machines are little-endian
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def has_filter() -> bool:
    """Return whether there is a filter for this machine's processor."""
    return platform.machine() in _ARCHITECTURES


def refused() -> dict[str, int]:
    """Return the numbers of the calls that are refused whatever their arguments, by name."""
    return _REFUSED[platform.machine()]


def seccomp_filter() -> bytes:
    """Return the filter as a BPF program for this machine's processor."""
    machine = platform.machine()
    return b"".join(
        [
            _op(_LOAD, _ARCHITECTURE),
            _op(_EQUAL, _ARCHITECTURES[machine], skip_if=1),
            _op(_RETURN, _KILL),
            _op(_LOAD, _NUMBER),
            _op(_AT_LEAST, _X32, skip_unless=1),
            _op(_RETURN, _KILL),
            *(_refuse(number, _EPERM) for number in refused().values()),
            _refuse(_CLONE3, _ENOSYS),
            _op(_EQUAL, _CLONE[machine], skip_unless=4),
            _op(_LOAD, _ARGUMENT),
            _op(_ANY_BIT, _CLONE_NEWUSER, skip_unless=1),
            _op(_RETURN, _ERRNO | _EPERM),
            _op(_RETURN, _ALLOW),
            _op(_EQUAL, _SOCKET[machine], skip_if=1),
            _op(_EQUAL, _SOCKETPAIR[machine], skip_unless=2 + len(_FAMILIES)),
            _op(_LOAD, _ARGUMENT),
            *(_op(_EQUAL, family, skip_if=len(_FAMILIES) - i) for i, family in enumerate(_FAMILIES)),
            _op(_RETURN, _ERRNO | _EAFNOSUPPORT),
            _op(_RETURN, _ALLOW),
        ]
    )


def _refuse(number: int, errno: int) -> bytes:
    return _op(_EQUAL, number, skip_unless=1) + _op(_RETURN, _ERRNO | errno)


def _op(code: int, operand: int, *, skip_if: int = 0, skip_unless: int = 0) -> bytes:
    """Return one instruction, a struct sock_filter."""
    return struct.pack("<HBBI", code, skip_if, skip_unless, operand)
