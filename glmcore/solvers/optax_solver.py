"""Any optax gradient transformation as a solver."""

import sys
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Look, Problem
from glmcore.solvers.base import AbstractSolver, Standing, as_float, as_int
from glmcore.tree import tree_norm


class OptaxCache(eqx.Module):
    """Gradient of the objective on the user's scale."""

    gradient: GLMParams
    progress: Standing


def _as_transformation(value: Any) -> Any:
    if not Optax.takes(value):
        raise TypeError(
            f"transformation must be an optax.GradientTransformation such as optax.adam(0.01), found {value!r}"
        )
    return value


class Optax(AbstractSolver):
    """Steps of an optax transformation on the user's own scale, as written.

    Features are not centred or scaled for it: learning rates and clipping mean what they mean
    in optax.  A program is compiled once per transformation object: keep it and pass it again
    (``optax.inject_hyperparams`` puts its numbers into the state).

    Parameters
    ----------
    transformation : optax.GradientTransformation
        Such as ``optax.adam(1e-2)``; one that searches along a line gets value, grad, value_fn.
        What needs more than that, as ``lookahead``, ``contrib.sam`` and ``contrib.sophia`` do, raises
        an error of its own.
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 1e-5 in float32, 1e-8 in float64.
    maxiter : int, default 10000
        Largest number of steps.

    Examples
    --------
    >>> import optax
    >>> from glmcore import Optax
    >>> int(Optax(optax.adam(1e-2), maxiter=500).maxiter)
    500
    """

    transformation: Any = eqx.field(static=True, converter=_as_transformation)
    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=10_000, converter=as_int)
    needs_smooth = True

    @staticmethod
    def takes(value: Any) -> bool:
        """Whether ``value`` is a gradient transformation of optax."""
        # Who has one has imported optax, which takes a tenth of the time of all imports.
        optax = sys.modules.get("optax")
        return optax is not None and isinstance(value, optax.GradientTransformation)

    def init(self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]) -> Any:
        return self.transformation.init(problem.coordinates.to_user(params))

    def evaluate(
        self, problem: Problem, params: GLMParams, look: Look, state: Any
    ) -> OptaxCache:
        coordinates, inner = problem.coordinates, problem.penalised(params, look.gradient)
        # The chain rule through coef = a coef', intercept = intercept' - m coef.
        coef = inner.coef / coordinates.scale
        coef = coef + coordinates.centre[:, None] * inner.intercept[None, :]
        progress = Standing(
            objective=look.loss + problem.penalty_value(params.coef),
            optimality=tree_norm(inner),
            gap=jnp.zeros_like(look.loss),
            stalled=jnp.zeros((), bool),
        )
        return OptaxCache(GLMParams(coordinates.split(coef), inner.intercept), progress)

    def step(
        self, problem: Problem, params: GLMParams, state: Any, cache: OptaxCache
    ) -> tuple[GLMParams, Any, OptaxCache]:
        params, state, _ = self.update(problem, params, state, cache)
        look = problem.look(problem.predictor(params))
        return params, state, self.evaluate(problem, params, look, state)

    def update(
        self, problem: Problem, params: GLMParams, state: Any, cache: OptaxCache
    ) -> tuple[GLMParams, Any, OptaxCache]:
        import optax

        coordinates = problem.coordinates
        user = coordinates.to_user(params)
        updates, state = optax.with_extra_args_support(self.transformation).update(
            cache.gradient,
            state,
            user,
            value=cache.progress.objective,
            grad=cache.gradient,
            value_fn=lambda moved: problem.objective(coordinates.from_user(moved)),
        )
        params = coordinates.from_user(optax.apply_updates(user, updates))
        params = GLMParams(problem.masked(params.coef), params.intercept)
        return params, state, cache  # a look at where it led would double the cost

    def finish(self, problem: Problem, params: GLMParams, cache: OptaxCache) -> Standing:
        # The answer has no level of the classes, which gradients only creep along.
        answer = GLMParams(problem.level(params.coef), params.intercept)
        look = problem.look(problem.predictor(answer))
        return self.evaluate(problem, answer, look, None).progress
