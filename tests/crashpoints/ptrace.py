"""Linux's ptrace, as far as it takes to see the system calls of a running process and to stop before one of them.

x86_64 and aarch64, without root: a process may trace its own children. Sources: ptrace(2), the kernel's
include/uapi/linux/ptrace.h and its tables of system calls.
"""

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
from typing import Final, NamedTuple

CONT_SYSCALL: Final = 24  # PTRACE_SYSCALL
SEIZE: Final = 0x4206
INTERRUPT: Final = 0x4207
LISTEN: Final = 0x4208
GET_SYSCALL_INFO: Final = 0x420E

OPTIONS: Final = 0x1 | 0x8 | 0x100000
"""TRACESYSGOOD: stops at system calls tell themselves from signals. TRACECLONE: new threads are traced as well.
EXITKILL: what we trace ends with us."""

WALL: Final = 0x40000000
NO_THREAD: Final = 0x20000000  # only what this thread traces: other threads' children are theirs
EVENT_STOP: Final = 128
ENTRY: Final = 1
WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "write": 1, "open": 2, "close": 3, "pwrite64": 18, "writev": 20, "sendto": 44, "sendmsg": 46,
        "fsync": 74, "fdatasync": 75, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86,
        "unlink": 87, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265, "pwritev": 296,
        "sendmmsg": 307, "renameat2": 316, "pwritev2": 328,
    },
    "aarch64": {
        "mkdirat": 34, "unlinkat": 35, "linkat": 37, "renameat": 38, "ftruncate": 46, "openat": 56, "close": 57,
        "write": 64, "writev": 66, "pwrite64": 68, "pwritev": 70, "fsync": 82, "fdatasync": 83, "sendto": 206,
        "sendmsg": 211, "sendmmsg": 269, "renameat2": 276, "pwritev2": 287,
    },
}  # fmt: skip

KAFKA_REQUESTS: Final = {
    0: "Produce", 1: "Fetch", 2: "ListOffsets", 3: "Metadata", 8: "OffsetCommit", 9: "OffsetFetch",
    10: "FindCoordinator", 11: "JoinGroup", 12: "Heartbeat", 13: "LeaveGroup", 14: "SyncGroup", 18: "ApiVersions",
    21: "DeleteRecords", 22: "InitProducerId",
}  # fmt: skip
"""Source: https://kafka.apache.org/protocol#protocol_api_keys"""

INSIDE: Final = ("pipe:", "anon_inode:", "memfd:", "/memfd:")
"""What nobody outside of the process sees: a kill before a change of it is one before the next change outside."""

_FIRST_PATH: Final = {"open": 0, "creat": 0, "mkdir": 0, "rmdir": 0, "unlink": 0, "rename": 0, "link": 0}
_SECOND_PATH: Final = {"openat": 1, "mkdirat": 1, "unlinkat": 1, "renameat": 1, "renameat2": 1, "linkat": 1}
_PATH_AT: Final = {**_FIRST_PATH, **_SECOND_PATH}
_FLAGS_AT: Final = {"open": 1, "openat": 2}


class Traced(OSError):
    """A call of ptrace failed; errno says why (ESRCH: the thread is gone or not stopped)."""


class _SyscallInfo(ctypes.Structure):
    """struct ptrace_syscall_info, as of a stop at the entry of a call."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
        ("rest", ctypes.c_uint64 * 2),
    )


class Entered(NamedTuple):
    """A system call that a thread is about to make."""

    name: str
    arguments: tuple[int, ...]


# The quick calls keep the interpreter's lock (it would cost more than they do), the wait lets it go.
_quick = ctypes.PyDLL(None, use_errno=True).ptrace
_quick.restype = ctypes.c_long
_quick.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_waitpid = ctypes.CDLL(None, use_errno=True).waitpid
_waitpid.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.c_int)
_names = {number: name for name, number in NUMBERS.get(platform.machine(), {}).items()}


def call(request: int, tid: int, data: int = 0) -> None:
    """Make one request of a thread. Raises Traced."""
    if _quick(request, tid, None, data) == -1:
        number = ctypes.get_errno()
        raise Traced(number, f"ptrace request {request:#x} of thread {tid}: {os.strerror(number)}")


def entered(tid: int) -> Entered | None:
    """Return the call at whose entry the thread has stopped, if it is one of NUMBERS; None at other stops."""
    info = _SyscallInfo()
    size = _quick(GET_SYSCALL_INFO, tid, ctypes.sizeof(info), ctypes.addressof(info))
    if size == -1:
        number = ctypes.get_errno()
        raise Traced(number, f"ptrace syscall info of thread {tid}: {os.strerror(number)}")
    name = _names.get(info.number) if info.op == ENTRY else None
    return Entered(name, tuple(info.arguments)) if name is not None else None


def wait() -> tuple[int, int] | None:
    """Wait until something happens to a thread that this thread traces: (tid, status), or None where none is left."""
    status = ctypes.c_int()
    while True:
        tid = _waitpid(-1, ctypes.byref(status), WALL | NO_THREAD)
        if tid != -1:
            return tid, status.value
        if ctypes.get_errno() != errno.EINTR:
            return None


def threads(pid: int) -> set[int]:
    """Return the threads of a process; none where it is gone."""
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}  # noqa: PTH208
    except FileNotFoundError:
        return set()


def is_writing(pid: int, found: Entered) -> bool:
    """False where a call opens a file to read it, or closes one that was; True for every other call."""
    at = _FLAGS_AT.get(found.name)
    if at is not None:
        return bool(found.arguments[at] & WRITING)
    if found.name != "close":
        return True
    try:
        with open(f"/proc/{pid}/fdinfo/{found.arguments[0]}", encoding="ascii") as lines:  # noqa: PTH123
            flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    except OSError:  # no such file is open
        return False
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def told(pid: int, found: Entered) -> str | None:
    """Return a call in words; None where nobody outside of the process would see what it does.

    A file is told by the last parts of its path, a request to Kafka by its name.
    """
    at = _PATH_AT.get(found.name)
    path = _text(pid, found.arguments[at]) if at is not None else _opened(pid, found.arguments[0])
    if at is None and (path.startswith(INSIDE) or (path.startswith("socket:") and _is_of_unix(pid, path))):
        return None
    if path.startswith("socket:"):
        path = _request(pid, found)
    return f"{found.name} {'/'.join(path.rstrip('/').split('/')[-2:])}"


def _opened(pid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return "?"


def _is_of_unix(pid: int, link: str) -> bool:
    """True for a socket between threads: all of ours to others speak TCP."""
    inode = link.removeprefix("socket:[").removesuffix("]")
    with open(f"/proc/{pid}/net/unix", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
        return any(line.split()[6:7] == [inode] for line in lines)


def _text(pid: int, address: int) -> str:
    return _bytes(pid, address, min(512, 4096 - address % 4096)).partition(b"\0")[0].decode("utf-8", "replace")


def _bytes(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        try:
            memory.seek(address)
            return memory.read(size)
        except (OSError, OverflowError):  # the address is nobody's: the call will say so itself
            return b"?"


def _request(pid: int, found: Entered) -> str:
    """Return the name of a request to Kafka (4 bytes of length, 2 of its number), else "socket"."""
    if found.name not in ("sendto", "write", "writev"):
        return "socket"
    address, size = found.arguments[1], found.arguments[2]
    if found.name == "writev":
        vector = _bytes(pid, address, 16)
        address, size = int.from_bytes(vector[:8], sys.byteorder), int.from_bytes(vector[8:], sys.byteorder)
    begin = _bytes(pid, address, 6)
    is_one = int.from_bytes(begin[:4], "big") == size - 4
    return KAFKA_REQUESTS.get(int.from_bytes(begin[4:], "big"), "socket") if is_one else "socket"


def why_not() -> str | None:
    """Return why processes cannot be traced here, or None where they can: tries it on a child."""
    if sys.platform != "linux" or platform.machine() not in NUMBERS:
        return f"no table of system calls for {sys.platform} on {platform.machine()}"
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        call(SEIZE, child.pid, OPTIONS)
        call(INTERRUPT, child.pid)
        os.waitpid(child.pid, WALL)
        info = _SyscallInfo()
        if _quick(GET_SYSCALL_INFO, child.pid, ctypes.sizeof(info), ctypes.addressof(info)) == -1:
            return f"PTRACE_GET_SYSCALL_INFO: {os.strerror(ctypes.get_errno())} (needs Linux 5.3)"
    except Traced as error:
        return str(error)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    return None
