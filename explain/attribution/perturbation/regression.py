"""Linear surrogates of a row: from versions of an input and their values to a weight for every feature.

Weights are those of the features that can influence the row; all others are exactly 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

# (present [n, own features] and values [n], both double) -> weights [own features]
Fit = Callable[[Tensor, Tensor], Tensor]


def each_row(present: Tensor, values: Tensor, relevant: Tensor, fit: Callable[[int], Fit]) -> Tensor:
    """Fit every row on its own features.

    Args:
        present: bool [n, features], the versions.
        values: [n, rows], the explained numbers.
        relevant: bool [rows, features].
        fit: the fit of a row.

    Returns:
        double [rows, features]; nan where a row has a value that is not finite.
    """
    weights = torch.zeros(relevant.shape, dtype=torch.float64)
    features, values = present.double(), values.double()
    for row, own in enumerate(relevant):
        if not bool(values[:, row].isfinite().all()):
            weights[row, own] = torch.nan
        elif bool(own.any()):
            weights[row, own] = fit(row)(features[:, own], values[:, row])
    return weights


def solve(gram: Tensor, right: Tensor) -> Tensor:
    """The smallest x with gram @ x = right: [n, n] symmetric, [n] -> [n]."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal()
    if not bool(failed) and float(pivots.min()) > 1e-6 * float(pivots.max()):
        return torch.cholesky_solve(right[:, None], factor)[:, 0]
    return torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ right


def shapley_fit(low: float, high: float, weights: Tensor) -> Fit:
    """Least squares with weights [n] under the constraint that a row's scores add up to high - low.

    With all versions and the Shapley kernel as weights these are the Shapley values (Lundberg & Lee 2017).
    """

    def fit(present: Tensor, values: Tensor) -> Tensor:
        count = present.shape[1]
        share = (high - low) / count
        # What is left to explain after even shares, by weights that add up to 0.
        rest = values - low - present.sum(1) * share
        across = present - present.mean(1, keepdim=True)
        gram = across.T @ (weights[:, None] * across)
        # Only sums of 0 are asked for, so whatever the sum would cost changes nothing.
        gram = gram + gram.diagonal().mean() / count
        return share + solve(gram, across.T @ (weights * rest))

    return fit


def ridge_fit(alpha: float, weights: Callable[[Tensor], Tensor]) -> Fit:
    """Ridge regression with an intercept: mean squared error + alpha · Σ w²."""

    def fit(present: Tensor, values: Tensor) -> Tensor:
        share = weights(present)
        share = share / share.sum()
        across = present - share @ present
        gram = across.T @ (share[:, None] * across)
        gram.diagonal().add_(alpha)
        return solve(gram, across.T @ (share * (values - share @ values)))

    return fit


def lasso_fit(
    alpha: float, weights: Callable[[Tensor], Tensor] | None = None, *, standardised: bool = False
) -> Fit:
    """The LASSO with an intercept: half the mean squared error + alpha · Σ |w|, scikit-learn's.

    `standardised` counts a weight by what its feature's standard deviation does with it.
    """

    def fit(present: Tensor, values: Tensor) -> Tensor:
        if bool((values == values[0]).all()):
            return torch.zeros(present.shape[1], dtype=present.dtype)
        # Imported late: it takes a second, and only these methods need it.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import Lasso

        deviation = present.std(0, unbiased=False) if standardised else torch.ones(present.shape[1])
        deviation = torch.where(deviation > 0, deviation, 1.0)
        sample_weight = None if weights is None else weights(present).numpy()
        made = Lasso(alpha=alpha, max_iter=10_000, tol=1e-6)
        with warnings.catch_warnings():
            # The last digits of a fit that has not settled after 10,000 rounds do not matter here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            made.fit((present / deviation).numpy(), values.numpy(), sample_weight=sample_weight)
        return torch.from_numpy(made.coef_) / deviation

    return fit
