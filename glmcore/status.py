"""How a fit ended."""

import collections
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Status(eqx.Enumeration):
    """How a fit ended; ``Status[status]`` is the message of a member.

    A member is data: a fit returns one from inside ``jit``, and a batch of them from ``vmap``,
    of which ``jax.tree.map(lambda s: s[lane], status)`` is one.

    Examples
    --------
    >>> from glmcore import Status
    >>> Status[Status.converged]
    'converged'
    """

    converged = "converged"
    running = "not finished"
    out_of_steps = "stopped at the iteration limit before the fit had converged to tol"
    stalled = (
        "stopped where the rounding error of the dtype hides any further progress, before the "
        "fit had converged to tol; float64 goes further than float32"
    )
    far_from_zero = (
        "the features lie so far from zero that the dtype cannot hold the intercept; subtract "
        "their mean, or go from float32 to float64"
    )
    separable = (
        "classes are separable, if only by a feature that one of them never has, and nothing penalises "
        "the coefficients that do it: the likelihood has no maximum and the coefficients grow without bound"
    )
    nonfinite = "the objective or its gradient is not finite"
    missing_class = "converged; classes without weight were left out"
    unknown_label = (
        "some labels are not from 0 to K - 1; inside jax.jit or jax.vmap only this status can tell, "
        "and the answer is of no use"
    )
    stopped = "stopped by a callback before the fit had converged to tol"


_NAMES = (
    "converged",
    "running",
    "out_of_steps",
    "stalled",
    "far_from_zero",
    "separable",
    "nonfinite",
    "missing_class",
    "unknown_label",
    "stopped",
)


def has_converged(status: Status) -> Array:
    """Whether an answer, or each of a batch of them, is within ``tol``."""
    return (status == Status.converged) | (status == Status.missing_class)


def status_name(status: Status) -> Any:
    """Name of a member, read once from the device; of a batch, a list of names.

    Examples
    --------
    >>> from glmcore import Status, status_name
    >>> status_name(Status.out_of_steps)
    'out_of_steps'
    """
    (index,) = jax.tree.leaves(status)
    return np.array(_NAMES)[np.asarray(index)].tolist()


def tally(status: Status) -> str:
    """How many fits of a batch ended how, the most frequent first: ``"998 converged, 2 stalled"``."""
    counts = collections.Counter(np.ravel(status_name(status)).tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def status_named(name: str | Sequence[str]) -> Status:
    """The member of a name, or the batch of several, or a ValueError.

    Examples
    --------
    >>> from glmcore import Status, status_named
    >>> Status[status_named("converged")]
    'converged'
    """
    names = [name] if isinstance(name, str) else name
    for each in names:
        if each not in _NAMES:
            raise ValueError(f"unknown status {each!r}; known are {', '.join(_NAMES)}")
    members = [getattr(Status, each) for each in names]
    return members[0] if isinstance(name, str) else jax.tree.map(lambda *s: jnp.stack(s), *members)
