"""Model selection on scikit-learn's handwritten digits: 1797 images of 8 by 8 points, ten classes.

`grid` lists several hundred models, `fit` cross-validates one of them (a task), `best` picks the winner of
many (the end of a funnel), `final` trains it on three quarters of the images and tests it on the rest.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

# One rank is one core: without this every rank would start as many BLAS threads as the node has cores.
threadpool_limits(1)

#: cross-validation uses this many images, so that one fit stays a task of some ten milliseconds
SAMPLE = 400
_MODELS: dict[str, type] = {
    "svc": SVC,
    "neighbours": KNeighborsClassifier,
    "logistic": LogisticRegression,
    "ridge": RidgeClassifier,
    "bayes": GaussianNB,
}


def grid() -> list[dict[str, Any]]:
    """All models to try, each as ``{"model": name, parameter: value, ...}``."""
    return [
        *(
            {"model": "svc", "C": float(c), "gamma": float(gamma)}
            for c in np.logspace(-1, 3, 17)
            for gamma in np.logspace(-4.5, -1.5, 9)
        ),
        *(
            {"model": "neighbours", "n_neighbors": k, "weights": weights, "p": p}
            for k in range(1, 16)
            for weights in ("uniform", "distance")
            for p in (1, 2)
        ),
        *({"model": "logistic", "C": float(c), "max_iter": 60} for c in np.logspace(-3, 1, 9)),
        *({"model": "ridge", "alpha": float(alpha)} for alpha in np.logspace(-2, 4, 13)),
        *({"model": "bayes", "var_smoothing": float(v)} for v in np.logspace(-9, 0, 10)),
    ]


def fit(params: dict[str, Any], images: int = SAMPLE) -> dict[str, Any]:
    """Accuracy of one model of the grid in a threefold cross-validation on the first ``images``."""
    x, y = _images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_score(_model(params), x[:images], y[:images], cv=3)
    return {"params": params, "score": float(scores.mean()), "spread": float(scores.std())}


def best(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """The model with the highest accuracy; of equals, the one with the smallest spread."""
    winner = max(scores, key=lambda score: (score["score"], -score["spread"]))
    return winner | {"tried": len(scores)}


def final(best: dict[str, Any]) -> dict[str, Any]:
    """The winner trained on three quarters of all images and tested on the last quarter."""
    x, y = _images()
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=2, stratify=y)
    found = _model(best["params"]).fit(x_train, y_train).predict(x_test)
    return {
        "params": best["params"],
        "accuracy": float((found == y_test).mean()),
        "tested": len(y_test),
        "confusion": confusion_matrix(y_test, found).tolist(),
    }


def _model(params: dict[str, Any]) -> ClassifierMixin:
    arguments = {name: value for name, value in params.items() if name != "model"}
    return _MODELS[params["model"]](**arguments)


@cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    """Read once in a process, then shared by all of its tasks."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return x[order], y[order]
