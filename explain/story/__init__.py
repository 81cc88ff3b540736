"""The story room: a model's explanations at chosen steps of its training, and what they tell."""

from explain.story.findings import KINDS, Finding, StoryRules
from explain.story.look import Look, ProbeMap, StorySettings, SwapRow, read_look, take_look
from explain.story.probes import Probe, Swap, pair_probes, read_probes, task_probes
from explain.story.result import TrainingStory, has_story, read_story, story_steps, training_story
from explain.story.watch import FOLDER, StoryWatch, look_path

__all__ = [
    "FOLDER",
    "KINDS",
    "Finding",
    "Look",
    "Probe",
    "ProbeMap",
    "StoryRules",
    "StorySettings",
    "StoryWatch",
    "Swap",
    "SwapRow",
    "TrainingStory",
    "has_story",
    "look_path",
    "pair_probes",
    "read_look",
    "read_probes",
    "read_story",
    "story_steps",
    "take_look",
    "task_probes",
    "training_story",
]
