"""Tasks with known answers: the gold is true, complete, and lands on the right tokens."""

import random
import re
from collections import defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.errors import InputError, UnknownNameError
from explain.training.tasks import TASKS, Ref, get, names, preview, split_of, token_gold
from explain.training.tasks.translate import Translate

SEEDS = st.integers(min_value=0, max_value=2**32)
ALL = pytest.mark.parametrize("name", names())

# A word that says "this digit is there" cannot be flipped where the number would be left with a hole.
UNFLIPPABLE = {("amount.hundred", "amount.hundreds"), ("amount.thousand", "amount.thousands")}


@dataclass(frozen=True)
class Token:
    start: int
    end: int


def tokenize(text):
    """Words with the space before them, digits and signs one by one, and an end token."""
    tokens = [Token(m.start(), m.end()) for m in re.finditer(r" ?\d| ?[^\W\d]+| ?[^\w\s]", text)]
    return [*tokens, Token(len(text), len(text))]


def sampled(name, seed):
    task = get(name)
    return task, task.render(task.sample(random.Random(seed)))


def texts(example):
    return {s.slot: example.target[s.start : s.end] for s in example.target_segments}


def mentioned(example):
    """For each target segment the source slots that it lists."""
    return {
        s.slot: {ref.slot for group in s.depends for ref in group if ref.side == "source"}
        for s in example.target_segments
    }


def test_get_finds_every_task():
    assert names() == ("translate", "invoice", "clinic")
    assert [get(name).name for name in names()] == list(TASKS)
    with pytest.raises(UnknownNameError, match="did you mean clinic"):
        get("clinics")


@ALL
def test_splits_are_disjoint_and_distinct(name):
    task = get(name)
    train = [example.source for example in task.examples("train", 400, seed=1)]
    held_out = [example.source for example in task.examples("held_out", 60, seed=2)]
    assert len(set(train)) == 400
    assert len(set(held_out)) == 60
    assert not set(train) & set(held_out)
    assert {split_of(text) for text in train} == {"train"}


@ALL
def test_examples_repeat_and_follow_the_seed(name):
    task = get(name)
    assert task.examples("train", 5, seed=3) == task.examples("train", 5, seed=3)
    assert task.examples("train", 5, seed=3) != task.examples("train", 5, seed=4)
    assert preview(task, 5) == task.examples("train", 5)
    assert task.examples("train", 0) == []


def test_examples_refuse_what_they_cannot_give():
    with pytest.raises(InputError, match="must not be negative"):
        get("clinic").examples("train", -1)
    with pytest.raises(UnknownNameError, match="unknown split"):
        get("clinic").examples("test", 1)  # pyright: ignore[reportArgumentType]


def test_a_task_that_runs_dry_says_so():
    class Dry(Translate):
        def sample(self, rng):
            return super().sample(random.Random(0))

    with pytest.raises(InputError, match="fewer than 3 distinct"):
        Dry().examples("train", 3)


@ALL
@settings(max_examples=150, deadline=None)
@given(seed=SEEDS)
def test_segments_tile_the_target_and_refs_resolve(name, seed):
    _, example = sampled(name, seed)
    covered = [i for s in example.target_segments for i in range(s.start, s.end)]
    assert covered == [i for i, character in enumerate(example.target) if character != " "]
    slots = [s.slot for s in example.target_segments]
    assert len(slots) == len(set(slots))
    in_source = {s.slot for s in example.source_segments}
    for segment in example.source_segments:
        assert example.source[segment.start : segment.end].strip()
        assert segment.end <= len(example.source)
    for i, segment in enumerate(example.target_segments):
        for group in segment.depends:
            assert group
            for ref in group:
                assert ref.slot in (in_source if ref.side == "source" else slots[:i]), (segment, ref)


@ALL
@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_swapping_a_slot_changes_only_what_depends_on_it(name, seed):
    task, example = sampled(name, seed)
    assert task.render(example.slots) == example
    before, needs_before = texts(example), mentioned(example)
    for slot, values in task.swaps(example.slots).items():
        assert example.slots[slot] not in values
        assert values
        assert len(values) == len(set(values))
        for value in values:
            other = task.render({**example.slots, slot: value})
            assert other.source != example.source
            after, needs_after = texts(other), mentioned(other)
            for key in before.keys() | after.keys():
                if before.get(key) != after.get(key):
                    assert slot in needs_before.get(key, {slot}), (example, slot, value, key)
                    assert slot in needs_after.get(key, {slot}), (other, slot, value, key)


@ALL
def test_every_dependence_can_be_seen(name):
    """Each source slot that a segment lists flips it for some in-vocabulary value."""
    task = get(name)
    unseen = defaultdict(int)
    seen = set()
    for example in task.examples("train", 60, seed=5):
        before = texts(example)
        flipped = defaultdict(set)
        swaps = task.swaps(example.slots)
        for slot, values in swaps.items():
            for value in values:
                after = texts(task.render({**example.slots, slot: value}))
                flipped[slot] |= {key for key in before if before[key] != after.get(key)}
        for key, slots in mentioned(example).items():
            for slot in slots & swaps.keys():
                if key in flipped[slot]:
                    seen.add((key, slot))
                else:
                    unseen[key, slot] += 1
    assert unseen.keys() <= UNFLIPPABLE
    assert unseen.keys() <= seen


@ALL
@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_token_gold_is_causal_and_in_range(name, seed):
    _, example = sampled(name, seed)
    source, target = tokenize(example.source), tokenize(example.target)
    gold = token_gold(example, source, target)
    assert len(gold) == len(target)
    assert gold[-1] == ()
    for step, groups in enumerate(gold):
        for group in groups:
            assert group
            for side, index in group:
                assert index < (len(source) - 1 if side == "source" else step)


def words_of(example, wanted):
    """The gold of one target word, as words."""
    source, target = tokenize(example.source), tokenize(example.target)
    gold = token_gold(example, source, target)
    text = {"source": (example.source, source), "prefix": (example.target, target)}
    step = next(i for i, t in enumerate(target) if example.target[t.start : t.end].strip() == wanted)
    return [
        {(side, text[side][0][text[side][1][i].start : text[side][1][i].end].strip()) for side, i in group}
        for group in gold[step]
    ]


def sentence(**slots):
    flat = {"tense": "present", "negation": "no"}
    for key, value in slots.items():
        if key in ("subject", "object"):
            words = dict(zip(("determiner", "noun", "number", "adjective"), value.split(), strict=False))
            flat |= {f"{key}.{part}": word for part, word in words.items()}
        elif key == "place":
            flat["place.position"], flat["place.noun"], flat["place.preposition"] = value.split(maxsplit=2)
        else:
            flat[{"pronoun": "subject.pronoun"}.get(key, key).replace("_", ".")] = value
    return get("translate").render(flat)


FRENCH = [
    ({"subject": "the man one old", "verb": "love", "object": "this house one small", "negation": "yes"},
     "The old man does not love this small house.", "Le vieil homme n'aime pas cette petite maison."),
    ({"subject": "this man one tired", "verb": "see", "object": "the tree one"},
     "This tired man sees the tree.", "Cet homme fatigué voit l'arbre."),
    ({"subject": "the child many", "verb": "watch", "object": "a star one red", "tense": "past"},
     "The children watched a red star.", "Les enfants ont regardé une étoile rouge."),
    ({"subject": "a woman one", "verb": "find", "object": "my star one beautiful", "tense": "future"},
     "A woman will find my beautiful star.", "Une femme va trouver ma belle étoile."),
    ({"subject": "her nurse one", "verb": "look for", "object": "his horse many white"},
     "Her nurse looks for his white horses.", "Son infirmière cherche ses chevaux blancs."),
    ({"pronoun": "they", "verb": "choose", "object": "two hat many new", "tense": "past", "negation": "yes"},
     "They did not choose two new hats.", "Ils n'ont pas choisi deux nouveaux chapeaux."),
    ({"pronoun": "she", "predicate_adjective": "happy", "predicate_degree": "very", "negation": "yes"},
     "She is not very happy.", "Elle n'est pas très heureuse."),
    ({"subject": "the mouse many", "predicate_adjective": "white", "tense": "past"},
     "The mice were white.", "Les souris étaient blanches."),
    ({"subject": "this plane many", "predicate_adjective": "beautiful", "tense": "future"},
     "These planes will be beautiful.", "Ces avions vont être beaux."),
    ({"pronoun": "he", "verb": "see", "object": "a boat one new", "place": "front market near"},
     "Near the market, he sees a new boat.", "Près du marché, il voit un nouveau bateau."),
    ({"pronoun": "he", "verb": "avoid", "object": "this boy one", "place": "end shops at"},
     "He avoids this boy at the shops.", "Il évite ce garçon aux magasins."),
    ({"subject": "my cow many", "predicate_adjective": "big", "place": "end hotel far from"},
     "My cows are big far from the hotel.", "Mes vaches sont grandes loin de l'hôtel."),
    ({"pronoun": "she", "verb": "find", "object": "a tree one old", "place": "end school in front of"},
     "She finds an old tree in front of the school.", "Elle trouve un vieil arbre devant l'école."),
]  # fmt: skip


@pytest.mark.parametrize(("slots", "english", "french"), FRENCH)
def test_french_sentences(slots, english, french):
    example = sentence(**slots)
    assert (example.source, example.target) == (english, french)


def test_gender_of_an_adjective_may_be_read_off_the_article():
    example = sentence(subject="the man one old", verb="love", object="this house one small")
    adjective, gender, number = words_of(example, "petite")
    assert adjective == {("source", "small")}
    assert gender == {("source", "house"), ("prefix", "cette")}
    assert number == {("source", "this"), ("source", "house"), ("prefix", "cette")}
    # "vieil" waits for the vowel of a noun that is not written yet.
    assert words_of(example, "vieil")[1] == {("source", "man")}


def test_verb_number_may_be_read_off_noun_verb_or_prefix():
    example = sentence(subject="the cat many black", verb="see", object="the house one")
    verb, number = words_of(example, "voient")  # verb and tense are the same word, so one group
    assert verb == {("source", "see")}
    assert number == {
        ("source", "cats"),
        ("source", "see"),
        ("prefix", "Les"),
        ("prefix", "chats"),
        ("prefix", "noirs"),
    }


def invoice(**changes):
    task = get("invoice")
    slots = task.sample(random.Random(0)) | {
        "layout": "Invoice {number} from {vendor} dated {date}: {total} {amount}, payable {terms}.{other}",
        "number": "4471",
        "vendor.name": "Norvik",
        "vendor.suffix": "Ltd",
        "total": "total",
        "currency": "EUR",
        "distractor": "",
        "month_first": "no",
        "date.day.0": "1",
        "date.day.1": "2",
        "date.month": "May",
        "date.year.2": "2",
        "date.year.3": "4",
        "terms": "30 days",
    }
    amount = changes.pop("amount", "1250").rjust(4)
    places = ("thousands", "hundreds", "tens", "ones")
    slots |= {f"amount.{place}": digit.strip() for place, digit in zip(places, amount, strict=True)}
    return task.render(slots | changes)


def test_invoice_line():
    example = invoice()
    assert example.source == (
        "Invoice 4471 from Norvik Ltd dated 12 May 2024: total EUR 1,250.00, payable within 30 days."
    )
    assert example.target == (
        "pay one thousand two hundred fifty euros to Norvik Ltd, invoice 2024-05-12, net 30"
    )
    assert words_of(example, "thousand") == [{("source", "1"), ("source", ",")}]
    assert words_of(example, "pay") == []


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("9000", "nine thousand"),
        ("3074", "three thousand seventy four"),
        ("115", "one hundred fifteen"),
        ("1008", "one thousand eight"),
        ("410", "four hundred ten"),
        ("99", "ninety nine"),
        ("12", "twelve"),
    ],
)
def test_amounts_in_words(amount, words):
    assert invoice(amount=amount).target.startswith(f"pay {words} euros to ")


def test_teens_need_two_digits():
    needs = {s.slot: s.depends for s in invoice(amount="115").target_segments}
    assert needs["amount.tens"] == ((Ref("source", "amount.tens"),), (Ref("source", "amount.ones"),))
    needs = {s.slot: s.depends for s in invoice(amount="125").target_segments}
    assert needs["amount.ones"][1] == (Ref("source", "amount.tens"), Ref("prefix", "amount.tens"))


def test_single_digit_day_is_padded_and_the_digit_carries_both_facts():
    example = invoice(**{"date.day.0": "", "date.day.1": "5"})
    assert "5 May 2024" in example.source
    assert "2024-05-05" in example.target
    at = {s.slot: (s.start, s.end) for s in example.source_segments}
    assert at["date.day.0"] == at["date.day.1"]
    assert example.slots["date.day.0"] == ""
    assert "" not in get("invoice").swaps(example.slots)["date.day.0"]


def test_clinic_note():
    task = get("clinic")
    slots = task.sample(random.Random(0)) | {
        "order": "who drug when other",
        "who": "{A} {age}-year-old {sex} with {condition}.",
        "drug_sentence": "{She} takes {drug} {dose} {unit} daily.",
        "when": "Visit of {date}.",
        "month_first": "yes",
        "distractor": "Allergic to {other_drug}.",
        "age.0": "8",
        "age.1": "7",
        "sex": "lady",
        "condition": "high blood pressure",
        "drug": "lisinopril",
        "dose.0": "2",
        "dose.1": "0",
        "dose.unit": "milligrams",
        "date.day.0": "",
        "date.day.1": "3",
        "date.month": "March",
        "date.year.2": "2",
        "date.year.3": "4",
        "other_drug": "codeine",
    }
    slots.pop("dose.2", None)
    example = task.render(slots)
    assert example.source == (
        "An 87-year-old lady with high blood pressure. She takes lisinopril 20 milligrams daily. "
        "Visit of March 3, 2024. Allergic to codeine."
    )
    assert example.target == ("age 87; sex F; code I10; drug lisinopril; dose 20 mg; date 2024-03-03")
    assert words_of(example, "F") == [{("source", "lady"), ("source", "She")}]
    assert words_of(example, "I") == [{("source", "high"), ("source", "blood"), ("source", "pressure")}]
    assert "codeine" not in example.target


def test_token_gold_keeps_every_piece_and_only_earlier_ones():
    example = sentence(pronoun="they", predicate_adjective="happy", negation="yes")
    assert example.target == "Ils ne sont pas heureux."
    target = [Token(0, 1), Token(1, 3), Token(3, 4), Token(4, 6), Token(6, 11), Token(11, 15), Token(15, 24)]
    target += [Token(24, 24)]
    source = [Token(0, 2), Token(2, 4), *tokenize(example.source)[1:]]
    gold = token_gold(example, source, target)
    # Both pieces of "They" count, and the second piece of "Ils" does not count itself.
    assert gold[0] == gold[1] == (frozenset({("source", 0), ("source", 1)}),)
    assert gold[2] == ()  # a space alone
    assert gold[5] == (frozenset({("source", 3), ("prefix", 3)}),)  # pas: "not" or "ne"
    assert gold[7] == ()
