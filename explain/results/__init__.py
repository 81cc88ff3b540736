"""What the toolkit hands back: frozen results with named dimensions that can be saved and read again."""

from explain.results.attribution import Attribution, load_attribution
from explain.results.capture import Capture, load_capture
from explain.results.generation import Alternative, Beam, Generation
from explain.results.tokens import Token, group_words

__all__ = [
    "Alternative",
    "Attribution",
    "Beam",
    "Capture",
    "Generation",
    "Token",
    "group_words",
    "load_attribution",
    "load_capture",
]
