"""The model room: opening models, decoding, capturing and replacing activations."""

from explain.model.parity import Check, doctor
from explain.model.seq2seq import Seq2Seq, load, wrap

__all__ = ["Check", "Seq2Seq", "doctor", "load", "wrap"]
