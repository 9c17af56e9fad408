"""The machines that are examined, as the examinations see them: something that can be asked to run a function."""

from __future__ import annotations

import abc
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tecogan_dist.base.errors import UserError

NO_ANSWER = "no answer in {:.0f} s"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One of them; ``name`` is unique."""

    name: str
    address: str
    """Where the others reach it."""
    is_here: bool = False
    """This process runs on it."""
    cpus: int | None = None
    """That Ray schedules on; None: there is no Ray."""
    gpus: int | None = None
    object_store: int | None = None
    """Bytes."""
    session: str | None = None
    """Ray's folder there: logs, and objects that do not fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a machine returned, or why there is nothing."""

    value: Any = None
    problem: str | None = None
    """Half a sentence."""
    is_silent: bool = False
    """Neither a value nor an error came in time."""
    sent: float = 0.0
    received: float = 0.0
    """By this machine's clock."""


class Machines(abc.ABC):
    """All that are examined together. Who fails to answer once is not asked again."""

    def __init__(self, machines: Sequence[Machine], *, patience: float) -> None:
        self.all = tuple(machines)
        self.answering = list(machines)
        self.patience = patience
        """Seconds that each gets for an answer."""

    def ask(self, function: Callable[..., Any], *arguments: Any) -> dict[Machine, Answer]:
        """Run the function everywhere at once, with the same arguments."""
        return self.ask_each(dict.fromkeys(self.answering, (function, *arguments)))

    def ask_each(self, calls: dict[Machine, tuple[Any, ...]]) -> dict[Machine, Answer]:
        """Run (function, argument, ...) on each, at once. Errors are answers, and so is silence."""
        answers = self._ask(calls)
        silent = {machine for machine, answer in answers.items() if answer.is_silent}
        self.answering = [machine for machine in self.answering if machine not in silent]
        return answers

    @abc.abstractmethod
    def _ask(self, calls: dict[Machine, tuple[Any, ...]]) -> dict[Machine, Answer]: ...


class ThisMachine(Machines):
    """Only the one that this process runs on, without Ray."""

    def __init__(self, *, patience: float) -> None:
        super().__init__([Machine(name=socket.gethostname(), address="127.0.0.1", is_here=True)], patience=patience)

    def _ask(self, calls: dict[Machine, tuple[Any, ...]]) -> dict[Machine, Answer]:
        return {machine: self._run(*call) for machine, call in calls.items()}

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        sent, box = time.time(), list[Answer]()

        def run() -> None:
            try:
                value = function(*arguments)
                box.append(Answer(value=value, sent=sent, received=time.time()))
            except Exception as error:
                box.append(Answer(problem=in_words(error), sent=sent, received=time.time()))

        # A file system that hangs must not make the command hang.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.patience)
        return box[0] if box else Answer(problem=NO_ANSWER.format(self.patience), is_silent=True)


def in_words(error: BaseException) -> str:
    """Half a sentence: a :class:`UserError`'s own words, else the kind of error and its first line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    text = lines[0].rstrip(".")
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
