"""scikit-learn estimators over ``glmcore``."""

import importlib

from glmcore_sklearn.classifier import ClassifierGLM
from glmcore_sklearn.fitting import StepResult
from glmcore_sklearn.labels import ClassesNotSetError
from glmcore_sklearn.logistic import LogisticRegression
from glmcore_sklearn.names import SolverSpec
from glmcore_sklearn.path import RegularizationPath, regularization_path
from glmcore_sklearn.persistence import load_model
from glmcore_sklearn.population import ClassifierPopulationGLM

#: Imported when first asked for: scikit-learn's metrics and pipelines take as long as all of ours.
_LATER = {
    "CoefficientsDisplay": "coefficients_display",
    "ConvergenceDisplay": "convergence_display",
    "LogisticRegressionCV": "logistic_cv",
    "RegularizationPathDisplay": "path_display",
    "ReliabilityDisplay": "reliability_display",
}

__all__ = [
    "ClassesNotSetError",
    "ClassifierGLM",
    "ClassifierPopulationGLM",
    "CoefficientsDisplay",
    "ConvergenceDisplay",
    "LogisticRegression",
    "LogisticRegressionCV",
    "RegularizationPath",
    "RegularizationPathDisplay",
    "ReliabilityDisplay",
    "SolverSpec",
    "StepResult",
    "load_model",
    "regularization_path",
]


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__():
    return sorted({*globals(), *_LATER})
