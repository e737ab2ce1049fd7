"""sentencepiece model -> Hugging Face `tokenizer.json` with exactly the same ids.

sentencepiece writes a space as U+2581, so that a U+2581 in a text comes back as a space. Our `tokenizer.json` holds
real spaces instead (`with_literal_characters`) and does not touch the text: any Unicode text round-trips. The
`tokenizer.model` beside it is spelt as usual (`with_escaped_spaces`), for programs that expect nothing else; the two
differ on texts with a U+2581 alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models

from tokenizer import special
from tokenizer.directory import write_directory
from tokenizer.errors import TokenizerError

SPACE_SYMBOL = "\u2581"
# In training, sentencepiece allows no tab in a piece and a space only in places: noncharacters stand in for them.
LITERAL_CHARACTERS = {" ": "\ufdd0", "\t": "\ufdd1"}

_PieceType = sentencepiece_model_pb2.ModelProto.SentencePiece.Type


def with_literal_characters(model: bytes) -> bytes:
    """Rewrites a model so that its pieces are spelt as in the text, spaces and tabs included; ids stay the same."""
    proto = _parse(model)
    spelling = str.maketrans({SPACE_SYMBOL: " ", **{symbol: text for text, symbol in LITERAL_CHARACTERS.items()}})
    if proto.normalizer_spec.escape_whitespaces:
        for piece in proto.pieces:
            if piece.type == _PieceType.NORMAL:
                piece.piece = piece.piece.translate(spelling)
        proto.normalizer_spec.escape_whitespaces = False
    return proto.SerializeToString(deterministic=True)


def with_escaped_spaces(model: bytes) -> bytes:
    """The same for a model with literal spaces, the other way: U+2581 in their place. Tabs stay what they are."""
    proto = _parse(model)
    for piece in proto.pieces:
        if piece.type == _PieceType.NORMAL:
            piece.piece = piece.piece.replace(" ", SPACE_SYMBOL)
    proto.normalizer_spec.escape_whitespaces = True
    return proto.SerializeToString(deterministic=True)


def to_hugging_face(model: bytes) -> Tokenizer:
    """The tokenizer of a model with literal spaces. Control pieces become special tokens.

    Raises `TokenizerError` naming the setting when the model has one that has no exact counterpart.
    """
    proto = _parse(model)
    _require_exact(proto)
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _PieceType.NORMAL}
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece.piece: index for index, piece in enumerate(proto.pieces)},
            merges=ranked_merges(scores),
            byte_fallback=True,
        )
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    control = (_PieceType.CONTROL, _PieceType.UNKNOWN)
    tokenizer.add_special_tokens(special_added_tokens([piece.piece for piece in proto.pieces if piece.type in control]))
    return tokenizer


def ranked_merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, in the order in which sentencepiece would.

    sentencepiece takes the joined piece with the best score first, however it is made up. A list of merges also orders
    the ways to make up one piece; the one with the shorter left part goes first.
    """
    merges = []
    for piece, score in scores.items():
        for split in range(1, len(piece)):
            left, right = piece[:split], piece[split:]
            if left in scores and right in scores:
                merges.append((-score, split, left, right))
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def special_added_tokens(strings: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(string, special=True, normalized=False) for string in strings]


def export(model_path: Path, out: Path, roles: dict[str, str] | None = None) -> dict[str, Any]:
    """Writes the tokenizer directory of a sentencepiece model file and returns what its `seed_tokenizer.json` holds.

    `roles` maps roles to the model's own control pieces, over those named like ours and those the model itself names
    (bos, eos, pad, unk).
    """
    try:
        original = model_path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{model_path}: {error.strerror}; give a sentencepiece model file") from None
    model = with_literal_characters(original)
    tokenizer = to_hugging_face(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    own = {role: getattr(processor, f"{role}_id")() for role in ("bos", "eos", "pad", "unk")}
    strings = {role: string for role, string in special.STRINGS.items() if tokenizer.token_to_id(string) is not None}
    strings |= {role: processor.id_to_piece(index) for role, index in own.items() if index >= 0}
    return write_directory(
        out,
        tokenizer,
        "sentencepiece",
        {**strings, **(roles or {})},
        {"tokenizer.model": with_escaped_spaces(model)},
        {"exported_from": model_path.name},
    )


def _parse(model: bytes) -> sentencepiece_model_pb2.ModelProto:
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError:
        raise TokenizerError("not a sentencepiece model: the file does not parse") from None
    return proto


def _require_exact(proto: sentencepiece_model_pb2.ModelProto) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    wrong = [
        message
        for found, message in (
            (trainer.model_type != trainer.BPE, "model_type must be bpe"),
            (not trainer.byte_fallback, "byte_fallback must be true"),
            (normalizer.precompiled_charsmap, "normalization_rule_name must be identity"),
            (normalizer.add_dummy_prefix, "add_dummy_prefix must be false"),
            (normalizer.remove_extra_whitespaces, "remove_extra_whitespaces must be false"),
            (trainer.treat_whitespace_as_suffix, "treat_whitespace_as_suffix must be false"),
            (
                any(piece.type in (_PieceType.USER_DEFINED, _PieceType.UNUSED) for piece in proto.pieces),
                "it must have no user-defined or unused pieces (special tokens are control symbols)",
            ),
        )
        if found
    ]
    if wrong:
        raise TokenizerError(f"the sentencepiece model has no exact tokenizer.json: {'; '.join(wrong)}")
