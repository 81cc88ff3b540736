"""Reviewers' verdicts on audited outputs: kept beside the audit, merged, and counted for every detector.

```
reviews.json   explain/reviews@1: who said what of which output, when
```

A review names its output by the digest of source and output, so it never speaks of another one. Reviewers
have one verdict each for an output; where they contradict each other the output is disputed, and counts
neither for a detector nor against it.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from explain.audit.calibration import Share, share
from explain.audit.result import OUTPUTS, Audit
from explain.errors import FileError, InputError
from explain.files import digest_json, envelope, read_json, write_json

NAME = "reviews"
FILE = f"{NAME}.json"
Verdict = Literal["wrong", "right", "unsure"]
Outcome = Literal["wrong", "right", "unsure", "disputed"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MOST_NOTE, MOST_NAME = 2_000, 80
"""Characters of a note, and of a reviewer's name."""
_COLUMNS = ["number", "source", "output", "flags"]
_LOCKS: dict[str, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class Review:
    """What one reviewer says of one output.

    Attributes:
        number: the output's place in the data of the audit.
        output_digest: of its source and text; what the review is of.
        verdict: the output is `wrong` (not to be trusted), `right` (a flag on it is a false alarm), or the
            reviewer is `unsure`.
        note: why.
        reviewer: who; may be empty.
        time: when, ISO 8601 in UTC.
    """

    number: int
    output_digest: str
    verdict: Verdict
    note: str = ""
    reviewer: str = ""
    time: str = ""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One output with all that reviewers say of it, and the detectors that flag it."""

    number: int
    flags: tuple[str, ...]
    reviews: tuple[Review, ...]

    @property
    def outcome(self) -> Outcome:
        """What they agree on: `disputed` where one says wrong and another right, else the surest verdict."""
        said = {review.verdict for review in self.reviews}
        if {"wrong", "right"} <= said:
            return "disputed"
        return next(verdict for verdict in VERDICTS if verdict in said)


@dataclass(frozen=True, slots=True)
class Summary:
    """What the reviews of an audit come to.

    Attributes:
        outputs: the reviewed ones, by number.
        elsewhere: reviews of outputs that this audit does not have.
        precision: by detector, of its flagged outputs that were settled, those that are wrong.
        flagged: likewise of outputs with any flag.
        clean: of settled outputs without a flag, those that are wrong: what the detectors missed.
    """

    outputs: tuple[Reviewed, ...]
    elsewhere: tuple[Review, ...]
    precision: Mapping[str, Share]
    flagged: Share
    clean: Share

    def count(self, outcome: Outcome) -> int:
        """How many outputs have that outcome."""
        return sum(item.outcome == outcome for item in self.outputs)

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Their names, sorted; "" stands for those who gave none."""
        return tuple(sorted({review.reviewer for item in self.outputs for review in item.reviews}))

    def to_dict(self) -> dict[str, Any]:
        """What stands under `reviews` in `audit.json`."""
        return {
            "reviewed": len(self.outputs),
            **{outcome: self.count(outcome) for outcome in OUTCOMES},
            "elsewhere": len(self.elsewhere),
            "reviewers": list(self.reviewers),
            "flagged": self.flagged.to_dict(),
            "unflagged": self.clean.to_dict(),
            "precision": {name: found.to_dict() for name, found in self.precision.items()},
            "outputs": [
                {
                    "number": item.number,
                    "outcome": item.outcome,
                    "flags": list(item.flags),
                    "reviews": [asdict(review) for review in item.reviews],
                }
                for item in self.outputs
            ],
        }


def output_digest(source: str, output: str) -> str:
    """What a review is of: the digest of a source and of the output written for it."""
    return digest_json([source, output])


def review(
    number: int, source: str, output: str, verdict: str, *, note: str = "", reviewer: str = ""
) -> Review:
    """A review of an output, made now.

    Raises:
        InputError: there is no such verdict, or the note is too long.
    """
    if verdict not in VERDICTS:
        raise InputError(f"{verdict!r} is no verdict; say {', '.join(VERDICTS)}")
    if len(note) > MOST_NOTE or len(reviewer) > MOST_NAME:
        raise InputError(f"a note has at most {MOST_NOTE:,} characters, a reviewer's name {MOST_NAME}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    digest = output_digest(source, output)
    return Review(number, digest, verdict, note.strip(), reviewer.strip(), now)


# ---- files -----------------------------------------------------------------------------------------------


def load_reviews(path: str | os.PathLike[str]) -> tuple[Review, ...]:
    """The reviews of a file, or of the `reviews.json` in a folder; none where a folder has no such file.

    Raises:
        FileError: the file is missing, broken or of another kind.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE
        if not file.exists():
            return ()
    data = read_json(file, NAME)
    try:
        found = [_read(item) for item in data["reviews"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{file} is a broken file of reviews: {type(error).__name__} {error}") from None
    return merged(found)


def _read(item: Mapping[str, Any]) -> Review:
    number, digest, verdict = item["number"], item["output_digest"], item["verdict"]
    texts = [item.get(key, "") for key in ("note", "reviewer", "time")]
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"number {number!r}")
    if verdict not in VERDICTS or not all(isinstance(text, str) for text in (digest, *texts)):
        raise ValueError(f"verdict {verdict!r}")
    return Review(number, digest, verdict, *texts)


def merged(*several: Iterable[Review]) -> tuple[Review, ...]:
    """All reviews, in an order of their own; of one reviewer on one output the latest counts."""
    latest: dict[tuple[str, str], Review] = {}
    for found in several:
        for one in found:
            key = one.output_digest, one.reviewer
            there = latest.get(key)
            if there is None or _age(there) <= _age(one):
                latest[key] = one
    return tuple(sorted(latest.values(), key=lambda one: (one.number, one.output_digest, one.reviewer)))


def _age(one: Review) -> tuple[str, str, str]:
    # Of two made in the same second the order must not depend on which file came first.
    return one.time, one.verdict, one.note


def keep(folder: str | os.PathLike[str], audit: Audit, *reviews: Review) -> tuple[Review, ...]:
    """Add reviews to those in an audit's folder, whole or not at all; returns all that are there now.

    Raises:
        FileError: the reviews there are broken, or cannot be written.
    """
    with _locked(Path(folder)):
        return _write(Path(folder), audit, merged(load_reviews(folder), reviews))


def withdraw(folder: str | os.PathLike[str], audit: Audit, digest: str, reviewer: str) -> tuple[Review, ...]:
    """Take back what a reviewer said of an output; returns the reviews that are left.

    Raises:
        FileError: the reviews there are broken, or cannot be written.
    """
    with _locked(Path(folder)):
        there = load_reviews(folder)
        left = [one for one in there if (one.output_digest, one.reviewer) != (digest, reviewer)]
        return _write(Path(folder), audit, merged(left))


def _write(folder: Path, audit: Audit, reviews: tuple[Review, ...]) -> tuple[Review, ...]:
    head = envelope(NAME, model_digest=audit.model_digest, data_digest=audit.data_digest)
    write_json(folder / FILE, {**head, "reviews": [asdict(one) for one in reviews]})
    return reviews


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, among the threads of this process and, where the system can, among processes."""
    own = _LOCKS.setdefault(str(folder.resolve()), threading.Lock())
    with own, contextlib.ExitStack() as stack:
        try:
            import fcntl
        except ImportError:  # not on this system; sessions of one dashboard are still kept apart
            yield
            return
        # Beside no audit: the lock is the folder's alone, and a folder that is packed or read has no trace.
        name = digest_json(str(folder.resolve())).removeprefix("sha256:")[:24]
        path = Path(tempfile.gettempdir()) / f"explain-{os.getuid()}-{name}.lock"
        lock = stack.enter_context(path.open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- what they come to -----------------------------------------------------------------------------------


def summarise(audit: Audit, reviews: Sequence[Review]) -> Summary:
    """What reviews say of an audit's detectors; the same reviews give the same summary in any order.

    An output counts once, however often its text stands in the data. The precision holds for outputs like
    those that were reviewed; who reviews the surest flags first learns of those.

    Raises:
        FileError: the audit's table of outputs is broken.
    """
    by_digest: dict[str, list[Review]] = {}
    for one in merged(reviews):
        by_digest.setdefault(one.output_digest, []).append(one)
    there = _located(audit, {digest: found[0].number for digest, found in by_digest.items()})
    outputs = sorted(
        (
            Reviewed(number, flags, tuple(replace(one, number=number) for one in by_digest[digest]))
            for digest, (number, flags) in there.items()
        ),
        key=lambda item: item.number,
    )
    elsewhere = [one for digest, found in by_digest.items() if digest not in there for one in found]

    def precision(items: Iterable[Reviewed]) -> Share:
        settled = [item.outcome for item in items if item.outcome in ("wrong", "right")]
        return share(settled.count("wrong"), len(settled))

    return Summary(
        outputs=tuple(outputs),
        elsewhere=merged(elsewhere),
        precision={
            name: precision(item for item in outputs if name in item.flags) for name in audit.detectors
        },
        flagged=precision(item for item in outputs if item.flags),
        clean=precision(item for item in outputs if not item.flags),
    )


def _located(audit: Audit, wanted: Mapping[str, int]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Number and flags of an output with each digest; digests that the audit does not have are left out.

    Args:
        audit: whose outputs are looked through.
        wanted: digest to the number where the output is likely to be; only where it is not, all are read.
    """
    path = None if audit.folder is None else audit.folder / OUTPUTS
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    if path is None or not path.is_file():  # an audit that was brought in without its tables
        for each in audit.suspects:
            digest = output_digest(each.source, each.output)
            if digest in wanted:
                found.setdefault(digest, (each.number, tuple(flag.detector for flag in each.flags)))
        return found
    if not wanted:
        return found

    def take(rows: pa.Table) -> bool:
        for row in rows.to_pylist():
            digest = output_digest(row["source"], row["output"])
            if digest in wanted:
                found.setdefault(digest, (row["number"], tuple(row["flags"])))
        return len(found) == len(wanted)

    try:
        with pq.ParquetFile(path) as table:
            for group in _groups(table, wanted.values()):
                if take(table.read_row_group(group, _COLUMNS)):
                    return found
            for batch in table.iter_batches(batch_size=4_096, columns=_COLUMNS):
                if take(pa.Table.from_batches([batch])):
                    return found
    except (OSError, pa.ArrowException, KeyError) as error:
        raise FileError(f"{path} is a broken table: {error}") from None
    return found


def _groups(table: pq.ParquetFile, numbers: Iterable[int]) -> list[int]:
    """The row groups that hold the outputs of some numbers; the table has one row for each, in order."""
    sizes = (table.metadata.row_group(i).num_rows for i in range(table.num_row_groups))
    ends = list(itertools.accumulate(sizes))
    places = {bisect.bisect_right(ends, number) for number in numbers}
    return sorted(place for place in places if place < len(ends))
