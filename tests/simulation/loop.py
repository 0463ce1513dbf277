"""A deterministic event loop: one seed decides which of the runnable steps is next, and time passes only when none is.

Only public parts of asyncio are used: coroutines, tasks, locks, queues and timeouts run on it as they do elsewhere.
A step belongs to a process, which can be paused (its steps wait) and killed (its tasks are cancelled and whatever they
still do has no effect, since the ports of a dead process lead nowhere).
"""

import asyncio
import contextvars
import hashlib
import heapq
import random
import struct
from collections.abc import Callable, Coroutine
from typing import Any

PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)

Step = tuple[asyncio.Handle, "Process | None"]


class Process:
    """What dies together."""

    def __init__(self, loop: "SimulatedLoop", name: str) -> None:
        """name: of this life; a process that is started again is another one."""
        self.loop, self.name = loop, name
        self.is_dead = False
        self.is_paused = False
        self.parked: list[Step] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task of this process."""
        if self.is_dead:
            work.close()
            return
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        task = context.run(self.loop.create_task, work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def pause(self) -> None:
        """Hold all its steps back."""
        self.is_paused = True

    def resume(self) -> None:
        """Let them go."""
        self.is_paused = False
        self.loop.put_back(self.parked)
        self.parked = []

    def kill(self) -> None:
        """End it between two steps."""
        self.is_dead = True
        self.resume()
        for task in list(self._tasks):
            task.cancel()


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Virtual time, and a seeded choice among what is ready. `digest` is a hash of everything that happened."""

    def __init__(self, rng: random.Random) -> None:
        """rng: makes every choice."""
        self._rng = rng
        self._now_s = 0.0
        self._ready: list[Step] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process | None]] = []
        self._count = 0
        self._trace = hashlib.blake2b(digest_size=16)
        self.errors: list[str] = []
        self.steps = 0

    def note(self, *words: object) -> None:
        """Make something part of the trace."""
        self._trace.update(repr((self._now_s, *words)).encode())

    @property
    def digest(self) -> str:
        """The hash of the trace so far."""
        return self._trace.hexdigest()

    def run_until(self, is_over: Callable[[], bool], time_max_s: float) -> bool:
        """Do steps until something is so; return False where it is not by that time."""
        asyncio.events._set_running_loop(self)
        try:
            while not is_over():
                if not self._ready and not self._advance(time_max_s):
                    return False
                self._step()
            return True
        finally:
            asyncio.events._set_running_loop(None)

    def _advance(self, time_max_s: float) -> bool:
        """Let time pass to the next timer; everything that is due then becomes ready."""
        while self._timers and not self._ready:
            when_s = self._timers[0][0]
            if when_s > time_max_s:
                return False
            self._now_s = max(self._now_s, when_s)
            while self._timers and self._timers[0][0] <= self._now_s:
                _, _, handle, process = heapq.heappop(self._timers)
                self._put(handle, process)
        return bool(self._ready)

    def _step(self) -> None:
        ready = self._ready
        place = int(self._rng.random() * len(ready))
        ready[place], ready[-1] = ready[-1], ready[place]
        handle, process = ready.pop()
        if handle.cancelled():
            return
        if process is not None and process.is_paused:
            process.parked.append((handle, process))
            return
        self.steps += 1
        self._trace.update(struct.pack("<dII", self._now_s, place, len(ready)))
        handle._run()

    def _put(self, handle: asyncio.Handle, process: Process | None) -> None:
        if not handle.cancelled():
            self._ready.append((handle, process))

    def put_back(self, steps: list[Step]) -> None:
        """Make steps ready again."""
        self._ready.extend(steps)

    @property
    def is_idle(self) -> bool:
        """Nothing is ready now."""
        return not self._ready

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Make a step ready."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((handle, (context or contextvars.copy_context()).get(PROCESS)))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a step ready after so many virtual seconds."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a step ready at a virtual time."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        process = (context or contextvars.copy_context()).get(PROCESS)
        heapq.heappush(self._timers, (when, self._count, handle, process))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asyncio says so; the timer is dropped when it comes up."""

    def create_future(self) -> "asyncio.Future[Any]":
        """As asyncio's."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **more: Any) -> "asyncio.Task[Any]":  # type: ignore[override]
        """As asyncio's."""
        return asyncio.Task(coro, loop=self, **more)

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Always, for those who ask do so from a step."""
        return True

    def is_closed(self) -> bool:
        """Never: nothing is held that would have to be closed."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody caught: the seed has failed."""
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")
