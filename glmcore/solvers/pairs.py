"""What the last steps tell of the Hessian."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pairs(eqx.Module):
    r"""The last steps s and the changes y of gradient that they made, newest last.

    Every pair is scaled to ``<s, y> = 1``, so that with a model M of the inverse Hessian and R the
    upper triangle of ``<s_i, y_j>``, whose diagonal is one, the inverse Hessian of Byrd, Nocedal &
    Schnabel (1994, theorem 2.2) is

    .. math:: \gamma M + S^T R^{-T} (I + \gamma Y M Y^T) R^{-1} S
              - \gamma S^T R^{-T} Y M - \gamma M Y^T R^{-1} S

    A few products with matrices of ``memory`` rows, no recursion.
    """

    steps: Float[Array, "memory d"]
    smoothed: Float[Array, "memory d"]  # the model times each change
    inverse_triangle: Float[Array, "memory memory"]
    products: Float[Array, "memory memory"]  # of changes and smoothed changes

    @classmethod
    def empty(cls, like: Float[Array, " d"], memory: int) -> "Pairs":
        vectors = jnp.zeros((memory, like.size), like.dtype)
        square = jnp.zeros((memory, memory), like.dtype)
        return cls(vectors, vectors, square, square)

    def direction(self, gradient: Float[Array, " d"], smooth: Float[Array, " d"]) -> Float[Array, " d"]:
        """Minus the inverse Hessian times ``gradient``, of which the model makes ``smooth``."""
        last = self.products[-1, -1]
        # Scale of the model: the curvature seen last over the one expected.
        gamma = jnp.where(last > 0, 1 / jnp.where(last > 0, last, 1), 1)
        along = self.inverse_triangle @ (self.steps @ gradient)
        back = along + gamma * (self.products @ along - self.smoothed @ gradient)
        quasi_newton = (self.inverse_triangle.T @ back) @ self.steps
        return -(quasi_newton + gamma * (smooth - along @ self.smoothed))

    def remember(
        self, step: Float[Array, " d"], change: Float[Array, " d"], smoothed: Float[Array, " d"]
    ) -> "Pairs":
        """With another pair, of which the model makes ``smoothed`` from the change."""
        length = jnp.sqrt(step @ change)
        step, change, smoothed = step / length, change / length, smoothed / length
        # The triangle loses its first row and column and gains a last column <s_i, y>; the
        # inverse of a trailing block is the trailing block of the inverse.
        inverse, products = self.inverse_triangle[1:, 1:], self.smoothed[1:] @ change
        last = -inverse @ (self.steps[1:] @ change)
        return Pairs(
            steps=_push(self.steps, step),
            smoothed=_push(self.smoothed, smoothed),
            inverse_triangle=_bordered(inverse, last, jnp.zeros_like(last), jnp.ones_like(length)),
            products=_bordered(self.products[1:, 1:], products, products, change @ smoothed),
        )

    def forget(self) -> "Pairs":
        return jax.tree.map(jnp.zeros_like, self)


def _push(vectors: Float[Array, "memory d"], new: Float[Array, " d"]) -> Float[Array, "memory d"]:
    return jnp.concatenate([vectors[1:], new[None]])


def _bordered(
    block: Float[Array, "k k"],
    column: Float[Array, " k"],
    row: Float[Array, " k"],
    corner: Float[Array, ""],
) -> Float[Array, "k1 k1"]:
    top = jnp.concatenate([block, column[:, None]], axis=1)
    return jnp.concatenate([top, jnp.append(row, corner)[None, :]])
