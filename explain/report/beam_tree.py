"""A beam search as lines of a tree, and as a figure: what beams share is written once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go

from explain.report import colours
from explain.report.colours import Theme
from explain.report.labels import number, plot_label, probability, token_label
from explain.report.plot_style import finish
from explain.results import BeamSearch


@dataclass(frozen=True, slots=True)
class Branch:
    """A stretch of tokens without a fork.

    Attributes:
        nodes: its nodes in the search, in order.
        depth: how many forks lie before it.
        last: no other branch follows at its fork.
        open: for each fork before its own, from the first: whether that has further branches below this line.
        log_prob: the sum of its tokens' log-probabilities in nats: how likely this way on is.
        total: the same from the beginning of the search.
        score: by which beams are compared, where a beam that was returned ends here; else None.
        place: place of that beam, 0 the winner; None for the others.
        kept: part of a beam that was returned; the others were dropped.
        forks: it goes on in several branches.
    """

    nodes: tuple[int, ...]
    depth: int
    last: bool
    open: tuple[bool, ...]
    log_prob: float
    total: float
    score: float | None
    place: int | None
    kept: bool
    forks: bool


def branches(search: BeamSearch, *, dropped: bool = False) -> list[Branch]:
    """The tree line by line, each branch below the one that it grows from, the likelier first.

    Args:
        search: the search.
        dropped: with the branches that the search gave up.
    """
    kept = search.returned()
    children = {
        at: [child for child in found if dropped or child in kept] for at, found in search.children().items()
    }
    # The branch that the best beam goes through comes first, whatever a shorter one's sum says.
    best = {
        at: place for place, end in sorted(search.ends().items(), reverse=True) for at in search.path(end)
    }
    lines: list[Branch] = []
    # Several ways to begin are branches of a fork at the very beginning.
    depth = int(len(children[-1]) > 1)
    waiting: list[tuple[int, int, tuple[bool, ...], bool]] = [
        (at, depth, (), last) for at, last in _ordered(children[-1], best)
    ]
    while waiting:
        at, depth, opened, last = waiting.pop()
        nodes = [at]
        while len(children[nodes[-1]]) == 1 and search.nodes[nodes[-1]].place is None:
            nodes.append(children[nodes[-1]][0])
        end, below = search.nodes[nodes[-1]], children[nodes[-1]]
        lines.append(
            Branch(
                nodes=tuple(nodes),
                depth=depth,
                last=last,
                open=opened,
                log_prob=sum(search.nodes[node].log_prob for node in nodes),
                total=end.total,
                score=end.score if end.place is not None else None,
                place=end.place,
                kept=nodes[-1] in kept,
                forks=bool(below),
            )
        )
        inside = (*opened, not last) if depth else ()
        waiting += [(child, depth + 1, inside, final) for child, final in _ordered(below, best)]
    return lines


def _ordered(children: list[int], best: dict[int, int]) -> list[tuple[int, bool]]:
    """Children the other way round, as a stack wants them, each with whether it is the last."""
    order = sorted(children, key=lambda at: best.get(at, len(best) + 1))
    return [(at, at == order[-1]) for at in reversed(order)]


def beam_tree_figure(search: BeamSearch, *, dropped: bool = False, theme: Theme = "light") -> go.Figure:
    """The tree as a Plotly figure: output positions across, one line of marks for each branch.

    A mark is a token, the larger the likelier where it stands; the winner's way is drawn strong, beams that
    were returned end in their place and score, and what was dropped is open.

    Args:
        search: the search.
        dropped: with the branches that the search gave up.
        theme: whose colours.
    """
    lines = branches(search, dropped=dropped)
    row = {node: at for at, line in enumerate(lines) for node in line.nodes}
    ends = search.ends()
    winner = set(search.path(ends[0])) if 0 in ends else set()
    figure = go.Figure()
    for strong in (False, True):
        x: list[float | None] = []
        y: list[float | None] = []
        for node, at in row.items():
            parent = search.nodes[node].parent
            if (node in winner) is strong and parent >= 0:
                # Down along the fork, then across: a way on begins below the token that it grows from.
                step = search.nodes[parent].step
                x += [step, step, search.nodes[node].step, None]
                y += [row[parent], at, at, None]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={
                    "color": colours.ACCENT[theme] if strong else colours.MUTED[theme],
                    "width": 2.5 if strong else 1,
                },
                hoverinfo="skip",
                showlegend=False,
            )
        )
    kept = search.returned()
    nodes = [search.nodes[node] for node in row]
    figure.add_trace(
        go.Scatter(
            name="tokens",
            x=[node.step for node in nodes],
            y=list(row.values()),
            mode="markers+text",
            text=[
                plot_label(node.text if node.text.strip() else token_label(node.text), 14) for node in nodes
            ],
            textposition="top center",
            textfont={"size": 11, "color": colours.INK[theme]},
            marker={
                "size": [5 + 9 * math.exp(min(0.0, node.log_prob)) for node in nodes],
                "color": [colours.ACCENT[theme] if node in kept else colours.PAGE[theme] for node in row],
                "line": {"width": 1.5, "color": colours.ACCENT[theme]},
            },
            customdata=[
                [probability(node.log_prob), number(node.total), number(node.score, 3)] for node in nodes
            ],
            hovertemplate="<b>%{text}</b> · step %{x}<br>probability %{customdata[0]}<br>"
            "sum %{customdata[1]} nats<br>score %{customdata[2]}<extra></extra>",
            cliponaxis=False,
            showlegend=False,
        )
    )
    for place, end in ends.items():
        if end in row:
            figure.add_annotation(
                x=search.nodes[end].step,
                y=row[end],
                text=f"{place + 1} · score {number(search.nodes[end].score, 3)}",
                showarrow=False,
                xanchor="left",
                xshift=14,
                font={"size": 12, "color": colours.INK[theme]},
            )
    last = max((node.step for node in nodes), default=0)
    figure.update_xaxes(
        title_text="output position", range=[-0.6, last + 1.6], dtick=1 if last < 25 else None, zeroline=False
    )
    figure.update_yaxes(visible=False, range=[len(lines) - 0.5, -0.9])
    return finish(figure, theme, height=110 + 46 * max(2, len(lines)))
