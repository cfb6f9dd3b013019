"""When what a solver knows of the Hessian is made anew."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

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
