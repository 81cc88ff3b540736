"""Gradient methods: one graph for every output position, gradients batched over positions."""

from explain.attribution.gradients import first_order, integrated

METHODS = (*first_order.METHODS, *integrated.METHODS)

__all__ = ["METHODS"]
