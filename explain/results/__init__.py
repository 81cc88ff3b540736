"""What the toolkit hands back: frozen results with named dimensions that can be saved and read again."""

from explain.results.attribution import Attribution, load_attribution
from explain.results.beams import BeamNode, BeamSearch
from explain.results.capture import Capture, load_capture
from explain.results.generation import Alternative, Beam, Generation
from explain.results.grouping import LEVELS, REDUCTIONS
from explain.results.sentences import group_sentences
from explain.results.tokens import Token, group_words

__all__ = [
    "LEVELS",
    "REDUCTIONS",
    "Alternative",
    "Attribution",
    "Beam",
    "BeamNode",
    "BeamSearch",
    "Capture",
    "Generation",
    "Token",
    "group_sentences",
    "group_words",
    "load_attribution",
    "load_capture",
]
