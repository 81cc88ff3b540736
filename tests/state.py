"""Everything about a model that an analysis must leave as it was."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(hf: PreTrainedModel) -> dict[str, Any]:
    """Parameters, mode, gradients, attention implementation, hooks, and torch's random state."""
    return {
        "parameters": {name: p.detach().clone() for name, p in hf.named_parameters()},
        "gradients": {name: (p.requires_grad, p.grad is None) for name, p in hf.named_parameters()},
        "training": {name: m.training for name, m in hf.named_modules()},
        "attention": {
            name: m.config._attn_implementation
            for name, m in hf.named_modules()
            if isinstance(m, PreTrainedModel)
        },
        "hooks": {name: [list(getattr(m, h)) for h in HOOKS] for name, m in hf.named_modules()},
        "random": torch.get_rng_state(),
        "grad_enabled": torch.is_grad_enabled(),
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare two states, parameters bit by bit."""
    for name, parameter in before["parameters"].items():
        assert torch.equal(parameter, after["parameters"][name]), name
    assert torch.equal(before["random"], after["random"])
    for key in ("gradients", "training", "attention", "hooks", "grad_enabled"):
        assert before[key] == after[key], key
