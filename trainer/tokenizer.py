"""Byte-level BPE: any text becomes token ids and comes back exactly, byte for byte.

The pieces are those of Qwen2's tokenizer, which every program that runs models knows: a split regex, a number
digit by digit, then BPE over bytes. A document is encoded without special tokens; who strings documents
together puts `<|endoftext|>` before, between and after them, so the model learns to begin a text after it.
Training takes about a second per 2 MB.

`tokenizers` trains, saves and defines what a text's ids are; `fastokens` encodes, to the same ids, at 30 MB a
second and core instead of 1.5. In one character the two differ: U+180E is white space to the regex engine of
the second, and has not been since Unicode 6.3. A text that has it is left to the first.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastokens
import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from tinylm.errors import FileError, TinylmError
from tinylm.files import read_json, replacing, write_json
from tinylm.records import MALFORMED, typed

# Qwen2's pattern, to the letter: llama.cpp knows it by name (interop/gguf.py), and numbers are split digit by
# digit (\p{N} without a count).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Characters of a piece that merges are learned from as one; longer ones (base64, dashes) are cut for that,
# and no token is longer. Learning takes time in proportion to it: a word of 2 MB took hours; and a token of
# 64 KB, of dashes, is more than the encoder can hold. Half of it would cut rules of dashes that people write.
LONGEST_PIECE = 256
# In the order of their ids; Qwen's names, which every chat program knows.
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Where transformers says which tokens end a text: beside a tokenizer that is adopted, and where it is saved.
GENERATION, _ENDS = "generation_config.json", "eos_token_id"
_SPACE_TO_ONE_ENCODER_ONLY = "\u180e"


class TokenizerError(TinylmError):
    """A tokenizer that cannot be trained or read."""


class Tokenizer:
    """Text to token ids and back.

    `endoftext`, `im_start` and `im_end` are the ids of our special tokens, `special` those of all, and `ends`
    what ends a text beside ours, in a tokenizer that was adopted. `vocab_size` counts them too, and
    `byte_lengths[id]` says how many bytes of text a token stands for (0 for the special ones).
    """

    def __init__(self, bpe: tokenizers.Tokenizer, ends: Iterable[int] = ()) -> None:
        # Text is never trusted: a special token's name inside it is encoded as ordinary characters.
        bpe.encode_special_tokens = True
        self._bpe = bpe
        self.vocab_size: int = bpe.get_vocab_size()
        ids: list[Any] = [bpe.token_to_id(name) for name in SPECIALS]
        if None in ids:
            raise TokenizerError(f"it has no {SPECIALS[ids.index(None)]} token")
        self.endoftext, self.im_start, self.im_end = ids
        added = bpe.get_added_tokens_decoder()
        self.special = frozenset(token_id for token_id, token in added.items() if token.special)
        self.ends = tuple(sorted({*ends} & {*range(self.vocab_size)} - {*ids}))
        self._bytes: list[bytes] = []
        for token_id in range(self.vocab_size):
            if token_id in added:
                token = added[token_id]
                text = b"" if token.special else token.content.encode()
            else:  # an id without a token stands for nothing
                text = bytes(_BYTE_OF[character] for character in bpe.id_to_token(token_id) or "")
            self._bytes.append(text)
        self._fast = fastokens.Tokenizer.from_json_str(bpe.to_str())
        self.byte_lengths = [len(piece) for piece in self._bytes]
        self.fingerprint = hashlib.sha256(bpe.to_str().encode()).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn the merges from `texts`. Little text gives fewer than `vocab_size` tokens, never more."""
        bpe = tokenizers.Tokenizer(models.BPE())
        pieces = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
        parts = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{LONGEST_PIECE}}}"), behavior="isolated")
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, parts, as_bytes])
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,  # a pair seen once is chance
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(map(_encodable, texts), trainer)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_bytes])  # only training minds the length
        return cls(bpe)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read what `save` wrote; raises `TokenizerError` when it is missing, damaged or of another kind."""
        try:
            return cls(_built(path.read_text(encoding="utf-8")), _ends(path.parent))
        except TokenizerError as error:
            raise TokenizerError(f"{path} is not a tinylm tokenizer: {error}") from None
        except FileNotFoundError:
            raise TokenizerError(
                f"no tokenizer at {path}; is this the folder of a pretraining run?"
            ) from None
        except OSError as error:
            raise TokenizerError(f"the tokenizer {path} cannot be read ({error.strerror})") from error
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot parse
            raise TokenizerError(
                f"the tokenizer {path} is damaged ({error}); restore it: the weights go with no other"
            ) from error

    @classmethod
    def adopt(cls, path: Path) -> tuple["Tokenizer", tuple[str, ...]]:
        """Read another model's tokenizer.json; also returns which of our special tokens it lacked.

        Those are added after its last token. Raises `TokenizerError` for anything but a byte-level BPE.
        """
        try:
            bpe = _built(path.read_text(encoding="utf-8"))
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot parse
            raise TokenizerError(f"{path} cannot be read ({error})") from None
        lacking = tuple(name for name in SPECIALS if bpe.token_to_id(name) is None)
        # A text's ids are all of its ids: some files say to cut texts, or to fill them up.
        bpe.no_truncation()
        bpe.no_padding()
        bpe.model.dropout = None
        bpe.add_special_tokens(list(SPECIALS))
        try:
            return cls(bpe, _ends(path.parent)), lacking
        except (KeyError, ValueError) as error:
            raise TokenizerError(f"{path}: not a byte-level BPE that is known here ({error})") from None

    @property
    def definition(self) -> dict[str, Any]:
        """What `save` writes, decoded."""
        found: dict[str, Any] = json.loads(self._bpe.to_str())
        return found

    def save(self, path: Path) -> None:
        """Write one JSON file, completely or not at all; Hugging Face's tools read it too.

        Ends beside ours go into a second one: a tokenizer.json has no place for them.
        """
        with replacing(path) as temporary:
            temporary.write_text(self._bpe.to_str(), encoding="utf-8")
        beside = path.with_name(GENERATION)
        if self.ends:
            write_json(beside, {_ENDS: self.ends})
        else:
            beside.unlink(missing_ok=True)  # of another tokenizer, which was here before

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """As `encode`, as an array (n,), which is faster; on one core, without the interpreter lock."""
        if _SPACE_TO_ONE_ENCODER_ONLY in text:
            encoding = self._bpe.encode(_encodable(text), add_special_tokens=False)
            return np.array(encoding.ids, np.uint32)
        try:
            # "split": a special token's name in a text is split like any other text.
            ids, _ = self._fast.encode_batch_flat([text], split_special_tokens=True)
        except UnicodeEncodeError:
            ids, _ = self._fast.encode_batch_flat([_encodable(text)], split_special_tokens=True)
        return np.frombuffer(ids, "<u4")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind `ids`; special tokens stand for none."""
        return b"".join([self._bytes[token_id] for token_id in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """As `decode_bytes`, with U+FFFD where a character is cut or malformed."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def shown(self, token_id: int) -> str:
        """A token for people: 'text', b'bytes' that are no whole characters, or the name of a special one."""
        if token_id in self.special:
            return str(self._bpe.id_to_token(token_id))
        try:
            return repr(self._bytes[token_id].decode())
        except UnicodeDecodeError:
            return repr(self._bytes[token_id])


# GPT-2's printable stand-ins: a byte that prints in Latin-1 stands for itself, others from U+0100 on.
_PRINTABLE = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}


def _built(text: str) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json; raises `TokenizerError` for one that would be another one here."""
    found = json.loads(text)
    model, splitter = found["model"], found.get("pre_tokenizer") or {}
    parts = {part["type"] for part in splitter.get("pretokenizers", [splitter])} if splitter else set()
    if (
        model.get("type", "BPE") != "BPE"
        or not model["vocab"].keys() >= _BYTE_OF.keys()
        or "ByteLevel" not in parts
    ):
        raise TokenizerError("must be a byte-level BPE, as GPT-2's, Qwen's and Llama 3's are")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise TokenizerError(
                f"{key} = {model[key]!r}: must not be there, its characters are not of the text"
            )
    ids = model["vocab"] | {token["content"]: token["id"] for token in found.get("added_tokens") or ()}
    for due, token_id in enumerate(sorted(ids.values())):
        if token_id != due:
            gap = f"its ids have a gap: no token has {due}, the largest is {max(ids.values())}"
            wrong = gap if token_id > due else f"two of its tokens have the id {token_id}"
            raise TokenizerError(f"{wrong}; the rows of a model are counted, so ids must be too")
    return tokenizers.Tokenizer.from_str(text)


def _ends(folder: Path) -> set[int]:
    """The ids that end a text by the files of transformers in `folder`; raises `TokenizerError`."""
    found = set[int]()
    for name in (GENERATION, "config.json"):
        try:
            said = typed(int | tuple[int, ...] | None, read_json(folder / name).get(_ENDS), _ENDS)
        except FileNotFoundError:
            continue
        except (FileError, *MALFORMED) as error:
            raise TokenizerError(f"{folder / name}: {error}") from None
        found |= {said} if isinstance(said, int) else {*(said or ())}
    return found


def _encodable(text: str) -> str:
    """Half of a surrogate pair is no character: it becomes U+FFFD, everything else stays as it is."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
