"""Laws of the tokenizer: BERT's ids, nothing cut or added, damage is named."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_core.errors import InvalidCheckpoint, InvalidText, MissingFiles, StorageError
from bark_core.tokenizer import UNKNOWN, Tokenizer
from training.vocabulary import N_TOKENS, character_vocabulary

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Hello", "hello", "##lo", "wor", "##ld"),
    *("é", "##é", ",", ".", "!", "'", "[", "]", "♪", "漢", "字", "laughs", "नम", "##स्ते"),
    *("ü", "##ber", "straße", "1", "##2"),
]
SAMPLES = (
    "Hello, world!",
    "hello [laughs] world.",
    "Helloé e\u0301 u\u0308ber",
    "漢字 hello漢",
    "♪ hello ♪ [MASK] [SEP]x",
    "नमस्ते straße 12 \u00a0\t12",
    "unknownword Hello" + "lo" * 60,
    "a\u200bb\u0000c \ufffd",
    "",
)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.from_vocabulary(WORDS)


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return Tokenizer.from_vocabulary(character_vocabulary())


def test_vocabulary_is_distinct_and_of_fixed_size() -> None:
    tokens = character_vocabulary()
    assert len(tokens) == len(set(tokens)) == N_TOKENS
    assert tokens[:6] == ["[PAD]", "[UNK]", "a", "##a", "b", "##b"]


def test_one_token_a_character(characters: Tokenizer) -> None:
    text = 'Wait - it\'s 5:30 (really); "yes" … — [laughs] ♪ la, la ♪ & so on!?'
    assert characters.count(text) == len(text.replace(" ", ""))
    assert characters.unknown(text) == []


def test_ids_are_positions_in_the_vocabulary(words: Tokenizer) -> None:
    expected = ["Hello", ",", "wor", "##ld", "!"]
    assert words.encode("Hello, world!") == [WORDS.index(token) for token in expected]
    assert words.n_tokens == len(WORDS)


def test_same_ids_as_transformers(tmp_path: Path, words: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    reference = transformers.BertTokenizer.from_pretrained(
        tmp_path, do_lower_case=False, strip_accents=False
    )
    ours = Tokenizer.from_file(tmp_path)
    for text in SAMPLES:
        composed = unicodedata.normalize("NFC", text)
        assert ours.encode(text) == reference.encode(composed, add_special_tokens=False), text


def test_composed_and_decomposed_are_one(words: Tokenizer) -> None:
    assert words.encode("e\u0301") == words.encode("é") == [WORDS.index("é")]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cn"], max_codepoint=0x2FFFF), max_size=30))
def test_offsets_refer_to_the_text_given(text: str) -> None:
    tokenizer = Tokenizer.from_vocabulary(character_vocabulary())
    tokens = tokenizer.encode_with_offsets(text)
    composed = unicodedata.normalize("NFC", text)
    assert [token.id for token in tokens] == tokenizer.encode(text) == tokenizer.encode(composed)
    assert tokenizer.count(text) == len(tokens)
    end = 0
    for token in tokens:
        assert end <= token.start < token.end <= len(text)
        end = token.end
        if token.text != UNKNOWN:
            source = unicodedata.normalize("NFC", text[token.start : token.end])
            assert source == token.text.removeprefix("##")


def test_unknown_names_each_word_once(characters: Tokenizer) -> None:
    assert characters.unknown("cafe\u0301 ok 漢字 café cafe\u0301") == [
        "cafe\u0301",
        "漢",
        "字",
        "café",
    ]


def test_nothing_is_cut_padded_or_added(tmp_path: Path, words: Tokenizer) -> None:
    words.save(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    definition["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    definition["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    definition["post_processor"] = {
        "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2],
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.encode("Hello, world!") == words.encode("Hello, world!")
    assert tokenizer.encode("Hello") == words.encode("Hello")


def test_saved_is_read_back_the_same(tmp_path: Path, words: Tokenizer) -> None:
    words.save(tmp_path / "a.json")
    again = Tokenizer.from_file(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert [again.encode(text) for text in SAMPLES] == [words.encode(text) for text in SAMPLES]


def test_vocab_txt_keeps_odd_lines(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("[UNK]\r\n\u2028\r\na\r\n".encode())
    assert Tokenizer.from_file(tmp_path / "vocab.txt").encode("a b") == [2, 0]


def test_json_is_preferred_in_a_folder(tmp_path: Path, words: Tokenizer) -> None:
    words.save(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\nx\n", encoding="utf-8")
    assert Tokenizer.from_file(tmp_path).n_tokens == len(WORDS)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", 5, None, b"bytes"])
def test_not_text_is_refused(characters: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidText, match="whole Unicode characters"):
        characters.encode(text)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[1]"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece"'),
        ("tokenizer.json", b"\xff\xfe\x00"),
        ("tokenizer.json", b"[" * 100_000),
        ("vocab.txt", b""),
        ("vocab.txt", b"a\nb\n"),
        ("vocab.txt", b"[UNK]\na\na\n"),
        ("vocab.txt", b"[UNK]\n\na\n"),
        ("vocab.txt", b"PK\x03\x04\xff\xff"),
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidCheckpoint, match=name):
        Tokenizer.from_file(tmp_path)


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InvalidCheckpoint, match=r"WordPiece, got BPE"):
        Tokenizer.from_file(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_json_is_read_or_refused(data: st.DataObject) -> None:
    tokenizer = Tokenizer.from_vocabulary(["[UNK]", "a", "##b"])
    definition = bytearray(tokenizer._definition.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        definition[data.draw(st.integers(0, len(definition) - 1))] = data.draw(st.integers(0, 127))
    try:
        from bark_core.tokenizer import _from_json

        mutated = Tokenizer(_from_json(definition.decode()))
    except InvalidCheckpoint:
        return
    assert isinstance(mutated.encode("ab c"), list)


def test_missing_file_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(MissingFiles, match=r"tokenizer\.json or vocab\.txt there"):
        Tokenizer.from_file(tmp_path)
    with pytest.raises(MissingFiles, match="no file"):
        Tokenizer.from_file(tmp_path / "none.json")


def test_unwritable_place_is_named(tmp_path: Path, words: Tokenizer) -> None:
    with pytest.raises(StorageError):
        words.save(tmp_path / "none" / "tokenizer.json")
