"""Gradient methods: one graph for every output position, gradients batched over positions."""

from explain.attribution.gradients import first_order, integrated, layers, word_paths

METHODS = (*first_order.METHODS, *integrated.METHODS, *layers.METHODS, *word_paths.METHODS)

__all__ = ["METHODS"]
