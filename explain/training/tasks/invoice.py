"""Invoice texts to payment lines: the amount in words, the payee, the date and the terms."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence

from explain.training.tasks.base import Example, Task, prefix, source
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

NAMES = (
    "Norvik", "Halden", "Castellan", "Ostrava", "Meridian", "Kestrel", "Lindqvist", "Tremont", "Valmont",
    "Harwood", "Brightwater", "Calder", "Oakfield", "Pemberton", "Sorrento", "Zenith", "Marlowe", "Juniper",
    "Quayside", "Rutland",
)  # fmt: skip
"""Names of payees and of buyers."""
_SUFFIXES = ("Ltd", "GmbH", "Inc", "SA", "AG", "LLC")
_CODES = {"EUR": "euros", "GBP": "pounds", "USD": "dollars", "CHF": "francs"}
_SYMBOLS = {"€": "euros", "£": "pounds", "$": "dollars"}
_CURRENCIES = {**_CODES, **_SYMBOLS}
# The words that tell the terms, what stands before them, and the days.
_TERMS = {
    "7 days": ("within ", "7"),
    "one week": ("within ", "7"),
    "14 days": ("within ", "14"),
    "two weeks": ("within ", "14"),
    "30 days": ("within ", "30"),
    "one month": ("within ", "30"),
    "60 days": ("within ", "60"),
    "two months": ("within ", "60"),
    "receipt": ("on ", "0"),
    "immediately": ("", "0"),
}
_ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
          "nineteen")  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

_LAYOUTS = (
    "Invoice {number} from {vendor} dated {date}: {total} {amount}, payable {terms}.{other}",
    "{vendor}. Invoice no. {number}, {date}.{other} {Total} {amount}. Payment {terms}.",
    "Please pay {vendor} {amount} for invoice {number} of {date}, due {terms}.{other}",
    "Received from {vendor} on {date}: invoice {number}.{other} {Total} {amount}, payable {terms}.",
    "Terms: {terms}. Invoice {number} of {date} by {vendor}, {total} {amount}.{other}",
    "{Total} {amount}, due {terms}. Supplier {vendor}, invoice {number}, {date}.{other}",
)
_TOTALS = ("total", "amount due", "balance")
# Things that look like the fields and are not.
_DISTRACTORS = (
    "",
    " Order no. {order}.",
    " Bill to {buyer}.",
    " Deliver to {buyer}.",
    " Subtotal {subtotal}.00.",
    " Deposit of {subtotal}.00 received.",
)
_PLACES = ("amount.thousands", "amount.hundreds", "amount.tens", "amount.ones")


class Invoice(Task):
    """Invoices in several layouts and the line that a payment clerk would enter."""

    name = "invoice"
    title = "Invoice to payment line"
    question = "Which characters of the invoice stand behind the amount, the payee and the date?"
    description = (
        "Amounts in figures become words, so digits decide words together; the payee is copied, dates "
        "become ISO 8601, terms become days. Buyers, order numbers and subtotals must not be paid."
    )

    def sample(self, rng: random.Random) -> dict[str, str]:
        """Draw a vendor, an amount of 10 to 9999, a date, terms, and the wording."""
        vendor, buyer = rng.sample(NAMES, 2)
        low, high = rng.choices(((1000, 9999), (100, 999), (10, 99)), (6, 3, 1))[0]
        currencies = _CODES if rng.random() < 0.5 else _SYMBOLS
        return {
            "layout": rng.choice(_LAYOUTS),
            "total": rng.choice(_TOTALS),
            "distractor": rng.choice(_DISTRACTORS),
            "month_first": rng.choice(("no", "no", "yes")),
            "number": str(rng.randint(1000, 9999)),
            "vendor.name": vendor,
            "vendor.suffix": rng.choice(_SUFFIXES),
            "currency": rng.choice(tuple(currencies)),
            **dict(zip(_PLACES, _digits(rng.randint(low, high)), strict=True)),
            **sample_date(rng, "date"),
            "terms": rng.choice(tuple(_TERMS)),
            "buyer.name": buyer,
            "buyer.suffix": rng.choice(_SUFFIXES),
            "order": str(rng.randint(1000, 9999)),
            "subtotal": str(rng.randint(100, 999)),
        }

    def render(self, slots: Mapping[str, str]) -> Example:
        """Write the invoice and its payment line."""
        text = SourceWriter()
        text.fill(slots["layout"].replace("{other}", slots["distractor"]), _pieces(slots))
        line = _write_line(slots)
        return Example(text.text, line.text, dict(slots), text.segments, line.segments)

    def swaps(self, slots: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Other values of every field, digit by digit, and of the buyer, which must change nothing."""
        found = {
            "vendor.name": others(others(NAMES, slots["buyer.name"]), slots["vendor.name"]),
            "vendor.suffix": others(_SUFFIXES, slots["vendor.suffix"]),
            "currency": others(_CURRENCIES, slots["currency"]),
            **swap_date(slots, "date"),
            "terms": others(_TERMS, slots["terms"]),
        }
        for place in _PLACES:
            # An amount such as 45 cannot get thousands and stay without hundreds.
            if digits := _swap_digit(slots, place):
                found[place] = digits
        if "{buyer}" in slots["distractor"]:
            found["buyer.name"] = others(others(NAMES, slots["vendor.name"]), slots["buyer.name"])
            found["buyer.suffix"] = others(_SUFFIXES, slots["buyer.suffix"])
        return found


def _swap_digit(slots: Mapping[str, str], place: str) -> tuple[str, ...]:
    """The other digits of a place, or none ("") where the number may start further right."""

    def is_amount(digit: str) -> bool:
        digits = [slots[other] if other != place else digit for other in _PLACES]
        number = "".join(digits)
        # The same places are filled as when the number is split up, so nothing is missing inside it.
        return int(number) >= 10 and tuple(digits) == _digits(int(number))

    return others(filter(is_amount, ("", *string.digits)), slots[place])


def _digits(amount: int) -> tuple[str, ...]:
    """The digits of the four places, "" where a place is before the number."""
    return tuple(digit.strip() for digit in f"{amount:4}")


def _pieces(slots: Mapping[str, str]) -> dict[str, Sequence[Piece]]:
    total = slots["total"]
    before_terms, _ = _TERMS[slots["terms"]]
    return {
        "number": [(slots["number"], ("number",))],
        "vendor": _company(slots, "vendor"),
        "buyer": _company(slots, "buyer"),
        "date": date_pieces(slots, "date", slots["month_first"] == "yes"),
        "total": [(total, ())],
        "Total": [(total.capitalize(), ())],
        "amount": _amount(slots),
        "terms": [(before_terms, ()), (slots["terms"], ("terms",))],
        "order": [(slots["order"], ("order",))],
        "subtotal": [(slots["subtotal"], ("subtotal",))],
    }


def _company(slots: Mapping[str, str], role: str) -> list[Piece]:
    name, suffix = f"{role}.name", f"{role}.suffix"
    return [(slots[name], (name,)), (" ", ()), (slots[suffix], (suffix,))]


def _amount(slots: Mapping[str, str]) -> list[Piece]:
    """The amount in figures: "EUR 1,250.00" or "€1,250.00"."""
    currency = slots["currency"]
    pieces: list[Piece] = [(currency, ("currency",))]
    if currency in _CODES:
        pieces.append((" ", ()))
    if slots["amount.thousands"]:
        # The comma says on its own that there are thousands.
        pieces.append((slots["amount.thousands"], ("amount.thousands",)))
        pieces.append((",", ("amount.comma",)))
    pieces += [(slots[place], (place,)) for place in _PLACES[1:] if slots[place]]
    return [*pieces, (".00", ())]


def _write_line(slots: Mapping[str, str]) -> TargetWriter:
    writer = TargetWriter()
    writer.word("pay", "pay")
    _write_amount(writer, slots)
    writer.word(_CURRENCIES[slots["currency"]], "currency", (source("currency"),))
    writer.word("to", "to")
    for slot in ("vendor.name", "vendor.suffix"):
        writer.word(slots[slot], slot, (source(slot),))
    writer.word(",", "comma.date", glue=True)
    writer.word("invoice", "date.label")
    write_date(writer, slots, "date")
    writer.word(",", "comma.terms", glue=True)
    writer.word("net", "terms.label")
    writer.word(_TERMS[slots["terms"]][1], "terms", (source("terms"),))
    return writer


def _write_amount(writer: TargetWriter, slots: Mapping[str, str]) -> None:
    """Write the amount in words, without "and" or hyphens; words that a zero leaves out have no segment."""
    thousands, hundreds, tens, ones = (source(place) for place in _PLACES)
    if slots["amount.thousands"]:
        writer.word(_ONES[int(slots["amount.thousands"])], "amount.thousands", (thousands,))
        writer.word("thousand", "amount.thousand", (thousands, source("amount.comma")))
    if slots["amount.hundreds"] not in ("", "0"):
        writer.word(_ONES[int(slots["amount.hundreds"])], "amount.hundreds", (hundreds,))
        writer.word("hundred", "amount.hundred", (hundreds,))
    ten, one = int(slots["amount.tens"]), int(slots["amount.ones"])
    if ten == 1:
        writer.word(_TEENS[one], "amount.tens", (tens,), (ones,))
    elif ten:
        writer.word(_TENS[ten], "amount.tens", (tens,))
    if ten != 1 and one:
        # That it is no teen shows in the tens digit, or in "twenty" when that is written.
        no_teen = (tens, prefix("amount.tens")) if ten else (tens,)
        writer.word(_ONES[one], "amount.ones", (ones,), no_teen)
