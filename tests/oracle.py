"""A slow, plain float64 twin of the library, written with NumPy and SciPy only: the oracle of the tests.

Model: eta_i = x_i . coef + intercept, P(y_i = k) = softmax(eta_i)_k, with coef (p, K) and intercept (K,).
Objective: sum_i w_i NLL_i / sum_i w_i + penalty(coef); the intercept is never penalised.
Nothing here imports the code under test, and every formula is worked out by hand.
"""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

EPS = np.finfo(np.float64).eps


# ---------------------------------------------------------------- the loss

def _normalised(weight, n):
    weight = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
    return weight / weight.sum()


def log_proba(coef, intercept, X):
    """log softmax(X coef + intercept), shape (n, K)."""
    return log_softmax(X @ coef + intercept, axis=1)


def loss(coef, intercept, X, y, weight=None):
    """Weighted mean of -log P(y_i)."""
    return -_normalised(weight, len(y)) @ log_proba(coef, intercept, X)[np.arange(len(y)), y]


def loss_gradient(coef, intercept, X, y, weight=None):
    """(X' R, 1' R) with R_ik = w_i (P_ik - [y_i = k]) / sum w."""
    residual = np.exp(log_proba(coef, intercept, X))
    residual[np.arange(len(y)), y] -= 1.0
    residual *= _normalised(weight, len(y))[:, None]
    return X.T @ residual, residual.sum(axis=0)


# ---------------------------------------------------------------- the penalties

def _soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0.0)


class _Separable:
    """sum l1 |w| + l2 w^2 / 2, with l1 and l2 scalars or arrays that broadcast to coef."""

    def __init__(self, l1, l2):
        self.l1, self.l2 = np.asarray(l1, dtype=np.float64), np.asarray(l2, dtype=np.float64)

    def _strengths(self, coef):
        return np.broadcast_to(self.l1, coef.shape), np.broadcast_to(self.l2, coef.shape)

    def value(self, coef):
        return float(np.sum(self.l1 * np.abs(coef) + 0.5 * self.l2 * coef**2))

    def prox(self, coef, step):
        """argmin_u |u - v|^2 / 2 + step penalty(u) = soft(v, step l1) / (1 + step l2)."""
        return _soft(coef, step * self.l1) / (1.0 + step * self.l2)

    def least_subgradient(self, coef, grad):
        """g + l2 w + l1 sign(w); at w = 0 the interval g + [-l1, l1] is nearest to 0 at soft(g, l1)."""
        return np.where(coef == 0, _soft(grad, self.l1), grad + self.l2 * coef + self.l1 * np.sign(coef))

    # What the reference solver needs besides.
    def unpenalised(self, shape):
        return np.broadcast_to((self.l1 == 0) & (self.l2 == 0), shape)

    def scales(self, std, K):
        return np.repeat(std[:, None], K, axis=1)

    def rescaled(self, scale):
        """The same penalty as a function of w' = scale * w."""
        return _Separable(self.l1 / scale, self.l2 / scale**2)

    def smooth_at(self, coef):
        """Entries along which the penalty has a derivative."""
        return (coef != 0) | (self._strengths(coef)[0] == 0)

    def hessian(self, coef):
        return np.diag(self._strengths(coef)[1].ravel())

    def stop_at_kink(self, old, new):
        return np.where((old * new < 0) & (self._strengths(old)[0] > 0), 0.0, new)

    def settle(self, coef):
        """Shift every row to its best level t, which the loss does not see: argmin_t penalty(row - t).

        Without l2 these are the l1-weighted medians; of an interval of them the point nearest to the
        row's mean leaves the least norm.
        """
        coef = coef.copy()
        for row, l1, l2 in zip(coef, *self._strengths(coef)):
            order = np.argsort(row)
            c, l1, l2 = row[order], l1[order], l2[order]
            # The slope in t just right of each entry, which equal strengths may not cancel exactly.
            right = 2.0 * np.cumsum(l1) - l1.sum() + c * l2.sum() - l2 @ c
            slack = 1e-12 * l1.sum()
            if l2.any():
                # In exact arithmetic some slope is >= 0; rounding can leave the last just below.
                j = np.argmax(right >= 0) if (right >= 0).any() else len(c) - 1
                row -= c[j] - max(right[j] - 2.0 * l1[j], 0.0) / l2.sum()
            elif l1.any():
                row -= np.clip(row.mean(), c[np.argmax(right >= -slack)], c[np.argmax(right > slack)])
            else:
                row -= row.mean()
        return coef

    def blocks(self, shape):
        return [np.array([i]) for i in range(np.prod(shape))]


class UnRegularized(_Separable):
    """0."""

    def __init__(self):
        super().__init__(0.0, 0.0)


class Ridge(_Separable):
    """s sum w^2 / 2."""

    def __init__(self, strength=1.0):
        super().__init__(0.0, strength)


class Lasso(_Separable):
    """s sum |w|."""

    def __init__(self, strength=1.0):
        super().__init__(strength, 0.0)


class ElasticNet(_Separable):
    """s (r sum |w| + (1 - r) sum w^2 / 2)."""

    def __init__(self, strength=1.0, ratio=0.5):
        strength, ratio = np.asarray(strength, dtype=np.float64), np.asarray(ratio, dtype=np.float64)
        super().__init__(strength * ratio, strength * (1.0 - ratio))


class GroupLasso:
    """sum_g s_g sqrt(size_g) |w_g|_2; mask (n_groups, p, K) of 0/1, by default one group per feature."""

    def __init__(self, strength=1.0, mask=None):
        self.strength = np.asarray(strength, dtype=np.float64)
        self.mask = None if mask is None else np.asarray(mask) != 0
        if self.mask is not None and (self.mask.sum(axis=0) > 1).any():
            raise ValueError("groups overlap")

    def _groups(self, shape):
        """The group of each entry (n_groups where it has none), and each group's s sqrt(size)."""
        if self.mask is None:
            labels, n = np.repeat(np.arange(shape[0])[:, None], shape[1], axis=1), shape[0]
        else:
            n = len(self.mask)
            labels = np.where(self.mask.any(axis=0), self.mask.argmax(axis=0), n)
        sizes = np.bincount(labels.ravel(), minlength=n + 1)
        # The last slot gathers the entries in no group: weight 0.
        return labels, np.append(np.broadcast_to(self.strength, (n,)), 0.0) * np.sqrt(sizes)

    def _norms(self, labels, lam, v):
        return np.sqrt(np.bincount(labels.ravel(), (v**2).ravel(), minlength=len(lam)))

    def _shrunk(self, v, step):
        """Every group v_g times (1 - step lam_g / |v_g|)_+."""
        labels, lam = self._groups(v.shape)
        norms = self._norms(labels, lam, v)
        factor = np.maximum(1.0 - step * lam / np.where(norms > 0, norms, 1.0), 0.0)
        return v * factor[labels]

    def value(self, coef):
        labels, lam = self._groups(coef.shape)
        return float(lam @ self._norms(labels, lam, coef))

    def prox(self, coef, step):
        """v_g (1 - step lam_g / |v_g|)_+ in each group."""
        return self._shrunk(coef, step)

    def least_subgradient(self, coef, grad):
        """g + lam w / |w|; a zero group adds a ball of radius lam to g, so g shrinks by lam."""
        labels, lam = self._groups(coef.shape)
        norms = self._norms(labels, lam, coef)
        slope = lam / np.where(norms > 0, norms, 1.0)
        return np.where((norms > 0)[labels], grad + slope[labels] * coef, self._shrunk(grad, 1.0))

    def unpenalised(self, shape):
        labels, lam = self._groups(shape)
        return (lam == 0)[labels]

    def scales(self, std, K):
        """One scale a group, the geometric mean over its entries: the norm stays a norm."""
        own = np.repeat(std[:, None], K, axis=1)
        labels, lam = self._groups(own.shape)
        size = np.bincount(labels.ravel(), minlength=len(lam))
        mean_log = np.bincount(labels.ravel(), np.log(own).ravel(), minlength=len(lam)) / np.maximum(size, 1)
        return np.where(labels == len(lam) - 1, own, np.exp(mean_log)[labels])

    def rescaled(self, scale):
        labels, lam = self._groups(scale.shape)
        group_scale = np.ones(len(lam))
        group_scale[labels.ravel()] = scale.ravel()
        mask = labels == np.arange(len(lam) - 1)[:, None, None]
        return GroupLasso(self.strength / group_scale[:-1], mask)

    def smooth_at(self, coef):
        labels, lam = self._groups(coef.shape)
        return ((self._norms(labels, lam, coef) > 0) | (lam == 0))[labels]

    def hessian(self, coef):
        """lam (I / |w| - w w' / |w|^3) in each nonzero group."""
        labels, lam = self._groups(coef.shape)
        norms = self._norms(labels, lam, coef)
        flat, out = coef.ravel(), np.zeros((coef.size, coef.size))
        for group in np.flatnonzero((norms > 0) & (lam > 0)):
            at = np.flatnonzero(labels.ravel() == group)
            unit = flat[at] / norms[group]
            out[np.ix_(at, at)] = lam[group] / norms[group] * (np.eye(len(at)) - np.outer(unit, unit))
        return out

    def stop_at_kink(self, old, new):
        return new

    def settle(self, coef):
        """A row inside one group has the least norm at mean zero."""
        labels = self._groups(coef.shape)[0]
        whole = (labels == labels[:, :1]).all(axis=1, keepdims=True)
        return coef - np.where(whole, coef.mean(axis=1, keepdims=True), 0.0)

    def blocks(self, shape):
        labels, lam = self._groups(shape)
        alone = [np.array([i]) for i in np.flatnonzero(labels.ravel() == len(lam) - 1)]
        return alone + [np.flatnonzero(labels.ravel() == g) for g in np.unique(labels) if g < len(lam) - 1]


def brute_force_prox(penalty, v, step):
    """argmin_u |u - v|^2 / 2 + step penalty.value(u) by numerical search, block by block, to about 1e-7."""
    v = np.asarray(v, dtype=np.float64)
    u, rng = np.zeros(v.size), np.random.default_rng(0)
    for block in penalty.blocks(v.shape):
        target = v.ravel()[block]

        def cost(part):
            alone = np.zeros(v.size)
            alone[block] = part
            return 0.5 * np.sum((part - target) ** 2) + step * penalty.value(alone.reshape(v.shape))

        reach = 1.0 if len(block) > 1 else np.abs(target[0]) + 1.0
        direction = target if len(block) > 1 else np.ones(1)
        line = minimize_scalar(lambda t: cost(t * direction), bounds=(-reach, reach), method="bounded",
                               options={"xatol": 1e-11})
        candidates = [np.zeros(len(block)), line.x * direction]
        if len(block) > 1:  # general starts too, so that the answer does not rest on the radial form alone
            for start in (target, 0.5 * target + 0.3 * rng.standard_normal(len(block))):
                candidates.append(minimize(cost, start, options={"gtol": 1e-9}).x)
        u[block] = min(candidates, key=cost)
    return u.reshape(v.shape)


# ---------------------------------------------------------------- the objective and its optimality

def objective(penalty, coef, intercept, X, y, weight=None):
    """loss + penalty.value(coef)."""
    return loss(coef, intercept, X, y, weight) + penalty.value(coef)


def centre_and_scale(X, weight=None):
    """Weighted mean, centred X and weighted std; constant columns give exact zeros and std 1."""
    weight = _normalised(weight, len(X))
    used = X[weight > 0]
    mean = weight @ X
    constant = (used == used[0]).all(axis=0)
    centred = np.where(constant, 0.0, X - mean)
    std = np.sqrt(weight @ centred**2)
    return mean, centred, np.where(constant, 1.0, std)


def null_intercept(y, K, weight=None):
    """log class frequencies minus their mean."""
    frequencies = np.bincount(y, _normalised(weight, len(y)), minlength=K)
    if (frequencies == 0).any():
        raise ValueError("the oracle wants every class to have weight")
    return np.log(frequencies) - np.log(frequencies).mean()


def kkt_residual(penalty, coef, intercept, X, y, weight=None):
    """|least-norm subgradient|_2 in centred and scaled coordinates, relative to the null model's loss gradient.

    With coef' = scale * coef and the intercept taken at the mean of X, a gradient at centred X is divided
    by scale. One scale where the penalty couples entries, so "least norm" means the same on both sides.
    """
    X, coef, intercept = (np.asarray(a, dtype=np.float64) for a in (X, coef, intercept))
    mean, centred, std = centre_and_scale(X, weight)
    scale = penalty.scales(std, coef.shape[1])
    # Same predictor, but rounded at the size of the centred data.
    grad, grad_intercept = loss_gradient(coef, intercept + mean @ coef, centred, y, weight)
    least = penalty.least_subgradient(coef, grad) / scale
    null = loss_gradient(np.zeros_like(coef), null_intercept(y, coef.shape[1], weight), centred, y, weight)[0] / scale
    # Without any varying feature the null model is the answer, and there is nothing to be relative to.
    return float(np.sqrt(np.sum(least**2) + np.sum(grad_intercept**2)) / (np.linalg.norm(null) or 1.0))


# ---------------------------------------------------------------- the reference fit

class _Scaled:
    """The problem over theta = (scale * coef; intercept at the mean of X), shape (p + 1, K)."""

    def __init__(self, penalty, centred, scale, y, weight):
        self.A = np.column_stack([centred, np.ones(len(centred))])
        self.T = np.vstack([scale, np.ones(scale.shape[1])])
        self.penalty, self.y, self.weight = penalty.rescaled(scale), y, _normalised(weight, len(y))
        # diag(P) - P P' is at most I / 2, so this bounds the curvature of the loss.
        self.lipschitz = 0.5 * max(np.linalg.norm(np.sqrt(self.weight)[:, None] * self.A / column, 2) ** 2
                                   for column in self.T.T)

    def value(self, theta):
        return loss(theta / self.T, 0.0, self.A, self.y, self.weight) + self.penalty.value(theta[:-1])

    def loss_gradient(self, theta):
        return loss_gradient(theta / self.T, 0.0, self.A, self.y, self.weight)[0] / self.T

    def least_subgradient(self, theta):
        grad = self.loss_gradient(theta)
        grad[:-1] = self.penalty.least_subgradient(theta[:-1], grad[:-1])
        return grad

    def hessian(self, theta):
        """sum_i w_i (a_i a_i') x (diag(P_i) - P_i P_i') plus the penalty's, over theta.ravel()."""
        (n, rows), K = self.A.shape, theta.shape[1]
        P = np.exp(log_proba(theta / self.T, 0.0, self.A))
        others = P @ (1.0 - np.eye(K))  # 1 - P without its cancellation
        H = np.empty((rows, K, rows, K))
        for k in range(K):
            for m in range(k + 1):
                curvature = self.weight * P[:, k] * (others[:, k] if k == m else -P[:, m])
                H[:, k, :, m] = H[:, m, :, k] = self.A.T @ (curvature[:, None] * self.A)
        H = H.reshape(rows * K, rows * K) / np.outer(self.T, self.T)
        H[:-K, :-K] += self.penalty.hessian(theta[:-1])
        return H

    def newton_step(self, theta):
        """-H^-1 g over the entries where the objective is smooth; the others stay where they are, at zero."""
        grad = self.least_subgradient(theta).ravel()
        free = np.append(self.penalty.smooth_at(theta[:-1]), np.ones(theta.shape[1], bool))
        H = self.hessian(theta)[np.ix_(free, free)]
        diagonal = np.sqrt(np.where(np.diag(H) > 0, np.diag(H), 1.0))
        # The levels that softmax ignores make H singular: a relative 1e-12 picks a short step there.
        step, correlation = np.zeros(theta.size), H / np.outer(diagonal, diagonal)
        for damping in (1e-12, 1e-9, 1e-6):
            try:
                factor = cho_factor(correlation + damping * np.eye(len(H)))
            except LinAlgError:  # nearly separable: the curvature is lost in rounding
                continue
            step[free] = -cho_solve(factor, grad[free] / diagonal) / diagonal
            break
        return step.reshape(theta.shape)

    def newton(self, theta, steps):
        """Damped Newton; an entry that would cross a kink stops there."""
        for _ in range(steps):
            step, before = self.newton_step(theta), self.value(theta)
            norm, slack = np.linalg.norm(self.least_subgradient(theta)), 1e-13 * abs(before)
            for shrink in 0.5 ** np.arange(30):
                new = theta + shrink * step
                new[:-1] = self.penalty.stop_at_kink(theta[:-1], new[:-1])
                after = self.value(new)
                # Below the rounding of the objective only the subgradient can tell progress.
                if after < before - slack or (
                        after < before + slack and np.linalg.norm(self.least_subgradient(new)) < norm / 2):
                    theta = new
                    break
            else:
                break
        return theta

    def fista(self, theta, steps):
        """Accelerated proximal gradient with restarts: finds which entries are zero."""
        ahead, momentum = theta, 1.0
        for _ in range(steps):
            new = ahead - self.loss_gradient(ahead) / self.lipschitz
            new[:-1] = self.penalty.prox(new[:-1], 1.0 / self.lipschitz)
            if np.sum((ahead - new) * (new - theta)) > 0:
                momentum = 1.0
            following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
            ahead, theta, momentum = new + (momentum - 1.0) / following * (new - theta), new, following
        return theta


def _least_norm(coef, centred, std, X, penalty):
    """Remove from coef what neither the loss nor the penalty sees: v on unpenalised entries, X v level in k.

    The rank is judged on columns of unit size; the norm that becomes least is that of coef itself.
    """
    p, K = coef.shape
    loose = penalty.unpenalised(coef.shape).ravel()
    if not loose.any():
        return coef
    triangle = np.linalg.qr(centred / std, mode="r")
    seen = np.kron(triangle, np.eye(K) - 1.0 / K)[:, loose]
    _, sizes, right = np.linalg.svd(seen)
    # Data at a distance from zero are known no better than their rounding relative to the spread.
    blur = np.max(np.abs(X).max(axis=0) / std * (centred != 0).any(axis=0), initial=1.0)
    rank = np.sum(sizes > EPS * max(X.shape) * blur * sizes.max(initial=0.0))
    hidden = right[rank:].T / np.repeat(std, K)[loose][:, None]
    # Unit columns first: the scales of the features must not decide what QR keeps.
    basis = np.linalg.qr(hidden / np.linalg.norm(hidden, axis=0))[0]
    flat = coef.ravel().copy()
    for _ in range(2):  # the second pass removes the rounding of the first
        flat[loose] -= basis @ (basis.T @ flat[loose])
    return flat.reshape(p, K)


def reference_fit(penalty, X, y, K, weight=None, tol=1e-12):
    """(coef, intercept, objective) at an optimum whose relative KKT residual is at most max(tol, 1e-9).

    Aims at tol; RuntimeError where not even 1e-9 is reached (a problem without an optimum, for one).
    Of equivalent optima the least-norm one as far as levels and unpenalised entries go; sparse penalties
    on rank-deficient X, and rows cut into several groups, are returned as found.
    """
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y)
    if weight is not None:  # rows without weight must not count in anything
        weight = np.asarray(weight, dtype=np.float64)
        X, y, weight = X[weight > 0], y[weight > 0], weight[weight > 0]
    mean, centred, std = centre_and_scale(X, weight)
    scale = penalty.scales(std, K)
    problem = _Scaled(penalty, centred, scale, y, weight)
    theta = np.zeros((X.shape[1] + 1, K))
    theta[-1] = null_intercept(y, K, weight)
    unit = np.linalg.norm(problem.loss_gradient(theta)[:-1]) or 1.0
    has_kinks = not penalty.smooth_at(np.zeros((X.shape[1], K))).all()

    best, best_residual, stalled = theta, np.inf, 0
    for _ in range(400):
        if has_kinks:
            theta = problem.fista(theta, 50)
            theta[:-1] = problem.penalty.settle(theta[:-1])
        theta = problem.newton(theta, 10)
        theta[:-1] = problem.penalty.settle(theta[:-1])
        residual = np.linalg.norm(problem.least_subgradient(theta)) / unit
        stalled = 0 if residual < 0.5 * best_residual else stalled + 1
        if residual < best_residual:
            best, best_residual = theta, residual
        if best_residual <= tol or (stalled >= 5 and best_residual <= 1e-9):
            break
    if best_residual > max(tol, 1e-9):
        raise RuntimeError(f"no optimum found: relative KKT residual {best_residual:.1e}")
    # On separable data the gradient fades while every Newton step still adds to the margins.
    move = problem.A @ (problem.newton_step(best) / problem.T)
    if np.ptp(move - move.mean(axis=1, keepdims=True)) > 1e-3:
        raise RuntimeError("the optimum is at infinity: the classes are separable")

    # Once more on levels, which the projection leaves in rounding that small columns make visible.
    coef = penalty.settle(_least_norm(best[:-1] / scale, centred, std, X, penalty))
    intercept = best[-1] - mean @ coef
    intercept -= intercept.mean()
    return coef, intercept, objective(penalty, coef, intercept, X, y, weight)


# ---------------------------------------------------------------- data

def load(name):
    """(X float64, y int): raw scikit-learn sets, or a small random problem moved and stretched.

    iris, wine, breast_cancer, digits; shifted (X + 100), scaled (columns times 1e-3, 1, 1e2, 1e4),
    shifted_scaled (both), far (X + 1e4).
    """
    if name in ("iris", "wine", "breast_cancer", "digits"):
        from sklearn import datasets

        X, y = getattr(datasets, "load_" + name)(return_X_y=True)
        return np.asarray(X, dtype=np.float64), y.astype(int)
    shift, stretch = {
        "shifted": (100.0, 1.0),
        "scaled": (0.0, np.array([1e-3, 1.0, 1e2, 1e4])),
        "shifted_scaled": (100.0, np.array([1e-3, 1.0, 1e2, 1e4])),
        "far": (1e4, 1.0),
    }[name]
    rng = np.random.default_rng(7)
    X, truth = rng.standard_normal((60, 4)), rng.standard_normal((4, 3))
    y = np.argmax(X @ truth + rng.gumbel(size=(60, 3)), axis=1)  # Gumbel noise: a draw from the softmax
    return (X + shift) * stretch, y
