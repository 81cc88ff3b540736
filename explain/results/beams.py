"""One beam search as the tree of everything that it followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from explain.results.generation import Generation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class BeamNode:
    """One token of a beam search; beams that begin alike share their nodes.

    Attributes:
        parent: index of the node before it; -1 for what follows the decoder start, or the given beginning.
        step: output position, counted from 0.
        id: the token's id.
        text: its text, empty where it adds no character of its own.
        lead: the white space before it.
        special: it stands outside the text, as EOS does.
        log_prob: what the search took the token for, in nats: after penalties and constraints.
        total: the sum of `log_prob` from the beginning of the search to here.
        score: `total / length ** length_penalty`, by which beams that ended are compared; the length counts
            the tokens that the search wrote.
        ended: a beam that the search could have chosen ends here.
        place: place of that beam among those that it returned, 0 the winner; None where it did not.
    """

    parent: int
    step: int
    id: int
    text: str
    lead: str
    special: bool
    log_prob: float
    total: float
    score: float
    ended: bool = False
    place: int | None = None


@dataclass(frozen=True, eq=False)
class BeamSearch:
    """What a beam search followed and what it returned.

    Attributes:
        generation: the winner, with the model's own numbers; `generation.beams` are all beams returned.
        nodes: every token of every beam that was followed, by position in the output; parents come first.
    """

    generation: Generation
    nodes: tuple[BeamNode, ...]

    def path(self, index: int) -> list[int]:
        """The nodes from the beginning to node `index`, both included."""
        found = []
        while index >= 0:
            found.append(index)
            index = self.nodes[index].parent
        return found[::-1]

    def ids(self, index: int) -> list[int]:
        """The ids that the search wrote up to node `index`."""
        return [self.nodes[at].id for at in self.path(index)]

    def children(self) -> dict[int, list[int]]:
        """For each node, and for -1, the nodes that follow it, the likeliest first."""
        found: dict[int, list[int]] = {at: [] for at in range(-1, len(self.nodes))}
        for at, node in enumerate(self.nodes):
            found[node.parent].append(at)
        return {at: sorted(kept, key=lambda child: -self.nodes[child].total) for at, kept in found.items()}

    def ends(self) -> dict[int, int]:
        """The last node of each beam that was returned, by its place; 0 is the winner."""
        placed = [(node.place, at) for at, node in enumerate(self.nodes) if node.place is not None]
        return dict(sorted(placed))

    def returned(self) -> set[int]:
        """The nodes that are part of a beam that was returned; the others were dropped on the way."""
        return {at for end in self.ends().values() for at in self.path(end)}

    def to_frame(self) -> pd.DataFrame:
        """One row for each node."""
        import pandas as pd

        kept = self.returned()
        rows = [{"node": at, **asdict(node), "returned": at in kept} for at, node in enumerate(self.nodes)]
        names = ["node", *BeamNode.__dataclass_fields__, "returned"]
        return pd.DataFrame(rows, columns=names).astype({"place": "Int64"})

    def to_dict(self) -> dict[str, Any]:
        """The search as a JSON object; `from_dict` reads it back."""
        return {"generation": self.generation.to_dict(), "nodes": [asdict(node) for node in self.nodes]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a search back from its JSON object."""
        return cls(
            Generation.from_dict(data["generation"]), tuple(BeamNode(**node) for node in data["nodes"])
        )
