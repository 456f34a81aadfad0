"""Several jobs at once, as if they were done one after another: begun in order, and answered in order.

The first goes alone: what is wrong with a source shows then, and once. A job that failed holds up those that have not
begun, until whoever asked has made up for it or gives up. So a failure is always that of the first job that has one,
whatever the threads did.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

_PATIENCE_S = 0.5  # for threads to end that were told to

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Several(Generic[Job, Answer]):
    """do: one job, in a thread of ours; None is a failure, as is what it raises. stop: tells jobs that run to end."""

    def __init__(
        self, jobs: Sequence[Job], do: Callable[[Job], Answer | None], *, n_threads: int, stop: Callable[[], object]
    ) -> None:
        self._jobs, self._do, self._stop = jobs, do, stop
        self._changed = threading.Condition()
        self._n_begun, self._has_answered, self._is_over = 0, False, False
        self._answers: dict[int, Answer | BaseException | None] = {}
        self._failed: set[int] = set()  # those that nobody has made up for
        n_threads = min(n_threads, len(jobs))
        self._threads: list[threading.Thread] = []
        for _ in range(n_threads):
            thread = threading.Thread(target=self._work, name="several", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no room for its stack, or too many processes
                if not self._threads:
                    raise
                break
            self._threads.append(thread)

    def answers(self) -> Iterator[tuple[Job, Answer | None]]:
        """Each job with its answer, in order. Raises what a job raised when it is its turn.

        By asking for the next, the caller says that it has made up for one that has None.
        """
        for number, job in enumerate(self._jobs):
            with self._changed:
                while number not in self._answers:
                    self._changed.wait()
                answer = self._answers.pop(number)
            if isinstance(answer, BaseException):
                raise answer
            yield job, answer
            with self._changed:
                self._failed.discard(number)
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Threads that wait for the network are left to find out by themselves that nobody wants what they bring."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if error is not None:
            self._stop()
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (number := self._begin()) is not None:
            answer: Answer | BaseException | None
            try:
                answer = self._do(self._jobs[number])
            except BaseException as error:  # raised again in the thread that asks for the answer
                answer = error
            with self._changed:
                if answer is None or isinstance(answer, BaseException):
                    self._failed.add(number)
                self._answers[number], self._has_answered = answer, True
                self._changed.notify_all()

    def _begin(self) -> int | None:
        """The next job, as soon as it may begin; None when there is no more to do."""
        with self._changed:
            while (self._failed or (self._n_begun and not self._has_answered)) and not self._is_over:
                self._changed.wait()
            if self._is_over or self._n_begun == len(self._jobs):
                return None
            self._n_begun += 1
            return self._n_begun - 1
