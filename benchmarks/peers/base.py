"""What every adapter offers."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class NotInstalled(Exception):
    """Why a peer cannot run here; the message is what the README says."""


class Fit(NamedTuple):
    """What a run of a peer gives back.

    Parameters
    ----------
    coef, intercept : arrays of shape (p, K) and (K,)
    n_iter : int, optional
        Steps as the peer counts them: each reads X at least twice, forward and back.
    seconds : float, optional
        Only from peers in a process of their own, which time themselves there.
    """

    coef: np.ndarray
    intercept: np.ndarray
    n_iter: int | None = None
    seconds: float | None = None


class Rung(NamedTuple):
    """One setting of a peer's ladder: what it is called, and a fit from NumPy arrays with it."""

    tolerance: str
    run: Callable[[], Fit]


@dataclasses.dataclass(frozen=True)
class Peer:
    """One tool, or one of the solvers of a tool.

    Parameters
    ----------
    name : str
        The tool; it has one column in the README.
    solver : str
        Which of its solvers; "" if there is but one.
    version : callable
        Gives its version or raises :class:`NotInstalled`.
    fits : callable
        ``fits(task)`` yields the :class:`Rung` of a task, loosest first.
    applies : callable, optional
        ``applies(task)`` says in words why the peer cannot do a task, or "".
    instead_of : str
        Label of a peer before this one, which runs only where that one misses the gap.
    """

    name: str
    solver: str
    version: Callable[[], str]
    fits: Callable[..., Iterator[Rung]]
    applies: Callable[..., str] = lambda task: ""
    instead_of: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} {self.solver}".strip()


def installed(distribution: str) -> str:
    """Version of a Python distribution of this interpreter.

    Raises
    ------
    NotInstalled
        If there is none.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise NotInstalled(f"{distribution} is not installed") from None


def half_decades(first: int, last: int) -> list[float]:
    """10^-first, 10^-(first + 1/2), ... 10^-last."""
    return [float(f"{10 ** (-half / 2):.0e}") for half in range(2 * first, 2 * last + 1)]
