"""What every executor must do; subclass :class:`ExecutorConformance` in a test module to check yours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from morphsearch.types import Executor


class ExecutorConformance:
    """Cases for an executor::

    class TestThreads(ExecutorConformance):
        def executor(self):
            return ThreadExecutor()
    """

    def executor(self) -> Executor:
        """A new one, the one under test."""
        raise NotImplementedError("return a new executor")

    def test_every_task_is_run_once_and_its_result_is_told_with_its_index(self) -> None:
        """In any order."""
        tasks: list[Callable[[], int]] = [partial(pow, 2, exponent) for exponent in range(5)]
        found = list(self.executor().run(tasks))
        assert sorted(found) == [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16)]

    def test_nothing_to_do(self) -> None:
        """Is no error."""
        assert list(self.executor().run([])) == []

    def test_it_can_be_used_again(self) -> None:
        """Each ``retrain`` with a teacher runs two lots."""
        executor = self.executor()
        for _ in range(2):
            assert list(executor.run([partial(pow, 3, 2)])) == [(0, 9)]

    def test_what_a_task_raises_reaches_the_caller(self) -> None:
        """An interrupt, a loss that is not finite: whoever asked must know."""
        with pytest.raises(ZeroDivisionError):
            list(self.executor().run([partial(divmod, 1, 0)]))
