"""scikit-learn estimators over ``glmcore``."""

from glmcore_sklearn.classifier import ClassifierGLM
from glmcore_sklearn.coefficients_display import CoefficientsDisplay
from glmcore_sklearn.convergence_display import ConvergenceDisplay
from glmcore_sklearn.fitting import StepResult
from glmcore_sklearn.labels import ClassesNotSetError
from glmcore_sklearn.logistic import LogisticRegression
from glmcore_sklearn.logistic_cv import LogisticRegressionCV
from glmcore_sklearn.names import SolverSpec
from glmcore_sklearn.path import RegularizationPath, regularization_path
from glmcore_sklearn.path_display import RegularizationPathDisplay
from glmcore_sklearn.persistence import load_model
from glmcore_sklearn.population import ClassifierPopulationGLM
from glmcore_sklearn.reliability_display import ReliabilityDisplay

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
