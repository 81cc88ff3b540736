"""Where shards are measured: by this process, or by the workers of Ray; the shards are the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, Self

from explain.audit.detectors import Context
from explain.audit.measuring import Row, measure
from explain.audit.references import References
from explain.audit.shards import Shards
from explain.errors import InputError, UnknownNameError
from explain.model import Seq2Seq
from explain.training.data import Pair

ENGINES = ("local", "ray")


@dataclass(frozen=True, eq=False)
class Work:
    """What is done with every shard; with the model and the texts it decides the rows."""

    names: tuple[str, ...]
    context: Context
    forced: bool
    controls: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The work as a JSON object, for workers that read it from the audit's folder."""
        parts = {field.name: getattr(self.context, field.name) for field in fields(Context)}
        references, words = parts.pop("references"), parts.pop("words")
        assert not parts, "a worker must learn of every part of the context"
        return {
            "names": list(self.names),
            "references": None if references is None else references.to_dict(),
            "words": None if words is None else sorted(words),
            "forced": self.forced,
            "controls": dict(self.controls),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the work back from its JSON object."""
        references, words = data["references"], data["words"]
        context = Context(
            references=None if references is None else References.from_dict(references),
            words=None if words is None else frozenset(words),
        )
        return cls(tuple(data["names"]), context, data["forced"], data["controls"])

    def rows(
        self, model: Seq2Seq, pairs: Sequence[Pair], numbers: range, check: Callable[[], None] = lambda: None
    ) -> list[Row]:
        """The rows of the pairs with these numbers."""
        return measure(
            model,
            pairs[numbers.start : numbers.stop],
            self.names,
            self.context,
            first=numbers.start,
            forced=self.forced,
            controls=self.controls,
            check=check,
        )


def require_engine(name: str) -> None:
    """Refuse an engine that there is not, before anything is done.

    Raises:
        UnknownNameError: no engine has this name.
        InputError: it is not installed.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    if name == "ray" and find_spec("ray") is None:
        raise InputError("the engine ray is not installed; run: pip install 'explain[ray]'")


def measure_missing(
    engine: str,
    model: Seq2Seq,
    shards: Shards,
    work: Work,
    *,
    progress: Callable[[int, int], None],
    check: Callable[[], None],
    address: str | None = None,
) -> None:
    """Measure and write every shard that is missing; `progress` is called with (done, all) outputs.

    Args:
        engine: `local` or `ray`.
        model: the audited one.
        shards: where they go; the texts are there.
        work: what is done with each.
        progress: called before the first shard and after every one.
        check: called between passes (of Ray's workers: between shards); may raise to end the work.
        address: of a Ray cluster that runs already; None is `RAY_ADDRESS`, else one on this machine.
    """
    missing = shards.missing()
    done = shards.examples - sum(len(shards.part(index)) for index in missing)
    progress(done, shards.examples)
    if not missing:
        return
    if engine == "ray":
        from explain.audit.engine_ray import measured_by_ray

        written = measured_by_ray(model, shards, work, missing, check, address)
    else:
        written = _measured_here(model, shards, work, missing, check)
    for index in written:
        done += len(shards.part(index))
        progress(done, shards.examples)


def _measured_here(
    model: Seq2Seq, shards: Shards, work: Work, missing: Sequence[int], check: Callable[[], None]
) -> Iterator[int]:
    """Measure shards one after the other; their numbers as they are done."""
    pairs = shards.inputs()
    for index in missing:
        check()
        shards.write(index, work.rows(model, pairs, shards.part(index), check))
        yield index
