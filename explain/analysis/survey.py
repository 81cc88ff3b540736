"""All heads of a model: what each looks at, the role that gives it, and what outputs lose without it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explain.analysis.heads import HeadRoles, HeadStatistics, RoleRules, head_roles, head_statistics
from explain.analysis.importance import HeadImportance, head_ablation, head_importance, rank_correlation
from explain.analysis.inputs import Progress
from explain.attribution.objectives import Objective
from explain.model import Seq2Seq
from explain.model.seq2seq import as_list
from explain.results import Generation
from explain.training.tasks import TokenGold

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class HeadSurvey:
    """Figures, roles and importance of every head of a model over the same outputs.

    Attributes:
        statistics: what each head looks at.
        roles: what that makes it.
        gradient: what the objective loses to first order when a head is turned down.
        ablation: what it loses when the head is silenced.
        agreement: Spearman's ρ between the two importances over all heads: 1 the same order, 0 none; nan
            where one is the same for all heads. Where it is low, believe the ablation.
    """

    statistics: HeadStatistics
    roles: HeadRoles
    gradient: HeadImportance
    ablation: HeadImportance
    agreement: float

    def to_frame(self) -> pd.DataFrame:
        """One row per head: its place, figures, `role`, `roles`, `offset`, and both importances.

        Those are `gradient`, `gradient_signed`, `gradient_relative`, and the same of `ablation`.
        """
        frame = self.statistics.to_frame()
        roles = self.roles.to_frame()
        for name in ("role", "roles", "offset"):
            frame[name] = roles[name]
        for importance in (self.gradient, self.ablation):
            found, name = importance.to_frame(), importance.by
            frame[name] = found["importance"]
            frame[f"{name}_signed"] = found["signed"]
            frame[f"{name}_relative"] = found["relative"]
        return frame

    def to_dict(self) -> dict[str, Any]:
        """The survey as a JSON object."""
        return {
            "statistics": self.statistics.to_dict(),
            "roles": self.roles.to_dict(),
            "gradient": self.gradient.to_dict(),
            "ablation": self.ablation.to_dict(),
            "agreement": self.agreement,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadSurvey:
        """Read a survey back from its JSON object; null stands for nan."""
        return cls(
            statistics=HeadStatistics.from_dict(data["statistics"]),
            roles=HeadRoles.from_dict(data["roles"]),
            gradient=HeadImportance.from_dict(data["gradient"]),
            ablation=HeadImportance.from_dict(data["ablation"]),
            agreement=math.nan if data["agreement"] is None else float(data["agreement"]),
        )


def survey_heads(
    model: Seq2Seq,
    generations: Generation | Sequence[Generation],
    gold: Sequence[TokenGold | None] | None = None,
    *,
    objective: Objective = "log_prob",
    rules: RoleRules | None = None,
    how: str = "zero",
    progress: Progress | None = None,
) -> HeadSurvey:
    """Look at every head of a model over some outputs; see the functions that it puts together.

    Args:
        model: an opened model.
        generations: one output, or a list.
        gold: for each output what its tokens depend on, or None; see `head_statistics`.
        objective: what heads are important for; see `head_importance`.
        rules: see `head_roles`.
        how: what stands in a silenced head's place; see `head_ablation`.
        progress: called with (done, all) as the work goes on; every output counts three times.

    Raises:
        InputError: no outputs, gold that does not go with them, or what the functions cannot use.
    """
    several = as_list(generations)

    def third(number: int) -> Progress:
        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(number * total + done, 3 * total)

        return tell

    statistics = head_statistics(model, several, gold, progress=third(0))
    gradient = head_importance(model, several, objective, progress=third(1))
    ablation = head_ablation(model, several, objective, how=how, progress=third(2))
    return HeadSurvey(
        statistics=statistics,
        roles=head_roles(statistics, rules),
        gradient=gradient,
        ablation=ablation,
        agreement=rank_correlation(gradient, ablation),
    )
