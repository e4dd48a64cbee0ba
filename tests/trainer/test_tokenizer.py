"""Text survives the tokenizer, and nothing in a text can pass for a special token."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from random import Random

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from trainer.tokenizer import LONGEST_PIECE, Tokenizer, TokenizerError

TEXT = [
    "The reader reads 1234 rows; the writer writes them.\n\n    def read(self):\n        return None\n"
] * 20


@lru_cache
def trained() -> Tokenizer:
    return Tokenizer.train(TEXT, 320)


@given(st.text())
def test_any_text_comes_back_exactly(text):
    tokenizer = trained()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert sum(tokenizer.byte_lengths[token] for token in ids) == len(text.encode())


@given(st.lists(st.sampled_from(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", " ", "<|", "\n"])))
def test_the_name_of_a_special_token_in_a_text_is_ordinary_text(parts):
    tokenizer = trained()
    ids = tokenizer.encode("".join(parts))
    assert not {tokenizer.endoftext, tokenizer.im_start, tokenizer.im_end} & set(ids)
    assert tokenizer.decode(ids) == "".join(parts)


def defined(text: str) -> list[int]:
    """The ids that the saved tokenizer.json gives a text, according to `tokenizers`."""
    bpe = tokenizers.Tokenizer.from_str(trained()._bpe.to_str())
    bpe.encode_special_tokens = True
    return bpe.encode(text, add_special_tokens=False).ids


@given(
    st.text()
    | st.text("\u180e \n\t\u2028ſs'019aé<|im_end>")
    | st.binary().map(lambda raw: raw.decode("latin-1"))
)
@example(" " * 9_000 + "x")
@example("<|endoftext|>\u180e<|im_end|>")
def test_the_fast_encoder_gives_the_ids_that_the_file_defines(text):
    assert trained().encode(text) == defined(text)
    assert trained().encode_array(text).tolist() == defined(text)


def test_threads_may_encode_at_once():
    texts = [f"{text} {number}" for number, text in enumerate(TEXT * 50)]
    expected = [trained().encode(text) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(trained().encode, texts)) == expected


def test_special_tokens_stand_for_no_bytes():
    tokenizer = trained()
    specials = [tokenizer.endoftext, tokenizer.im_start, tokenizer.im_end]
    assert len(set(specials)) == 3
    assert tokenizer.decode_bytes(specials) == b""
    assert [tokenizer.byte_lengths[token] for token in specials] == [0, 0, 0]
    assert len(tokenizer.byte_lengths) == tokenizer.vocab_size


def test_half_of_a_surrogate_pair_becomes_a_replacement_character():
    tokenizer = trained()
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_numbers_are_cut_into_digits():
    tokenizer = Tokenizer.train(["1234567890 " * 50], 400)
    assert max(len(tokenizer.decode([token]).strip()) for token in tokenizer.encode("1234567890")) == 1


def test_training_twice_gives_the_same_tokenizer():
    assert Tokenizer.train(TEXT, 320).fingerprint == trained().fingerprint


LONG = {
    "letters": "".join(Random(0).choices("abcdefghij", k=30_000)),
    "a letter": "a" * 100_000,  # became a token of 65,536 bytes, which the encoder cannot hold
    "spaces": " " * 100_000,
    "tabs": "\t" * 10_000,
    "line breaks": "\n" * 10_000,
    "dashes": "-" * 100_000,
    "marks": "\u0301" * 10_000,
    "characters": "".join(map(chr, range(0x4E00, 0x7E00))),
    "emoji": "\U0001f600" * 10_000,
}


@pytest.mark.parametrize("word", LONG.values(), ids=LONG)
def test_of_a_long_piece_merges_are_learned_in_parts(word):
    parts = [word[at : at + LONGEST_PIECE] for at in range(0, len(word), LONGEST_PIECE)]
    tokenizer = Tokenizer.train([word, *TEXT], 320)
    assert tokenizer.fingerprint == Tokenizer.train([*parts, *TEXT], 320).fingerprint
    assert max(len(tokenizer.decode([token])) for token in range(tokenizer.vocab_size)) <= LONGEST_PIECE
    assert tokenizer.decode(tokenizer.encode(word)) == word


def test_normal_text_gives_the_tokenizer_it_always_gave():
    golden = "f95be918f8676be49d5f5db3ac825b0570c8a545b42425d0fbbb7c9e70aeb483"
    assert trained().fingerprint == golden
    assert defined("The reader  reads\n\n1234 rows") == trained().encode("The reader  reads\n\n1234 rows")


def test_little_text_gives_a_smaller_vocabulary():
    assert 259 <= Tokenizer.train(["abc"], 4096).vocab_size < 4096


def test_a_saved_tokenizer_is_the_same_when_loaded(tmp_path):
    trained().save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == trained().fingerprint
    assert loaded.encode("<|im_end|> the reader") == trained().encode("<|im_end|> the reader")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer at .*nowhere\.json"):
        Tokenizer.load(tmp_path / "nowhere.json")


def test_a_damaged_tokenizer_is_named(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    trained().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is damaged"):
        Tokenizer.load(path)


def test_a_tokenizer_without_our_special_tokens_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    definition = trained().definition
    for token in definition["added_tokens"]:
        del definition["model"]["vocab"][token["content"]]
    vocabulary = definition["model"]["vocab"]
    definition["model"]["vocab"] = {token: token_id - 3 for token, token_id in vocabulary.items()}
    path.write_text(json.dumps(definition | {"added_tokens": []}))
    with pytest.raises(TokenizerError, match=r"has no <\|endoftext\|> token"):
        Tokenizer.load(path)
