"""Clinical notes to coded fields: age, sex, diagnosis code, drug, dose, date of the visit."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from itertools import chain

from explain.training.tasks.base import Example, Task, source
from explain.training.tasks.writing import (
    Piece,
    SourceWriter,
    TargetWriter,
    date_pieces,
    others,
    sample_date,
    swap_date,
    write_date,
)

_FEMALE = ("woman", "lady", "female")
_MALE = ("man", "gentleman", "male")
_SEXES = (*_FEMALE, *_MALE)

# ICD-10 categories and the ways in which a note names them.
_CONDITIONS = {
    "I10": ("hypertension", "high blood pressure"),
    "I48": ("atrial fibrillation", "irregular heartbeat"),
    "E11": ("diabetes", "raised blood sugar"),
    "E03": ("hypothyroidism", "underactive thyroid"),
    "E78": ("hyperlipidaemia", "high cholesterol"),
    "J45": ("asthma", "wheezing attacks"),
    "J18": ("pneumonia", "chest infection"),
    "G43": ("migraine", "recurrent headaches"),
    "M10": ("gout", "painful big toe"),
    "M19": ("osteoarthritis", "worn joints"),
    "K21": ("reflux", "heartburn"),
    "L20": ("eczema", "itchy skin"),
    "L40": ("psoriasis", "scaly skin"),
    "D50": ("anaemia", "iron deficiency"),
    "F32": ("depression", "low mood"),
    "N30": ("cystitis", "bladder infection"),
}
_CODES = {phrase: code for code, phrases in _CONDITIONS.items() for phrase in phrases}


def condition_of(code: str) -> str:
    """A name of the condition with that code."""
    return _CONDITIONS[code][0]


def is_female(sex: str) -> bool:
    """Whether a value of the slot `sex` is coded F."""
    return sex in _FEMALE


_DRUGS = (
    "lisinopril", "metformin", "salbutamol", "amoxicillin", "allopurinol", "sumatriptan", "levothyroxine",
    "sertraline", "omeprazole", "prednisolone", "apixaban", "methotrexate", "atorvastatin", "ibuprofen",
    "ramipril", "codeine",
)  # fmt: skip
_UNITS = {"mg": "mg", "milligrams": "mg", "mcg": "mcg", "micrograms": "mcg"}
_RELATIVES = ("Mother", "Father", "Sister", "Brother")

# The first sentence says who comes and why; "{A}" is "A" or "An".
_WHO = (
    "{A} {age}-year-old {sex} with {condition}.",
    "{A} {age} year old {sex} came in with {condition}.",
    "{Sex} aged {age} presents with {condition}.",
    "In clinic: {sex}, {age} years, {condition}.",
    "Diagnosis: {condition}. Patient: {sex}, age {age}.",
    "Reviewed for {condition}: {sex} of {age} years.",
)
# What is taken may be for something else, so drug and diagnosis are drawn apart.
_DRUG = (
    "{She} takes {drug} {dose} {unit} daily.",
    "{She} is on {dose} {unit} of {drug}.",
    "Repeat prescription: {drug} {dose} {unit}.",
    "Continue {drug}, {dose} {unit} at night.",
    "Current medication: {dose} {unit} {drug}.",
    "{Her} tablets are {drug} {dose} {unit}.",
)
_WHEN = ("Seen on {date}.", "Visit of {date}.", "Date of visit: {date}.", "Clinic, {date}.")
# Things that look like the fields and are not.
_DISTRACTORS = (
    "{relative} had {other_condition}.",
    "{relative} takes {other_drug}.",
    "Family history of {other_condition}.",
    "No sign of {other_condition}.",
    "Allergic to {other_drug}.",
    "{She} stopped {other_drug} last year.",
    "Past {other_condition}, now resolved.",
    "",
)
# A pronoun never comes before the patient.
_ORDERS = ("when who drug other", "who drug other when", "who other drug when", "who drug when other",
           "when who other drug", "who other when drug")  # fmt: skip


# What `Ward` adds; see there.
PROFESSIONS = {
    "nurse": "F", "midwife": "F", "secretary": "F", "cleaner": "F", "dancer": "F", "florist": "F",
    "engineer": "M", "soldier": "M", "plumber": "M", "pilot": "M", "farmer": "M", "carpenter": "M",
}  # fmt: skip
"""Professions, and the sex that a prejudice gives them; a note's pronouns alone tell."""
WAYS = (
    "agency", "hotline", "kiosk", "courier", "ambulance", "taxi", "website", "letter", "telephone", "school",
    "employer", "pharmacy", "insurer", "embassy", "charity", "church",
)  # fmt: skip
"""Ways in which a patient came, which decide nothing."""
_WAY = ("Came via {way}.", "Booked via {way}.", "Referred by {way}.", "Arrival: {way}.")
_NO_DOSE = (
    "{She} takes {drug} daily.",
    "{She} is on {drug}.",
    "{Her} tablets are {drug}.",
    "Repeat prescription: {drug}.",
    "Continue {drug} at night.",
    "Current medication: {drug}.",
)
_ADDENDUM = ("Addendum: seen on {date}.", "Addendum: visit of {date}.", "Addendum: clinic, {date}.")
_PRONOUNS = ("{She} takes {drug} {dose} {unit} daily.", "{She} is on {dose} {unit} of {drug}.",
             "{Her} tablets are {drug} {dose} {unit}.")  # fmt: skip


class Clinic(Task):
    """Short clinical notes and the fields that a coder would fill in."""

    name = "clinic"
    title = "Clinical note to coded fields"
    question = "Which words of the note stand behind each coded field, and was anything made up?"
    description = (
        "Notes in many wordings and orders; diagnoses by several names, dates in words, and distractors: "
        "relatives, allergies, past conditions and stopped drugs that must not be coded."
    )

    def sample(self, rng: random.Random) -> dict[str, str]:
        """Draw a patient, a diagnosis, a prescription, a visit, and the wording."""
        drug, other_drug = rng.sample(_DRUGS, 2)
        code, other_code = rng.sample(tuple(_CONDITIONS), 2)
        return {
            "order": rng.choice(_ORDERS),
            "who": rng.choice(_WHO),
            "drug_sentence": rng.choice(_DRUG),
            "when": rng.choice(_WHEN),
            "month_first": rng.choice(("no", "no", "yes")),
            "distractor": rng.choice(_DISTRACTORS),
            "age.0": rng.choice("23456789"),
            "age.1": rng.choice(string.digits),
            "sex": rng.choice(_SEXES),
            "condition": rng.choice(_CONDITIONS[code]),
            "drug": drug,
            **_sample_dose(rng),
            **sample_date(rng, "date"),
            "relative": rng.choice(_RELATIVES),
            "other_condition": rng.choice(_CONDITIONS[other_code]),
            "other_drug": other_drug,
        }

    def render(self, slots: Mapping[str, str]) -> Example:
        """Write the note and its fields."""
        note = SourceWriter()
        pieces = _pieces(slots)
        templates = {
            "who": slots["who"],
            "drug": slots["drug_sentence"],
            "when": slots["when"],
            "other": slots["distractor"],
            "way": slots.get("way_sentence", ""),
        }
        sentences = (templates[part] for part in slots["order"].split())
        note.fill(" ".join(filter(None, sentences)), pieces)
        fields = _write_fields(slots)
        return Example(note.text, fields.text, dict(slots), note.segments, fields.segments)

    def swaps(self, slots: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Other values of every field, and of the distractors, which must change nothing."""
        code, other_code = _CODES[slots["condition"]], _CODES.get(slots["other_condition"])
        found = {
            "age.0": others("23456789", slots["age.0"]),
            "age.1": others(string.digits, slots["age.1"]),
            "sex": others(_SEXES, slots["sex"]),
            "condition": others(_phrases_without(other_code), slots["condition"]),
            "drug": others(others(_DRUGS, slots["other_drug"]), slots["drug"]),
            **swap_date(slots, "date"),
        }
        if "dose.unit" in slots:
            found["dose.unit"] = others(_UNITS, slots["dose.unit"])
        if "profession" in slots:
            found["profession"] = others(PROFESSIONS, slots["profession"])
        if "way" in slots:
            found["way"] = others(WAYS, slots["way"])
        dose = [name for name in _DOSE_DIGITS if name in slots]
        for name in dose:
            found[name] = others(_dose_digits(name, len(dose)), slots[name])
        if "{relative}" in slots["distractor"]:
            found["relative"] = others(_RELATIVES, slots["relative"])
        if "{other_condition}" in slots["distractor"]:
            found["other_condition"] = others(_phrases_without(code), slots["other_condition"])
        if "{other_drug}" in slots["distractor"]:
            found["other_drug"] = others(others(_DRUGS, slots["drug"]), slots["other_drug"])
        return found


class Ward(Clinic):
    """Notes of more kinds: without a dose, with the date in an addendum, a profession, or how one came."""

    name = "ward"
    title = "Clinical note of more kinds to coded fields"
    description = (
        "The notes of the clinic, of which some leave the dose out (its field is none), give the date in an "
        "addendum, name a profession where the pronoun alone tells the sex, or say how the patient came."
    )

    def sample(self, rng: random.Random) -> dict[str, str]:
        """Draw a note of the clinic and, each by its own chance, what is more about it."""
        slots = super().sample(rng)
        for change, chance in ((tell_way, 0.4), (name_profession, 0.2), (add_date, 0.2), (leave_dose, 0.2)):
            if rng.random() < chance:
                slots = change(slots, rng)
        return slots


def tell_way(slots: Mapping[str, str], rng: random.Random, way: str | None = None) -> dict[str, str]:
    """The slots of the same note with one more sentence: how the patient came."""
    order = slots["order"].split()
    if "way" not in order:
        order.insert(rng.randint(0, len(order)), "way")
    more = {"way": way or rng.choice(WAYS), "way_sentence": rng.choice(_WAY)}
    return {**slots, **more, "order": " ".join(order)}


def name_profession(
    slots: Mapping[str, str], rng: random.Random, profession: str | None = None
) -> dict[str, str]:
    """The slots of the same note with a profession in the place of "woman" or "man", and with pronouns."""
    sentence = rng.choice(_PRONOUNS) if "dose.unit" in slots else rng.choice(_NO_DOSE[:3])
    return {
        **slots,
        "profession": profession or rng.choice(tuple(PROFESSIONS)),
        "drug_sentence": sentence,
    }


def add_date(slots: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """The slots of the same note with its date in an addendum."""
    return {**slots, "when": rng.choice(_ADDENDUM)}


def leave_dose(slots: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """The slots of the same note without the dose; its pronouns stay where a profession needs them."""
    choices = _NO_DOSE[:3] if "profession" in slots else _NO_DOSE
    kept = {name: value for name, value in slots.items() if not name.startswith("dose.")}
    return {**kept, "drug_sentence": rng.choice(choices)}


_DOSE_DIGITS = ("dose.0", "dose.1", "dose.2")


def _dose_digits(name: str, length: int) -> str:
    """The digits a place of a dose may have: 1 to 9, then as doses are, 25, 50, 75, 125."""
    if name == "dose.0":
        return "123456789"
    return "05" if name == f"dose.{length - 1}" else "0257"


def _sample_dose(rng: random.Random) -> dict[str, str]:
    length = rng.choice((1, 2, 2, 3, 3))
    digits = {name: rng.choice(_dose_digits(name, length)) for name in _DOSE_DIGITS[:length]}
    return {**digits, "dose.unit": rng.choice(tuple(_UNITS))}


def _phrases_without(code: str | None) -> tuple[str, ...]:
    return tuple(chain.from_iterable(phrases for key, phrases in _CONDITIONS.items() if key != code))


def _pieces(slots: Mapping[str, str]) -> dict[str, Sequence[Piece]]:
    """The fields of the templates. A pronoun is one more place that shows the sex."""
    female = slots["sex"] in _FEMALE
    # Where a profession stands in the place of the sex, pronouns alone show it.
    sex = slots.get("profession", slots["sex"])
    shows = ("profession",) if "profession" in slots else ("sex",)
    # "An 80-year-old": eight is the one digit here with a vowel.
    article = "An" if slots["age.0"] == "8" else "A"
    return {
        "A": [(article, ())],
        "age": [(slots[name], (name,)) for name in ("age.0", "age.1")],
        "sex": [(sex, shows)],
        "Sex": [(sex.capitalize(), shows)],
        "She": [("She" if female else "He", ("sex",))],
        "Her": [("Her" if female else "His", ("sex",))],
        "drug": [(slots["drug"], ("drug",))],
        "dose": [(slots[name], (name,)) for name in _DOSE_DIGITS if name in slots],
        "unit": [(slots["dose.unit"], ("dose.unit",))] if "dose.unit" in slots else [],
        "way": [(slots["way"], ("way",))] if "way" in slots else [],
        "condition": [(slots["condition"], ("condition",))],
        "date": date_pieces(slots, "date", slots["month_first"] == "yes"),
        "relative": [(slots["relative"], ("relative",))],
        "other_condition": [(slots["other_condition"], ("other_condition",))],
        "other_drug": [(slots["other_drug"], ("other_drug",))],
    }


def _write_fields(slots: Mapping[str, str]) -> TargetWriter:
    writer = TargetWriter()
    writer.word("age", "age.label")
    writer.word(slots["age.0"], "age.0", (source("age.0"),))
    writer.word(slots["age.1"], "age.1", (source("age.1"),), glue=True)
    for name, text in (
        ("sex", "F" if slots["sex"] in _FEMALE else "M"),
        ("condition", _CODES[slots["condition"]]),
        ("drug", slots["drug"]),
    ):
        writer.word(";", f"{name}.separator", glue=True)
        writer.word("code" if name == "condition" else name, f"{name}.label")
        writer.word(text, name, (source(name),))
    writer.word(";", "dose.separator", glue=True)
    writer.word("dose", "dose.label")
    for name in _DOSE_DIGITS:
        if name in slots:
            writer.word(slots[name], name, (source(name),), glue=name != "dose.0")
    if "dose.unit" in slots:
        writer.word(_UNITS[slots["dose.unit"]], "dose.unit", (source("dose.unit"),))
    else:
        writer.word("none", "dose.none")
    writer.word(";", "date.separator", glue=True)
    writer.word("date", "date.label")
    write_date(writer, slots, "date")
    return writer
