"""The real tokenizer class of every family, over a SentencePiece model trained on the spot."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece
import transformers as hf
from transformers import PreTrainedTokenizerBase

from tests.models import WORDS


def _sentencepiece(folder: Path) -> tuple[Path, list[tuple[str, float]]]:
    """A trained SentencePiece file, and its pieces with scores."""
    text = [" ".join(WORDS)] * 5 + [f"{a} {b}" for a in WORDS for b in WORDS]
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=stream,
        vocab_size=90,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    path = folder / "trained.spm"
    path.write_bytes(stream.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return path, [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]


def real_tokenizer(family: str, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer class that transformers uses for a family."""
    path, pieces = _sentencepiece(folder)
    words = [(piece, score) for piece, score in pieces if piece not in ("<unk>", "<s>", "</s>")]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    if family in ("t5", "mt5"):
        return hf.T5Tokenizer(vocab=[special[1], special[2], special[3], *words], extra_ids=2)
    if family == "pegasus":
        names = ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_3>", "<unk>"]
        return hf.PegasusTokenizer(vocab=[*((name, 0.0) for name in names), *words], offset=6)
    if family == "bart":
        ids = {p.replace("▁", "Ġ"): i for i, (p, _) in enumerate([*special, *words])}
        return hf.BartTokenizer(vocab=ids, merges=[])
    if family == "mbart":
        return hf.MBartTokenizer(vocab=[*special, *words], src_lang="en_XX", tgt_lang="fr_XX")
    if family == "mbart50":
        return hf.MBart50Tokenizer(vocab=[*special, *words], src_lang="en_XX", tgt_lang="fr_XX")
    vocabulary = {piece: i for i, (piece, _) in enumerate([*special, *words])}
    listing = folder / "vocab.json"
    listing.write_text(json.dumps(vocabulary), "utf-8")
    if family == "marian":
        target = folder / "target.spm"
        target.write_bytes(path.read_bytes())
        return hf.MarianTokenizer(str(path), str(target), str(listing), source_lang="en", target_lang="fr")
    return hf.M2M100Tokenizer(str(listing), str(path), src_lang="en", tgt_lang="fr")
