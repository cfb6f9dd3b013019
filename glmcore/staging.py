"""Programs that stop to let the host pass over the data, and go on with what it found.

A function of JAX that calls :func:`sweep` is traced once and cut at these calls: what lies
between two of them is compiled, while the calls and the loops and branches around them are carried
out by the host.  So a solver is written once, whether its data are in memory or not.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import Array, PyTree

from glmcore.jit import hasty_options

_sweep_p = core.Primitive("sweep")
_sweep_p.multiple_results = True


@_sweep_p.def_abstract_eval
def _abstract_sweep(*operands: Any, kind: str, outputs: tuple) -> list:
    return [jax.core.ShapedArray(shape, dtype) for shape, dtype in outputs]


def sweep(kind: str, like: PyTree, *operands: Array) -> PyTree:
    """A pass over the data, made by the host: arrays of the shapes and dtypes of ``like``.

    Only inside a function that is :func:`staged`.
    """
    leaves, structure = jax.tree.flatten(like)
    outputs = tuple((tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in leaves)
    return jax.tree.unflatten(structure, _sweep_p.bind(*operands, kind=kind, outputs=outputs))


def staged(run_sweep: Callable[..., Sequence], function: Callable, *args: PyTree) -> PyTree:
    """``function(*args)``, in which ``run_sweep(kind, *operands)`` makes the passes.

    Traced and compiled once per function, types and shapes.
    """
    signature, arrays = _signature(function, args)
    plan, result = _planned(signature)
    return jax.tree.unflatten(result, plan.run(run_sweep, arrays))


class _Signature(NamedTuple):
    """A function, what is no array in its arguments, and the types of what is."""

    function: Callable
    structure: Any
    static: tuple
    is_array: tuple
    avals: tuple
    mesh: Any  # that of the context, which is part of the types inside

    def flat(self) -> tuple[Callable, list]:
        """The function of the arrays alone, and the list in which it puts its result's structure."""
        structures = []

        def function(*arrays):
            arrays = iter(arrays)
            pairs = zip(self.static, self.is_array)
            leaves = [next(arrays) if known else leaf for leaf, known in pairs]
            found = self.function(*jax.tree.unflatten(self.structure, leaves))
            found, structure = jax.tree.flatten(found)
            structures.append(structure)
            return found

        return function, structures

    @property
    def like(self) -> list[jax.ShapeDtypeStruct]:
        """The arrays, without their values."""
        return [jax.ShapeDtypeStruct(s, d, weak_type=weak) for s, d, weak in self.avals]


def _signature(function: Callable, args: tuple) -> tuple[_Signature, list[jax.Array]]:
    leaves, structure = jax.tree.flatten(args)
    is_array = tuple(isinstance(leaf, (jax.Array, np.ndarray, np.generic)) for leaf in leaves)
    static = tuple(None if known else leaf for leaf, known in zip(leaves, is_array))
    arrays = [jnp.asarray(leaf) for leaf, known in zip(leaves, is_array) if known]
    avals = tuple((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in arrays)
    mesh = jax.sharding.get_abstract_mesh()
    return _Signature(function, structure, static, is_array, avals, mesh), arrays


@functools.lru_cache(maxsize=64)
def _planned(signature: _Signature) -> tuple["_Plan", Any]:
    function, structures = signature.flat()
    plan = _Plan.of(jax.make_jaxpr(function)(*signature.like))
    return plan, structures[0]


class _Step(NamedTuple):
    """Values that are read, values that are written, and how one becomes the other."""

    inputs: tuple
    outputs: tuple
    run: Callable[[Callable, list], Sequence]


class _Plan(NamedTuple):
    """The steps of a program, some compiled and some of the host."""

    inputs: tuple
    constants: tuple
    outputs: tuple
    steps: tuple[_Step, ...]

    @classmethod
    def of(cls, closed: core.ClosedJaxpr) -> "_Plan":
        """The plan of a traced program, cut at its sweeps."""
        jaxpr = closed.jaxpr
        steps, quiet = [], []
        for index, eqn in enumerate(jaxpr.eqns):
            if _sweeps(eqn):
                _flush(steps, quiet, jaxpr, index)
                steps.append(_Step(tuple(eqn.invars), tuple(eqn.outvars), _of_host(eqn)))
            else:
                quiet.append(eqn)
        _flush(steps, quiet, jaxpr, len(jaxpr.eqns))
        inputs = (*jaxpr.constvars, *jaxpr.invars)
        return cls(inputs, tuple(closed.consts), tuple(jaxpr.outvars), tuple(steps))

    def run(self, run_sweep: Callable, arguments: Sequence) -> list:
        """What the program gives for ``arguments``, step by step."""
        values = dict(zip(self.inputs, (*self.constants, *arguments)))

        def read(atom):
            return atom.val if isinstance(atom, core.Literal) else values[atom]

        for step in self.steps:
            found = step.run(run_sweep, [read(atom) for atom in step.inputs])
            values.update(zip(step.outputs, found))
        return [read(atom) for atom in self.outputs]


def _sweeps(eqn: core.JaxprEqn) -> bool:
    if eqn.primitive is _sweep_p:
        return True
    inside = core.jaxprs_in_params(eqn.params)
    return any(_sweeps(inner) for jaxpr in inside for inner in jaxpr.eqns)


def _flush(steps: list, quiet: list, jaxpr: core.Jaxpr, end: int) -> None:
    """Compile the equations that have gathered, which no sweep interrupts."""
    if not quiet:
        return
    made = dict.fromkeys(var for eqn in quiet for var in eqn.outvars)
    read = [atom for eqn in quiet for atom in eqn.invars]
    later = {atom for eqn in jaxpr.eqns[end:] for atom in eqn.invars if isinstance(atom, core.Var)}
    later |= {atom for atom in jaxpr.outvars if isinstance(atom, core.Var)}
    free = [atom for atom in read if isinstance(atom, core.Var) and atom not in made]
    inputs, outputs = tuple(dict.fromkeys(free)), tuple(v for v in made if v in later)
    program = jax.jit(_evaluator(inputs, outputs, tuple(quiet)), compiler_options=hasty_options())
    steps.append(_Step(inputs, outputs, lambda run_sweep, values: program(*values)))
    quiet.clear()


def _evaluator(inputs: tuple, outputs: tuple, eqns: tuple) -> Callable[..., list]:
    """The function from ``inputs`` to ``outputs`` that equations of a traced program make up."""
    def evaluate(*arguments):
        values = dict(zip(inputs, arguments))
        for eqn in eqns:
            read = [a.val if isinstance(a, core.Literal) else values[a] for a in eqn.invars]
            params = eqn.primitive.get_bind_params(eqn.params)
            found = eqn.primitive.bind(*read, **params)
            values.update(zip(eqn.outvars, found if eqn.primitive.multiple_results else [found]))
        return [values[variable] for variable in outputs]

    return evaluate


def _of_host(eqn: core.JaxprEqn) -> Callable[[Callable, list], Sequence]:
    """A sweep, or a loop, branch or call with sweeps inside."""
    params = eqn.params
    if eqn.primitive is _sweep_p:
        return lambda run_sweep, values: run_sweep(params["kind"], *values)
    if eqn.primitive is primitives.while_p:
        return _loop(params)
    if eqn.primitive is primitives.cond_p:
        branches = [_Plan.of(branch) for branch in params["branches"]]
        return lambda run_sweep, values: branches[int(values[0])].run(run_sweep, values[1:])
    if eqn.primitive is primitives.jit_p or eqn.primitive.name == "custom_vmap_call":
        plan = _Plan.of(params["jaxpr" if "jaxpr" in params else "call"])
        return lambda run_sweep, values: plan.run(run_sweep, values)
    raise NotImplementedError(
        f"a solver that passes over the data inside of {eqn.primitive} cannot have them in batches"
    )


def _loop(params: dict) -> Callable[[Callable, list], Sequence]:
    condition, body = _Plan.of(params["cond_jaxpr"]), _Plan.of(params["body_jaxpr"])
    n_condition, n_body = params["cond_nconsts"], params["body_nconsts"]

    def run(run_sweep, values):
        of_condition, values = values[:n_condition], values[n_condition:]
        of_body, carry = values[:n_body], values[n_body:]
        while bool(condition.run(run_sweep, [*of_condition, *carry])[0]):
            carry = body.run(run_sweep, [*of_body, *carry])
        return carry

    return run
