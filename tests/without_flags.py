"""Fits as users have them: compiled with the options of ``glmcore.jit``, which the flags of the tests turn off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import model, small

import glmcore
from glmcore import jit

X, Y = small()
X = X.astype(np.float32)


def fit(strength):
    return glmcore.fit(model(glmcore.Ridge(strength)), X, Y)


def main():
    assert jit.hasty_options()
    found, glm = fit(0.1), model(glmcore.Ridge(0.1))
    assert found.converged

    weights = np.stack([np.ones(60), np.r_[np.zeros(30), np.ones(30)]]).astype(np.float32)
    lanes = jax.vmap(lambda weight: glmcore.fit(glm, X, Y, sample_weight=weight))
    for many in (lanes(weights), jax.jit(lanes)(weights)):
        assert many.converged.all()
        np.testing.assert_allclose(many.params.coef[0], found.params.coef, atol=1e-4)

    slope = jax.grad(lambda strength: fit(strength).objective)
    expected = (fit(0.11).objective - fit(0.09).objective) / 0.02
    for derivative in (slope(0.1), jax.jit(slope)(0.1), jax.vmap(slope)(jnp.array([0.1]))[0]):
        np.testing.assert_allclose(derivative, expected, rtol=1e-2)

    streamed = glmcore.fit_batches(glm, [(X[:40], Y[:40]), (X[40:], Y[40:])])
    np.testing.assert_allclose(streamed.objective, found.objective, rtol=1e-6)

    for solver in (None, glmcore.Optax(optax.sgd(0.01))):
        state = glmcore.init_state(glm, found.params, X, Y, solver=solver)
        params, _ = glmcore.update(glm, found.params, state, X, Y, solver=solver)
        np.testing.assert_allclose(params.coef, found.params.coef, atol=1e-3)

    path = glmcore.regularization_path(model(glmcore.Lasso()), X, Y, n_strengths=5)
    assert path.converged.all() and path.nonzeros[0] == 0


if __name__ == "__main__":
    main()
