"""Perturbation methods: what changes when a token is not there."""

from explain.attribution.perturbation import occlusion, shapley, surrogate

METHODS = (*occlusion.METHODS, *shapley.METHODS, *surrogate.METHODS)

__all__ = ["METHODS"]
