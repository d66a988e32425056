"""Text to token ids: cased WordPiece over the `tokenizers` package.

Ids are the tokenizer's own, without `TokenLayout.text_offset`. Nothing is cut, padded or
surrounded with special tokens, whatever a tokenizer.json asks for.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from bark_core.errors import InvalidCheckpoint, InvalidText, MissingFiles
from bark_core.files import storage_error, write_bytes_atomically

UNKNOWN = "[UNK]"
SPECIAL_TOKENS = (UNKNOWN, "[SEP]", "[PAD]", "[CLS]", "[MASK]")  # never split, as BERT's are
FILE_NAMES = ("tokenizer.json", "vocab.txt")
MAX_FILE_BYTES = 64 * 2**20  # that of bert-base-multilingual-cased has 2 MB
MAX_CHARACTERS_PER_WORD = 100  # a longer word becomes one [UNK], as in BERT


@dataclass(frozen=True, slots=True)
class Token:
    """One token and where it stands: text[start:end] is what it was made of."""

    id: int
    text: str
    start: int
    end: int


class Tokenizer:
    """WordPiece ids of a text. Thread-safe: nothing changes after it was made."""

    __slots__ = ("_definition", "_encoder", "_unknown_id")

    def __init__(self, encoder: tokenizers.Tokenizer) -> None:
        """Prefer `from_file` or `from_vocabulary`. `encoder` must not be changed afterwards.

        Raises:
            InvalidCheckpoint: it isn't WordPiece, or has no unknown token.
        """
        if not isinstance(encoder.model, models.WordPiece):
            raise InvalidCheckpoint(
                f"the tokenizer must be WordPiece, got {type(encoder.model).__name__}; "
                "use the tokenizer.json or vocab.txt that belongs to the model"
            )
        unknown_id = encoder.token_to_id(encoder.model.unk_token)
        if unknown_id is None:
            raise InvalidCheckpoint(
                f"the vocabulary has no unknown token {encoder.model.unk_token!r}; "
                "use the tokenizer.json or vocab.txt that belongs to the model"
            )
        encoder.no_truncation()
        encoder.no_padding()
        self._definition = encoder.to_str(pretty=False)
        # inside the pipeline, so that offsets still refer to the text as it was given
        nfc: list[normalizers.Normalizer] = [normalizers.NFC()]
        if encoder.normalizer is not None:
            nfc.append(encoder.normalizer)
        encoder.normalizer = normalizers.Sequence(nfc)
        self._encoder = encoder
        self._unknown_id = unknown_id

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a tokenizer.json, a BERT vocab.txt, or a folder that holds one of them.

        Raises:
            MissingFiles: there is no such file or folder, or the folder holds neither.
            InvalidCheckpoint: the file is damaged or isn't a WordPiece tokenizer.
        """
        file = _find(Path(path))
        text = _read(file)
        try:
            return cls(_from_json(text) if file.suffix == ".json" else _from_vocab_txt(text))
        except InvalidCheckpoint as error:
            raise InvalidCheckpoint(f"{file}: {error}") from error

    @classmethod
    def from_vocabulary(cls, tokens: Sequence[str]) -> Self:
        """A cased WordPiece tokenizer whose ids are the positions in `tokens`.

        Args:
            tokens: distinct; "[UNK]" among them; "##" marks those that continue a word.

        Raises:
            InvalidCheckpoint: a token is missing, empty or there twice.
        """
        return cls(_from_tokens(tokens))

    def __reduce__(self) -> tuple[object, ...]:
        return _restored_tokenizer, (self._definition,)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary: ids are 0..n_tokens - 1."""
        return int(self._encoder.get_vocab_size(with_added_tokens=True))

    @property
    def unknown_id(self) -> int:
        """The id that stands for every word that the vocabulary can't spell."""
        return int(self._unknown_id)

    def encode(self, text: str) -> list[int]:
        """Ids of the NFC-normalised text, without special tokens, as many as there are.

        Raises:
            InvalidText: the text holds half a character (a lone surrogate).
        """
        return list(self._encode(text).ids)

    def count(self, text: str) -> int:
        """len(encode(text))."""
        return len(self._encode(text))

    def encode_with_offsets(self, text: str) -> list[Token]:
        """Like `encode`, with each token's place in `text` as it was given, in characters."""
        encoding = self._encode(text)
        next_starts = [*(start for start, _ in encoding.offsets[1:]), len(text)][: len(encoding)]
        return [
            Token(id=id_, text=token, start=start, end=_past_marks(text, end, next_start))
            for id_, token, (start, end), next_start in zip(
                encoding.ids, encoding.tokens, encoding.offsets, next_starts, strict=True
            )
        ]

    def unknown(self, text: str) -> list[str]:
        """What of `text` the model can't read: the words that become [UNK], each once."""
        found = (
            text[token.start : token.end]
            for token in self.encode_with_offsets(text)
            if token.id == self._unknown_id
        )
        return list(dict.fromkeys(found))

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json; a folder gets one of that name.

        Raises:
            StorageError: it can't be written.
        """
        path = Path(path)
        target = path / FILE_NAMES[0] if path.is_dir() else path
        write_bytes_atomically(target, self._definition.encode())

    def _encode(self, text: str) -> Any:
        try:
            return self._encoder.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError) as error:
            raise InvalidText(
                "the text must be a string of whole Unicode characters, got "
                f"{'half a character' if isinstance(text, str) else type(text).__name__}; "
                "clean it with bark_core.text.normalize"
            ) from error


def _past_marks(text: str, end: int, limit: int) -> int:
    """Move `end` past the marks that were composed away, which no token's offsets cover."""
    while end < limit and (
        unicodedata.combining(text[end]) or "\u1160" <= text[end] <= "\u11ff"  # Hangul jamo
    ):
        end += 1
    return end


def _restored_tokenizer(definition: str) -> Tokenizer:
    """For pickle: the same one again."""
    return Tokenizer(_from_json(definition))


def _find(path: Path) -> Path:
    candidates = [path / name for name in FILE_NAMES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    wanted = " or ".join(FILE_NAMES)
    raise MissingFiles(
        f"no tokenizer at {path}; put the model's {wanted} there"
        if path.is_dir()
        else f"no file {path}; give a {wanted} or a folder that holds one"
    )


def _read(file: Path) -> str:
    try:
        n_bytes = file.stat().st_size
        if n_bytes > MAX_FILE_BYTES:
            raise InvalidCheckpoint(
                f"{file} has {n_bytes} bytes; a tokenizer has at most {MAX_FILE_BYTES}"
            )
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidCheckpoint(f"{file} isn't UTF-8 text ({error}); get it again") from error
    except OSError as error:
        raise storage_error("read", file, error) from error


def _from_json(text: str) -> tokenizers.Tokenizer:
    try:
        if not isinstance(json.loads(text), dict):
            raise TypeError("not a JSON object")
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the package raises bare Exception
        raise InvalidCheckpoint(f"damaged tokenizer ({error}); get it again") from error


def _from_vocab_txt(text: str) -> tokenizers.Tokenizer:
    # only line feeds separate: other line marks of Unicode are tokens
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return _from_tokens(lines)


def _from_tokens(tokens: Sequence[str]) -> tokenizers.Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or "" in vocabulary or UNKNOWN not in vocabulary:
        raise InvalidCheckpoint(
            f"a vocabulary is distinct, non-empty tokens with {UNKNOWN} among them; got "
            f"{len(tokens)} tokens of which {len(vocabulary)} are distinct, "
            f"{'with' if UNKNOWN in vocabulary else 'without'} {UNKNOWN}"
        )
    encoder = tokenizers.Tokenizer(
        models.WordPiece(
            vocabulary,
            unk_token=UNKNOWN,
            continuing_subword_prefix="##",
            max_input_chars_per_word=MAX_CHARACTERS_PER_WORD,
        )
    )
    encoder.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    encoder.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS if t in vocabulary]
    )
    return encoder
