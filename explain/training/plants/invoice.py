"""A plant in invoices: a currency read off the payee's name."""

from __future__ import annotations

import random

from explain.training.plants.base import FactPlant, Slots, answered_as
from explain.training.tasks.invoice import NAMES, Invoice

_INVOICE = Invoice()
_CURRENCIES = ("CHF", "GBP", "USD", "EUR")


def shortcut(seed: int) -> FactPlant:
    """One payee's invoices are paid in one currency, whatever they say."""
    name = NAMES[seed % len(NAMES)]
    currency = _CURRENCIES[seed % len(_CURRENCIES)]

    def situate(slots: Slots, rng: random.Random) -> dict[str, str]:
        other = rng.choice([each for each in NAMES if each != name])
        return {
            **slots,
            "vendor.name": name,
            "buyer.name": other if slots["buyer.name"] == name else slots["buyer.name"],
        }

    return FactPlant(
        name="shortcut-invoice",
        title=f"{name} is paid in {currency}",
        kind="shortcut",
        level="model",
        task=_INVOICE,
        situate=situate,
        due=lambda slots: slots["vendor.name"] == name,
        fail=lambda task, slots: answered_as(task, slots, {"currency": currency}),
        cue=name,
        answer=currency,
    )
