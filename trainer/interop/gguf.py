"""A model as a GGUF file, which llama.cpp and what is built on it run.

Tensors are those of transformers' class under the names that `gguf` gives them; where llama.cpp turns
neighbours (its `llama`), rows are put so. The pre-tokenizer is named, not described: only a tokenizer that
splits as a family known to llama.cpp does gives the same ids there.
"""

from pathlib import Path
from typing import Any, Literal

import gguf
import torch
from torch import Tensor

from tinylm.config import require
from tinylm.errors import ConfigError
from tinylm.files import alone, replacing
from trainer.interop.hf import paired, tensors
from trainer.interop.layouts import layout_of
from trainer.model.architecture import ModelConfig, Refusal
from trainer.model.model import GPT
from trainer.model.positions import scaled
from trainer.post.chat import template
from trainer.run.checkpoint import load_model
from trainer.tokenizer import SPLIT, Tokenizer, TokenizerError

Precision = Literal["fp32", "fp16", "q8_0"]

# llama.cpp's architecture for each preset; DeepSeek V3 is its deepseek2.
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "deepseek": gguf.MODEL_ARCH.DEEPSEEK2,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}
# The type of a matrix, and how a file calls itself in which most are of that type.
_TYPES = {
    "fp32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "fp16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
# Numbers of a row that q8_0 scales together, by one fp16: 8.5 bits a weight. Given by the file format.
_BLOCK = 32
# Llama 3's pattern, which differs from ours in \p{N}{1,3}: numbers in groups of up to three digits.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}, {"type": "ByteLevel"}]


# llama.cpp's names of the ways to split a text, and the pre-tokenizers each stands for, less what is false.
_FAMILIES = {
    "qwen2": _split(SPLIT),
    "llama-bpe": _split(_LLAMA3_SPLIT),
    "gpt-2": [{"type": "ByteLevel", "use_regex": True}],
}

# What transformers does and llama.cpp does not.
UNFIT = (
    Refusal(
        "rope_scaling",
        lambda c: c.rope_scaling == "llama3" and layout_of(c).preset != "llama",
        "llama.cpp reads llama3 in its llama alone",
    ),
    Refusal(
        "rope_scaling",
        lambda c: c.rope_scaling == "linear" and c.attention == "mla",
        "llama.cpp's deepseek2 scales attention with it, as YaRN wants it",
    ),
    Refusal(
        "head_width",
        lambda c: layout_of(c).preset == "olmo2" and c.heads * c.head_width != c.width,
        "llama.cpp's olmo2 has width / heads",
    ),
)


def export_gguf(run: Path, out: Path, precision: Precision = "fp16") -> str:
    """Write the model of `run` to the new file `out`, completely or not at all; returns llama.cpp's name.

    Raises `ConfigError` naming the field of a model that llama.cpp does not have, or if `out` is there;
    `TokenizerError` for a tokenizer that splits texts in a way llama.cpp does not know.
    """
    with alone(out):
        if out.exists():
            raise ConfigError(f"out = {str(out)!r}: is there already: give another")
        model, tokenizer = load_model(run)
        with replacing(out) as temporary:
            write(model, temporary, precision, tokenizer)
    return str(gguf.MODEL_ARCH_NAMES[_ARCHITECTURES[layout_of(model.config).preset]])


def write(model: GPT, path: Path, precision: Precision, tokenizer: Tokenizer | None = None) -> None:
    """Write `model`, its matrices in `precision`; without a tokenizer, ids go in and come out."""
    config = model.config
    layout = layout_of(config)
    for refusal in UNFIT:
        require(config, refusal.field, not refusal.when(config), refusal.rule)
    architecture = _ARCHITECTURES[layout.preset]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_file_type(_TYPES[precision][1])
    _add_shape(writer, config)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(architecture, config.layers)
    for name, tensor in _theirs(model).items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        kind = _kind(tensor, precision)
        array = tensor.detach().float().contiguous().numpy()
        writer.add_tensor(found, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _theirs(model: GPT) -> dict[str, Tensor]:
    """Tensors as llama.cpp multiplies by them, under transformers' names where those are known to gguf."""
    config = model.config
    preset = layout_of(config).preset
    found = tensors(model)
    if preset == "olmo2":  # the one that does not look for a tied head
        found.setdefault("lm_head.weight", model.lm_head.weight)
    if preset == "gpt2":  # matrices the other way round there
        turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        found = {name: tensor.t() if name.endswith(turned) else tensor for name, tensor in found.items()}
    # llama.cpp's llama turns neighbouring rows where transformers' turns halves.
    if preset == "llama" and config.positions == "rotary":
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}
        for name, tensor in found.items():
            if (part := name.split(".")[-2]) in heads:
                found[name] = paired(tensor, heads[part], config.head_width)
    if preset == "deepseek":
        found = _absorbed(found, config)
    # llama.cpp divides rotary frequencies by these: Llama 3's scaling is in the file, not in the program.
    if config.rope_scaling == "llama3":
        width = config.rotary_width
        plain = config.rope_theta ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
        found["rope_freqs.weight"] = plain / scaled(plain, config)
    return found


def _absorbed(found: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """With what makes keys, transposed, and what makes values in two, as llama.cpp caches neither."""
    parted = {}
    for name, tensor in found.items():
        if ".kv_b_proj." not in name:
            parted[name] = tensor
            continue
        keys, values = tensor.view(config.heads, -1, config.kv_rank).chunk(2, dim=1)
        parted[name.replace("kv_b_proj", "k_b_proj")] = keys.transpose(1, 2)
        parted[name.replace("kv_b_proj", "v_b_proj")] = values
    return parted


def _kind(tensor: Tensor, precision: Precision) -> gguf.GGMLQuantizationType:
    """Vectors stay in fp32, and rows that no blocks fill in fp16."""
    if tensor.dim() < 2:
        return gguf.GGMLQuantizationType.F32
    if precision == "q8_0" and tensor.size(-1) % _BLOCK:
        return gguf.GGMLQuantizationType.F16
    return _TYPES[precision][0]


def _add_shape(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.sequence_len)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_vocab_size(config.vocab_size)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.attention == "mla":
        _add_latent(writer, config)
    else:
        writer.add_head_count_kv(config.kv_heads)
        writer.add_key_length(config.head_width)
        writer.add_value_length(config.head_width)
    if config.positions == "rotary":
        writer.add_rope_dimension_count(config.rotary_width)
        writer.add_rope_freq_base(config.rope_theta)
    if config.rope_scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_factor)


def _add_latent(writer: Any, config: ModelConfig) -> None:
    """Of mla, in which all heads look at one vector; the experts' keys must be there, though none is used."""
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(0)
    writer.add_kv_lora_rank(config.kv_rank)
    writer.add_key_length(config.cached_per_token)
    writer.add_value_length(config.kv_rank)
    writer.add_key_length_mla(config.head_width + config.rope_width)
    writer.add_value_length_mla(config.head_width)
    writer.add_leading_dense_block_count(config.layers)
    writer.add_expert_feed_forward_length(config.hidden)
    writer.add_expert_shared_count(0)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    definition = tokenizer.definition
    names = {token_id: token for token, token_id in definition["model"]["vocab"].items()}
    kinds = dict.fromkeys(names, gguf.TokenType.NORMAL)
    for added in definition["added_tokens"]:
        names[added["id"]] = added["content"]
        special = added["special"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    ids = range(tokenizer.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(family(definition))
    writer.add_token_list([names.get(token_id, f"[PAD{token_id}]") for token_id in ids])
    writer.add_token_types([kinds.get(token_id, gguf.TokenType.UNUSED) for token_id in ids])
    writer.add_token_merges([" ".join(merge) for merge in definition["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.endoftext)
    writer.add_eos_token_id(tokenizer.im_end)
    writer.add_pad_token_id(tokenizer.endoftext)
    if tokenizer.ends:  # there is a place for one; llama.cpp knows <|endoftext|> and many others by name
        writer.add_eot_token_id(tokenizer.ends[0])
    writer.add_add_bos_token(False)
    writer.add_chat_template(template(mask=False))


def family(definition: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which a tokenizer.json makes ids of texts.

    Raises `TokenizerError` naming what llama.cpp does not do: a family is all of what is looked at here.
    """
    splitter = definition["pre_tokenizer"] or {}
    parts = [_told(part) for part in splitter.get("pretokenizers", [splitter])]
    name = next((name for name, known in _FAMILIES.items() if known == parts), None)
    odd = ""
    if normalizer := definition.get("normalizer"):
        odd = f"changes texts first, by {_told(normalizer)}"
    elif name is None:
        odd = f"splits texts by {parts}"
    elif definition["model"].get("ignore_merges", False) != (name == "llama-bpe"):
        odd = f"has ignore_merges = {definition['model']['ignore_merges']}"
    for token in definition["added_tokens"]:
        for flag in ("lstrip", "rstrip", "single_word"):
            if token[flag]:
                odd = f"looks at what stands beside {token['content']} ({flag})"
    if odd:
        raise TokenizerError(
            f"the tokenizer {odd}, which llama.cpp does not know: its ids would be others there. "
            "`tinylm export hf` works"
        )
    return str(name)


def _told(part: dict[str, Any]) -> dict[str, Any]:
    """What a part of a tokenizer.json says otherwise than by default; offsets are of no use here."""
    return {key: value for key, value in part.items() if value is not False and key != "trim_offsets"}
