"""Models as Hugging Face's transformers has them: a folder is written, or read to train further.

    DIR/config.json  generation_config.json  model.safetensors
        tokenizer.json  tokenizer_config.json  chat_template.jinja

The weights are ours under other names; GPT-2's matrices stand the other way round with queries, keys and
values in one, and DeepSeek turns neighbouring rows where we turn halves. So nothing is rounded, and what was
written comes back bit for bit.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinylm.errors import ConfigError, FileError
from tinylm.files import alone, read_json, sha256, sync_directory, sync_file
from tinylm.records import MALFORMED, typed
from trainer.interop.layouts import LayoutError, from_json, layout_of, to_json
from trainer.model.architecture import ModelConfig
from trainer.model.model import GPT
from trainer.post.chat import template
from trainer.run.checkpoint import TOKENIZER, CheckpointError, load_model, saved_shape, weights
from trainer.tokenizer import GENERATION, Tokenizer, TokenizerError

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
# Ends of the names of constants that some checkpoints have among the weights.
_USELESS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
# Matrices with a row a token, which are cut or filled up to our tokenizer's size.
_OF_TOKENS = ("embed_tokens.weight", "wte.weight", "lm_head.weight")
_GPT2_NAMES = {
    "embed_tokens": "wte",
    "embed_positions": "wpe",
    "norm": "ln_f",
    "layers": "h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn": "attn",
    "qkv_proj": "c_attn",
    "o_proj": "c_proj",
    "up_proj": "c_fc",
    "down_proj": "c_proj",
}
# GPT-2 has Conv1D layers, whose matrices are (inputs, outputs) where a Linear's are (outputs, inputs).
_GPT2_TURNED = ("qkv_proj.weight", "o_proj.weight", "up_proj.weight", "down_proj.weight")


def export_hf(run: Path, out: Path) -> str:
    """Write the model of `run` into the new folder `out`, completely or not at all; returns its class's name.

    Raises `ConfigError` for a model no class fits, or if there is something in `out`.
    """
    model, tokenizer = load_model(run)
    write(model, tokenizer, out)
    return layout_of(model.config).architecture


def write(model: GPT, tokenizer: Tokenizer, out: Path) -> None:
    """As `export_hf`, of a model in memory."""
    config = to_json(model.config)
    stops = [tokenizer.im_end, tokenizer.endoftext, *tokenizer.ends]
    ends = {"bos_token_id": tokenizer.endoftext, "eos_token_id": stops}
    files: dict[str, Any] = {
        CONFIG: config | ends | {"pad_token_id": None},  # transformers never trains a padding token's row
        # No other special token is ever to come: <|im_start|>, and those of the model it began as.
        GENERATION: ends
        | {"pad_token_id": tokenizer.endoftext, "suppress_tokens": sorted(tokenizer.special - {*stops})},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": model.config.sequence_len,
            "clean_up_tokenization_spaces": False,
        },
    }
    with new_folder(out) as folder:
        save_file(tensors(model), folder / _WEIGHTS, {"format": "pt"})
        tokenizer.save(folder / TOKENIZER)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        (folder / "chat_template.jinja").write_text(template(mask=True))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` if the block succeeds.

    Raises `ConfigError` if there is something in `out` already.
    """
    # Beside `out`, on the same disk, so that it is renamed in one step.
    temporary = out.with_name(f".{out.name}.tmp")
    with alone(out):
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(f"out = {str(out)!r}: is there already: give another")
        shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
        temporary.mkdir()
        try:
            yield temporary
            # Who writes safetensors makes a file for its owner alone: all are as the umask has them.
            mode = (temporary / CONFIG).stat().st_mode
            for path in temporary.iterdir():
                path.chmod(mode)
                sync_file(path)
            sync_directory(temporary)
            temporary.rename(out)
            sync_directory(out.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_hf(path: Path) -> bool:
    """Whether `path` is a folder of transformers'."""
    return (path / CONFIG).exists()


def fingerprint(path: Path) -> str:
    """Digest of the files of which `read` and `read_weights` make a model."""
    files = [path / CONFIG, path / TOKENIZER, *sorted(set(_files(path).values()))]
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def read(path: Path) -> tuple[ModelConfig, Tokenizer, tuple[str, ...]]:
    """Shape and tokenizer of a folder, and the special tokens of ours that its own lacked.

    Those are added after its last token. The shape has as many tokens as the tokenizer then: rows that fill a
    matrix up to a round number are left out. Raises `CheckpointError` naming the key of config.json that
    cannot be computed here, `TokenizerError` for another kind of tokenizer.
    """
    if (path / _ADAPTER).exists():
        raise CheckpointError(
            f"{path / _ADAPTER}: an adapter beside the model: merge it into the model first"
        )
    shape = _shape(path)
    tokenizer, added = Tokenizer.adopt(path / TOKENIZER)
    _check_added_tokens(path, tokenizer)
    if tokenizer.vocab_size - len(added) > shape.vocab_size:
        raise CheckpointError(
            f"{path}: vocab_size = {shape.vocab_size}, but its {TOKENIZER} has "
            f"{tokenizer.vocab_size - len(added)}; put the model's own tokenizer back"
        )
    return replace(shape, vocab_size=tokenizer.vocab_size), tokenizer, added


def _check_added_tokens(path: Path, tokenizer: Tokenizer) -> None:
    """Raise `TokenizerError` for a token that transformers would add to what tokenizer.json has."""
    ids = {token["content"]: token["id"] for token in tokenizer.definition["added_tokens"]}
    for name in ("tokenizer_config.json", "added_tokens.json"):
        try:
            found = read_json(path / name) if (path / name).exists() else {}
            if name == "tokenizer_config.json":
                listed = found.get("added_tokens_decoder") or {}
                found = {token["content"]: int(token_id) for token_id, token in listed.items()}
            other = next((token for token, token_id in found.items() if ids.get(token) != token_id), None)
        except (FileError, *MALFORMED) as error:
            raise TokenizerError(f"{path / name} cannot be read ({error!r})") from None
        if other is not None:
            said = f"{other!r} has the id {found[other]}, which {TOKENIZER} does not say"
            raise TokenizerError(f"{path / name}: {said}: save the tokenizer anew")


def read_weights(path: Path, vocab_size: int) -> dict[str, Tensor]:
    """The weights in the folder, in fp32, for a model of that many tokens, under our names.

    Tokens beyond those the folder has begin as the mean of them all. Raises `CheckpointError` naming a tensor
    that is missing, too many, or of another shape, or a file that is damaged.
    """
    with torch.device("meta"):  # names and shapes, without memory
        model = GPT(_shape(path))
    expected = tensors(model)
    stored = {}  # GPT-2's own checkpoint leaves the prefix out
    for name, file in _files(path).items():
        prefixed = f"transformer.{name}"
        stored[prefixed if prefixed in expected else name] = (file, name)
    # A tied head is stored by some and left out by others.
    tied = {"lm_head.weight"} - expected.keys()
    unknown = [name for name in stored.keys() - expected.keys() - tied if not name.endswith(_USELESS)]
    for what, names in (("is not in it", expected.keys() - stored.keys()), ("is not known here", unknown)):
        if names:
            raise CheckpointError(f"{path}: the tensor {min(names)} {what}; is {CONFIG} of this model?")
    found = {name: _read(*stored[name]) for name in expected}
    for name in tied & stored.keys():
        embeddings = next(name for name in expected if name.endswith(_OF_TOKENS))
        if not torch.equal(_read(*stored[name]), found[embeddings]):
            rule = f"{CONFIG} says tie_word_embeddings = true: say false there"
            raise CheckpointError(f"{path}: {name} is another matrix than {embeddings}, but {rule}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            sizes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise CheckpointError(f"{path}: the tensor {name} is {sizes}; is {CONFIG} of this model?")
        if name.endswith(_OF_TOKENS):
            new = tensor.mean(0, keepdim=True).expand(max(0, vocab_size - len(tensor)), -1)
            found[name] = torch.cat((tensor[:vocab_size], new))
    return _ours(found, model)


def _shape(path: Path) -> ModelConfig:
    """Of config.json; raises `CheckpointError`."""
    try:
        shape = from_json(json.loads((path / CONFIG).read_bytes()))
    except (LayoutError, ConfigError) as error:
        raise CheckpointError(f"{path / CONFIG}: {error}") from None
    except (OSError, *MALFORMED) as error:
        raise CheckpointError(f"{path / CONFIG} cannot be read ({error!r})") from None
    return saved_shape(path / CONFIG, asdict(shape), sorted(set(_files(path).values())))


def tensors(model: GPT) -> dict[str, Tensor]:
    """The weights of a model under the names of its class, as that multiplies by them."""
    config = model.config
    preset = layout_of(config).preset
    found = weights(model)
    if preset == "gpt2":
        found = _joined(found)
    if preset == "deepseek":
        found = _paired(found, config)
    return {_name(name, preset == "gpt2"): tensor.contiguous() for name, tensor in found.items()}


def _ours(theirs: Mapping[str, Tensor], model: GPT) -> dict[str, Tensor]:
    """The inverse of `tensors`; a tied head is there again."""
    preset = layout_of(model.config).preset
    names = _joined(weights(model)) if preset == "gpt2" else weights(model)
    found = {name: theirs[_name(name, preset == "gpt2")] for name in names}
    if preset == "gpt2":
        found = _parted(found)
    if preset == "deepseek":
        found = _paired(found, model.config, back=True)
    return {"lm_head.weight": found["embed_tokens.weight"], **found}


def _name(name: str, gpt2: bool) -> str:
    """Transformers' name of one of our tensors."""
    if name.startswith("lm_head"):
        return name
    if not gpt2:
        return f"model.{name}"
    return "transformer." + ".".join(_GPT2_NAMES.get(part, part) for part in name.split("."))


def _joined(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values as one, and matrices (inputs, outputs), as GPT-2 has them."""
    joined: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if ".q_proj." in name:
            rows = torch.cat([found[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            joined[name.replace("q_proj", "qkv_proj")] = rows
        elif ".k_proj." not in name and ".v_proj." not in name:
            joined[name] = tensor
    return {name: _turned(tensor, name) for name, tensor in joined.items()}


def _parted(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `_joined`."""
    parted: dict[str, Tensor] = {}
    for name, tensor in found.items():
        rows = _turned(tensor, name)
        if ".qkv_proj." in name:
            for part, own in zip("qkv", rows.chunk(3), strict=True):
                parted[name.replace("qkv_proj", f"{part}_proj")] = own
        else:
            parted[name] = rows
    return parted


def _turned(tensor: Tensor, name: str) -> Tensor:
    return tensor.t() if name.endswith(_GPT2_TURNED) else tensor


def _paired(found: Mapping[str, Tensor], config: ModelConfig, *, back: bool = False) -> dict[str, Tensor]:
    """With the rows that mla rotates in pairs side by side; with `back`, in halves again."""
    heads = {"q_proj": config.heads, "kv_a_proj_with_mqa": 1}
    changed = dict(found)
    for name, tensor in found.items():
        if (part := name.split(".")[-2]) in heads:
            changed[name] = paired(tensor, heads[part], config.rope_width, back=back)
    return changed


def paired(rows: Tensor, heads: int, turned: int, *, back: bool = False) -> Tensor:
    """The last `turned` rows of each head from halves, of which i and i + turned / 2 are a pair, to pairs.

    With `back`, the other way. The first dimension of `rows` is that of the heads.
    """
    # 0, h, 1, h + 1, ... with h = turned / 2: where each row of a pair was.
    order = torch.arange(turned, device=rows.device).view(2, -1).t().flatten()
    of_heads = rows.view(heads, -1, *rows.shape[1:])
    kept, moved = of_heads.tensor_split([of_heads.size(1) - turned], dim=1)
    moved = moved.index_select(1, order.argsort() if back else order)
    return torch.cat((kept, moved), dim=1).flatten(0, 1)


def _files(path: Path) -> dict[str, Path]:
    """The file of each tensor in the folder."""
    index, single = path / _INDEX, path / _WEIGHTS
    try:
        # In the order of transformers, which leaves an index behind when one file takes the place of several.
        if not single.exists() and index.exists():
            named = typed(dict[str, str], json.loads(index.read_bytes())["weight_map"], "weight_map")
            if elsewhere := [file for file in named.values() if file != Path(file).name]:
                raise ValueError(f"{elsewhere[0]!r} is not the name of a file in it")
            return {name: path / file for name, file in named.items()}
        with safe_open(single, "pt") as file:
            return dict.fromkeys(file.keys(), single)
    except (OSError, SafetensorError, *MALFORMED) as error:
        raise CheckpointError(f"{path}: no {_WEIGHTS} or {_INDEX} that can be read ({error})") from None


def _read(file: Path, name: str) -> Tensor:
    try:
        with safe_open(file, "pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor.float()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {name} cannot be read ({error})") from None
