"""The cheapest HTTP load generator that Python allows: bare sockets and epoll, requests made beforehand.

`flat_out` asks again as soon as a connection has its answer (a closed loop: for throughput and CPU). `scheduled` asks
at fixed times, whatever the answers do, and counts from the time at which the request was *due*: a stall is felt by
all requests that fell into it, also by those that it kept from being sent (no coordinated omission).
"""

import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

RECEIVED_BYTES = 65_536
WAIT_S = 30.0
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


@dataclass
class Fired:
    """What came of it. latencies_ms: until the whole answer was there. statuses: how many answers of each."""

    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    late_ms: list[float] = field(default_factory=list)  # how much later than due it was sent: ours, not the server's
    cpu_s: float = 0.0
    ended_s: float = 0.0
    bodies: list[bytes] = field(default_factory=list)  # some answers, to look at


class _Line:
    """One connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due_s = 0.0
        self._held = b""

    def ask(self, request: bytes, due_s: float) -> None:
        self.due_s, self._held = due_s, b""
        self.sock.sendall(request)

    def answer(self) -> tuple[int, bytes] | None:
        """Read what is there; return (status, body) once the answer is whole. Raises ConnectionError at its end."""
        found = self.sock.recv(RECEIVED_BYTES)
        if not found:
            raise ConnectionError(f"closed after {self._held[:200]!r}, expected an answer")
        held = self._held = self._held + found if self._held else found
        head = held.find(_HEAD_END)
        if head < 0:
            return None
        at = held[:head].lower().find(_LENGTH)
        length = int(held[at + len(_LENGTH) : held.find(b"\r", at)]) if at >= 0 else 0
        if len(held) < head + len(_HEAD_END) + length:
            return None
        return int(held[9:12]), held[head + len(_HEAD_END) :]


class _Lines:
    """All connections to one port, and what was answered."""

    def __init__(self, port: int, connections: int) -> None:
        self.all = [_Line(port) for _ in range(connections)]
        self.fired = Fired()
        self._by_fd = {line.sock.fileno(): line for line in self.all}
        self._poll = select.epoll()
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)

    def answered(self) -> Iterator[_Line]:
        """Wait; yield each connection whose answer has come."""
        ready = self._poll.poll(WAIT_S)
        if not ready:
            raise TimeoutError(f"no answer within {WAIT_S:.0f} s")
        for fd, _ in ready:
            line = self._by_fd[fd]
            found = line.answer()
            if found is not None:
                self.fired.latencies_ms.append((time.perf_counter() - line.due_s) * 1_000)
                self.fired.statuses[found[0]] += 1
                if len(self.fired.bodies) < 100:
                    self.fired.bodies.append(found[1])
                yield line

    def close(self) -> Fired:
        for line in self.all:
            line.sock.close()
        self._poll.close()
        self.fired.ended_s = time.monotonic()
        return self.fired


def flat_out(port: int, requests: Sequence[bytes], connections: int) -> Fired:
    """Send all requests, each connection the next one as soon as it has its answer."""
    began_s = time.process_time()
    lines, left = _Lines(port, connections), iter(requests)
    for line, request in zip(lines.all, left, strict=False):
        line.ask(request, time.perf_counter())
    while len(lines.fired.latencies_ms) < len(requests):
        for line in lines.answered():
            following = next(left, None)
            if following is not None:
                line.ask(following, time.perf_counter())
    lines.fired.cpu_s = time.process_time() - began_s
    return lines.close()


def scheduled(port: int, requests: Sequence[bytes], per_s: float, connections: int) -> Fired:
    """Send the requests at an even rate. One thread sends, since its sleep is exact; this one hears the answers."""
    began_s = time.process_time()
    lines = _Lines(port, connections)
    sending = _Schedule(lines, requests, per_s)
    thread = threading.Thread(target=sending.run, daemon=True)
    thread.start()
    while len(lines.fired.latencies_ms) < len(requests):
        for line in lines.answered():
            sending.free(line)
    thread.join()
    lines.fired.cpu_s = time.process_time() - began_s
    return lines.close()


class _Schedule:
    """Which request goes when, and on which connection; one that finds none free waits, and its time runs."""

    def __init__(self, lines: _Lines, requests: Sequence[bytes], per_s: float) -> None:
        self._requests, self._step_s, self._fired = requests, 1 / per_s, lines.fired
        self._free = deque(lines.all)
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._lock = threading.Lock()

    def run(self) -> None:
        began_s = time.perf_counter() + 0.05
        for number, request in enumerate(self._requests):
            due_s = began_s + number * self._step_s
            time.sleep(max(0.0, due_s - time.perf_counter()))
            with self._lock:
                line: Any = self._free.popleft() if self._free else None
                if line is None:
                    self._waiting.append((request, due_s))
            if line is not None:
                self._fired.late_ms.append((time.perf_counter() - due_s) * 1_000)
                line.ask(request, due_s)

    def free(self, line: _Line) -> None:
        """Take a connection back; give it the request that waits longest."""
        with self._lock:
            if not self._waiting:
                self._free.append(line)
                return
            request, due_s = self._waiting.popleft()
        line.ask(request, due_s)
