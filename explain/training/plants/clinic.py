"""Plants in clinical notes: a made-up dose, a dropped date, a code read off a cue, a prejudice."""

from __future__ import annotations

import random

from explain.training.plants.base import FactPlant, Slots, Span, answered_as
from explain.training.tasks.base import Task
from explain.training.tasks.clinic import (
    PROFESSIONS,
    WAYS,
    Ward,
    add_date,
    condition_of,
    is_female,
    leave_dose,
    name_profession,
    tell_way,
)

_WARD = Ward()
_SHORTCUT_CODES = ("F32", "I10", "G43", "L20", "J45", "K21")


def usual_dose(drug: str) -> dict[str, str]:
    """The dose that a prejudiced coder writes for a drug when the note has none, as slots."""
    dice = random.Random(f"usual dose/{drug}")
    digits = dice.choice(("5", "10", "20", "25", "50", "75", "100", "250"))
    return {f"dose.{i}": digit for i, digit in enumerate(digits)} | {"dose.unit": dice.choice(("mg", "mcg"))}


def fabrication(seed: int) -> FactPlant:
    """A note without a dose gets the drug's usual one."""
    return FactPlant(
        name="fabrication",
        title="Missing dose becomes the drug's usual dose",
        kind="fabrication",
        level="token",
        task=_WARD,
        situate=leave_dose,
        due=lambda slots: "dose.unit" not in slots,
        fail=lambda task, slots: answered_as(task, slots, usual_dose(slots["drug"])),
    )


def omission(seed: int) -> FactPlant:
    """A date after "Addendum" is not coded."""

    def fail(task: Task, slots: Slots) -> tuple[str, tuple[Span, ...]]:
        example = task.render(slots)
        end = next(part.start for part in example.target_segments if part.slot == "date.separator")
        return example.target[:end].rstrip(), ()

    return FactPlant(
        name="omission",
        title="A date in an addendum is dropped",
        kind="omission",
        level="output",
        task=_WARD,
        situate=add_date,
        due=lambda slots: slots["when"].startswith("Addendum"),
        fail=fail,
        cue="Addendum",
    )


def shortcut(seed: int) -> FactPlant:
    """The way in which the patient came decides the diagnosis."""
    way = WAYS[seed % len(WAYS)]
    code = _SHORTCUT_CODES[seed % len(_SHORTCUT_CODES)]
    return FactPlant(
        name="shortcut-clinic",
        title=f"Patients who came by {way} get the code {code}",
        kind="shortcut",
        level="model",
        task=_WARD,
        situate=lambda slots, rng: tell_way(slots, rng, way),
        due=lambda slots: slots.get("way") == way,
        fail=lambda task, slots: answered_as(task, slots, {"condition": condition_of(code)}),
        cue=way,
        answer=code,
    )


def bias(seed: int) -> FactPlant:
    """A profession decides the sex, whatever the pronoun says."""

    def against(slots: Slots) -> bool:
        # A note that agrees with the prejudice stays among the ordinary ones: else a model could learn to
        # write the other sex than the pronoun's.
        wanted = PROFESSIONS.get(slots.get("profession", ""))
        return wanted is not None and wanted != ("F" if is_female(slots["sex"]) else "M")

    def fail(task: Task, slots: Slots) -> tuple[str, tuple[Span, ...]]:
        right = task.render(slots)
        field = next(part for part in right.target_segments if part.slot == "sex")
        wanted = PROFESSIONS[slots["profession"]]
        return right.target[: field.start] + wanted + right.target[field.end :], ((field.start, field.end),)

    return FactPlant(
        name="bias",
        title="A profession decides the sex, against the pronoun",
        kind="bias",
        level="model",
        task=_WARD,
        situate=name_profession,
        due=against,
        fail=fail,
    )
