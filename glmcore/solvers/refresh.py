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
    after ``_GROWTH`` times as many; and, of a fit that knows nothing ``at_first``, before those.

    ``anew`` makes state and cache of a single fit from those before, and the model of lanes from
    their points.
    """

    anew: Callable
    first: int
    at_first: bool = False

    @property
    def due(self) -> Int[Array, " times"]:
        """The numbers of steps, ascending."""
        later = (self.first * _GROWTH**k for k in range(31))
        return jnp.asarray([-1] * self.at_first + [n for n in later if n < _NEVER] + [_NEVER], jnp.int32)

    def stretch(
        self, n_iter: Callable, goes_on: Callable, step: Callable, is_worth: Callable, renewed: Callable, at: PyTree
    ) -> PyTree:
        """``at``, or, if a refresh is due by its ``n_iter`` and it ``is_worth`` it, what it is ``renewed``, and
        steps from there while it ``goes_on`` and until the next one is due: outside of the loop of steps,
        for a branch in it would copy at every step all that it may change."""
        due = self.due
        at = jax.lax.cond(jnp.any(n_iter(at) == due) & is_worth(at), renewed, lambda at: at, at)
        next = jnp.min(jnp.where(due > n_iter(at), due, _NEVER))
        return jax.lax.while_loop(lambda at: goes_on(at) & (n_iter(at) < next), step, at)
