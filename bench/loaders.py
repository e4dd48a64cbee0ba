"""Contenders of bench.loader: each is an endless iterator of texts from the same Parquet, or of our batches.

What others leave to their users, encoding and packing, is done for all of them by the same few lines. Those
whose packages break others' are measured in an environment of their own (`make bench-setup`):

    .venv-loaders/bin/python -m bench.loaders NAME FOLDER TOKENIZER ENCODER TOKENS
"""

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray

from shards.foreign import ParquetReader
from trainer.config import PretrainConfig
from trainer.data.loader import Loader
from trainer.data.sources import Source
from trainer.run.distributed import World
from trainer.tokenizer import Tokenizer

Encode = Callable[[Sequence[str]], Iterable[Any]]
SEQUENCE_LEN, ROWS = 2048, 8
BUFFER = 1000
_AT_ONCE = 256
_ELSEWHERE = Path(".venv-loaders/bin/python")


def ours(folder: Path, tokenizer: Tokenizer, **changes: Any) -> Loader:
    """Our loader on plain Parquet; `changes` are settings."""
    shape = {"sequence_len": SEQUENCE_LEN, "device_batch_size": ROWS, "tokens_per_step": SEQUENCE_LEN * ROWS}
    config = PretrainConfig(**shape | changes)
    return Loader([Source(folder, ParquetReader(folder))], tokenizer, config, World())


def by_tokenizers(path: Path) -> Encode:
    """What others are used with: `tokenizers`, in batches, on one thread."""
    bpe = tokenizers.Tokenizer.from_file(str(path))
    bpe.encode_special_tokens = True
    return lambda texts: [part.ids for part in bpe.encode_batch_fast(list(texts), add_special_tokens=False)]


def by_our_encoder(tokenizer: Tokenizer) -> Encode:
    return lambda texts: map(tokenizer.encode_array, texts)


def by_tiktoken(tokenizer: Tokenizer, split: str) -> Encode:
    """The same merges in tiktoken, which takes a token's id for its rank."""
    import tiktoken

    ids = range(tokenizer.vocab_size)
    ranks = {tokenizer.decode_bytes([token]): token for token in ids if tokenizer.byte_lengths[token]}
    encoding = tiktoken.Encoding("ours", pat_str=split, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: map(encoding.encode_ordinary, texts)


def batches(
    texts: Iterator[list[str]], encode: Encode, endoftext: int
) -> Generator[torch.Tensor, None, None]:
    """Ids and targets (2, ROWS, SEQUENCE_LEN) of the documents of `texts`, strung together."""
    size = SEQUENCE_LEN * ROWS
    kept: list[NDArray[Any]] = [np.array([endoftext])]
    held = 1
    for some in texts:
        for ids in encode(some):
            kept += [np.asarray(ids), np.array([endoftext])]
            held += len(kept[-2]) + 1
        if held <= size:
            continue
        stream = np.concatenate(kept)
        while len(stream) > size:
            both = np.stack([stream[:size], stream[1 : size + 1]]).astype(np.int64)
            yield torch.from_numpy(both.reshape(2, ROWS, SEQUENCE_LEN))
            stream = stream[size:]
        kept, held = [stream], len(stream)


def hf_datasets(folder: Path) -> Any:
    """Hugging Face's streaming, shuffled in its buffer; it has state_dict and load_state_dict."""
    import datasets

    files = sorted(map(str, folder.glob("*.parquet")))
    found = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    return found.shuffle(seed=0, buffer_size=BUFFER)


def hf_texts(dataset: Any) -> Iterator[list[str]]:
    while True:
        yield from (batch["text"] for batch in dataset.iter(batch_size=_AT_ONCE))


def litdata_texts(folder: Path) -> Iterator[list[str]]:
    """LitData, which reads Parquet in place once it has an index; shuffled."""
    import litdata
    from litdata.streaming.item_loader import ParquetLoader

    litdata.index_parquet_dataset(str(folder))
    dataset = litdata.StreamingDataset(str(folder), item_loader=ParquetLoader(), shuffle=True, seed=0)
    while True:
        yield from _in_parts(item["text"] for item in dataset)


def mosaic_texts(folder: Path) -> Iterator[list[str]]:
    """MosaicML streaming, which reads no Parquet: converted before, outside of what is timed; shuffled."""
    try:
        from streaming import MDSWriter, StreamingDataset
    except RuntimeError as error:  # of torchvision, which it loads
        raise ImportError(f"torchvision is of another build (CPU or CUDA) than torch: {error}") from error
    scratch = folder.with_name("mds")
    if not scratch.exists():
        reader = ParquetReader(folder)
        with MDSWriter(out=str(scratch), columns={"text": "str"}) as writer:
            for group in reader.row_groups:
                for text in reader.texts(group):
                    writer.write({"text": text})
    dataset = StreamingDataset(local=str(scratch), shuffle=True, batch_size=1, shuffle_seed=0)
    while True:
        yield from _in_parts(item["text"] for item in dataset)


def _in_parts(texts: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for text in texts:
        part.append(text)
        if len(part) == _AT_ONCE:
            yield part
            part = []
    yield part


def speed_of(batches: Generator[torch.Tensor, None, None], most: int) -> float:
    """Tokens a second and core of the first `most` tokens."""
    tokens, began = 0, time.process_time()
    while tokens < most:
        tokens += next(batches)[1].numel()
    speed = tokens / (time.process_time() - began)
    batches.close()  # some contenders have threads
    return speed


def speed_elsewhere(name: str, folder: Path, path: Path, encoder: str, most: int) -> float:
    """As `speed_of`, of a peer in its own environment; raises ImportError with what it says if that fails."""
    if not _ELSEWHERE.exists():
        raise ImportError("not installed: make bench-setup")
    argv = [str(_ELSEWHERE), "-m", "bench.loaders", name, str(folder), str(path), encoder, str(most)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise ImportError(said[-1])
    return float(done.stdout.splitlines()[-1])


def main(name: str, folder: str, path: str, encoder: str, most: str) -> None:
    """Measure one peer, here; its speed is the last line."""
    torch.set_num_threads(1)
    texts = {"litdata": litdata_texts, "mosaicml": mosaic_texts}[name](Path(folder))
    tokenizer = Tokenizer.load(Path(path))
    encode = by_our_encoder(tokenizer) if encoder == "ours" else by_tokenizers(Path(path))
    print(speed_of(batches(texts, encode, tokenizer.endoftext), int(most)))


if __name__ == "__main__":
    main(*sys.argv[1:])
