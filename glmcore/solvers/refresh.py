"""When what a solver knows of the Hessian is made anew."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

#: It is made anew whenever the number of steps has grown so many times: seldom, since with 65
#: columns a model of the Hessian costs as much as ten steps.
_GROWTH = 5
_NEVER = 2**31 - 1


class Refresh(NamedTuple):
    """How what a fit knows is made ``anew`` where it has got to: after ``first`` steps, and each time
    after ``_GROWTH`` times as many.

    ``anew`` makes state and cache of a single fit from those before, and the model of lanes from
    their points.
    """

    anew: Callable
    first: int

    def after(self, n_iter: Int[Array, ""]) -> Int[Array, ""]:
        """The next number of steps at which that is due."""
        due = [n for n in (self.first * _GROWTH**k for k in range(31)) if n < _NEVER]
        due = jnp.asarray([*due, _NEVER], jnp.int32)
        return jnp.min(jnp.where(due > n_iter, due, _NEVER))

    def stretch(
        self, n_iter: Callable, goes_on: Callable, step: Callable, is_worth: Callable, renewed: Callable, at: PyTree
    ) -> PyTree:
        """Steps from ``at`` while it ``goes_on`` and until a refresh is due by its ``n_iter``, and then, if
        it ``is_worth`` it, what it is ``renewed``: outside of the loop of steps, for a branch in it would
        copy at every step all that it may change."""
        due = self.after(n_iter(at))
        at = jax.lax.while_loop(lambda at: goes_on(at) & (n_iter(at) < due), step, at)
        return jax.lax.cond((n_iter(at) == due) & is_worth(at), renewed, lambda at: at, at)
