"""Explanations along training: what the model leaned on at each kept step of a run."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard import frame, snippets
from dashboard.labels import excerpt, plain
from explain.report import story_plots
from explain.report.labels import listed, number, plural
from explain.runs import Run
from explain.story import Finding, ProbeMap, TrainingStory, has_story, read_story, story_steps

_HAPPENED = {
    "maps_right": "The maps point at the source words that are needed.",
    "maps_faithful": "Hiding what the maps rank first hurts more than hiding words at random.",
    "exact_match": "At least half of the texts it never saw are written exactly right.",
}
LATEST = -1
"""Stands for the newest look, so that the page follows a run that is at work."""


def exists(run: Run) -> bool:
    """Whether explanations were kept along this run."""
    return has_story(run)


def story(run: Run) -> None:
    """The findings in words, a probe's map under a slider over the steps, heads and figures by step."""
    steps = story_steps(run)
    if not steps:
        st.caption("Nobody has looked yet; the first look is before the first step.")
        return
    with frame.friendly():
        found = _read(str(run.path), steps, str(run.manifest.get("created")))
        _findings(found)
        lines = ["import explain", "", f"story = explain.training_story({str(run.path)!r})"]
        _probe(found, lines)
        _heads(found, lines)
        _figures(found, lines)


@st.cache_resource(max_entries=4, show_spinner="Reading what was kept …")
def _read(path: str, steps: tuple[int, ...], created: str) -> TrainingStory:
    return read_story(path)


def _findings(found: TrainingStory) -> None:
    """A line for each thing that happened, by step; the figures behind them are tucked away."""
    if not found.findings:
        st.caption("Nothing has changed for good yet: no heads that align, no cue that decides.")
        return
    groups: dict[tuple[int, str], list[Finding]] = {}
    for finding in found.findings:
        groups.setdefault((finding.step, finding.kind), []).append(finding)
    lines = []
    for (step, kind), those in groups.items():
        sign = ":orange[:material/warning:]" if kind == "shortcut" else ":material/flag:"
        lines.append(f"{sign} **Step {step:,}:** {plain(_happened(kind, those))}")
    st.markdown("  \n".join(lines))
    with st.expander("The figures behind this", key="story_evidence"):
        st.markdown("\n".join(f"- {plain(finding.text)}" for finding in found.findings))


def _happened(kind: str, those: Sequence[Finding]) -> str:
    """What happened at a step, in a few words."""
    if kind == "alignment_head":
        begins = "begins" if len(those) == 1 else "begin"
        return f"{plural(len(those), 'attention head')} {begins} to look at the source word that is needed."
    if kind == "shortcut":
        cues = listed([f"‘{one.subject}’" for one in those])
        return f"{cues} decides outputs from here on, though it should not matter."
    return _HAPPENED[kind]


def _probe(found: TrainingStory, lines: Sequence[str]) -> None:
    """One probe's map; dragging the slider plays its training."""
    frame.section("One text, step by step")
    maps = max(found.looks, key=lambda look: len(look.maps)).maps
    left, right = st.columns([2, 3], gap="large", vertical_alignment="bottom")
    probe = left.selectbox(
        "Text",
        range(len(maps)),
        format_func=lambda index: _label(maps[index]),
        key="story_probe",
        persist_state="session",
    )
    step = right.select_slider(
        "Training step",
        [*found.steps, LATEST],
        value=LATEST,
        format_func=lambda step: "latest" if step == LATEST else f"{step:,}",
        key=f"story_step_{found.run}",
    )
    look = found.looks[-1] if step == LATEST else found.at(step)
    if probe >= len(look.maps):
        st.caption("This text was not looked at then.")
        return
    seen = look.maps[probe]
    with st.container(horizontal=True, gap="medium"):
        for label, value, help in (
            ("Step", f"{look.step:,}", "of the training"),
            (
                "Right output",
                f"{number(float(seen.log_probs.sum()), 1)} nats",
                "its log-probability; 0 is certain, below is less likely",
            ),
        ):
            st.metric(label, value, help=help, width="content")
        with st.container(width="stretch", gap=None):
            st.caption("What the model wrote of itself")
            st.text(excerpt(seen.output, 200) or "(nothing)")
    frame.figure(
        story_plots.probe_map(seen, limit=story_plots.map_limit(found, probe), theme=frame.theme()),
        story_plots.MAP_HELP,
        key="map_story_probe",
        alt=f"Heat map: what each token of the right output leans on, at step {look.step}",
        python=snippets.shown(lines, [], f"probe_map(story.at({look.step}).maps[{probe}])", "story_plots"),
    )


def _label(seen: ProbeMap) -> str:
    """The source text again, for a list."""
    words = [text for text in seen.source_tokens if not (text.startswith("<") and text.endswith(">"))]
    glue = "" if any(text[:1].isspace() for text in words) else " "
    return excerpt(glue.join(words), 60)


def _heads(found: TrainingStory, lines: Sequence[str]) -> None:
    frame.section("Attention heads, step by step")
    names = [name for name in story_plots.HEAD_FIGURES if story_plots.head_values(found, name)[0]]
    if not names:
        st.caption("No figures of heads were kept.")
        return
    left, right = st.columns(2)
    name = left.selectbox(
        "Figure",
        names,
        format_func=lambda name: story_plots.HEAD_FIGURES[name],
        key="story_head_figure",
        persist_state="session",
    )
    kind = right.segmented_control(
        "Heads",
        ["all", "cross", "self"],
        default="all",
        format_func=lambda kind: {"all": "All", "cross": "Cross", "self": "Self"}[kind],
        key="story_heads",
        persist_state="session",
    )
    wanted = None if kind in (None, "all") else kind
    if not story_plots.head_values(found, name, wanted)[0]:
        st.caption("This figure is not defined for these heads.")
        return
    frame.figure(
        story_plots.heads_by_step(found, name, wanted, theme=frame.theme()),
        story_plots.HEADS_HELP,
        key="map_story_heads",
        alt="Heat map: attention heads by training step",
        python=snippets.shown(lines, [], f"heads_by_step(story, {name!r}, {wanted!r})", "story_plots"),
        data=found.heads_frame,
    )


def _figures(found: TrainingStory, lines: Sequence[str]) -> None:
    frame.section("Loss, right answers and right reasons")
    frame.figure(
        story_plots.story_curves(found, theme=frame.theme()),
        story_plots.CURVES_HELP,
        key="story_curves",
        alt="Lines: loss, exact match, precision of the maps and effect of cues by training step",
        data=found.to_frame,
        python=snippets.shown(lines, [], "story_curves(story)", "story_plots"),
    )
