"""The choices a model is made of, the presets that name well-known sets of them, and what cannot go together.

What each choice costs and brings at the size of the demo is measured in docs/model.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tinylm.config import require, require_positive, require_within

# A new value of a choice is added to its Literal here and computed in model.py (a norm: a class, and `norm`;
# positions: `_tables`, `GPT._embed`, `GPT._sight`); bench/architectures.CHOICES has it tried by every test of
# the choices. Nothing else has to know of it: `decoder.fits` and `interop.layouts.layout_of` name what they
# can do and refuse the rest. `REFUSALS` below is for what it cannot go with, run/preflight.py for what cannot
# be trained on several ranks, as batch norm.
Preset = Literal["qwen3", "llama", "gpt2", "olmo2", "deepseek"]
Norm = Literal["rms", "layer", "batch"]
NormPlace = Literal["pre", "post", "output", "sandwich"]
Positions = Literal["rotary", "learned", "sinusoidal", "alibi", "none"]
QKNorm = Literal["none", "head", "whole"]

# Beyond any model (widths of 53,000, 126 layers), and such that no product of sizes overflows a matrix's.
_MOST, _MOST_LAYERS, _MOST_ROWS = 2**20, 10_000, 2**22

_LLAMA: dict[str, Any] = {
    "norm": "rms",
    "norm_place": "pre",
    "positions": "rotary",
    "attention": "gqa",
    "qk_norm": "none",
    "mlp": "swiglu",
    "bias": False,
}
# What each preset puts in place of a choice that was not made.
PRESETS: dict[Preset, dict[str, Any]] = {
    "llama": _LLAMA,
    "qwen3": _LLAMA | {"qk_norm": "head"},
    "olmo2": _LLAMA | {"qk_norm": "whole", "norm_place": "output"},
    "deepseek": _LLAMA | {"attention": "mla"},
    "gpt2": {
        "norm": "layer",
        "norm_place": "pre",
        "positions": "learned",
        "attention": "mha",
        "qk_norm": "none",
        "mlp": "gelu",
        "bias": True,
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder-only transformer of any size; a choice that is not made is the preset's.

    Sizes left at 0 follow from the others. Once made, a config holds what came out, so `dataclasses.replace`
    with another preset or depth changes nothing else.
    """

    vocab_size: int = 4096
    """Tokens in the vocabulary, the three special ones included; on a CPU, the smaller the faster."""
    sequence_len: int = 256
    """Tokens a row holds, and the longest context the model can look back on."""
    preset: Preset = "qwen3"
    """Layout whose choices fill in for those not made here; each has a class in transformers."""
    depth: int = 0
    """One dial for the size: so many layers, 64 times as wide, with heads of 64. 0: see width and layers."""
    width: int = 0
    """Size of the residual stream; parameters grow with its square. 0: 64 times the depth, or 128."""
    layers: int = 0
    """Transformer blocks; deeper is slower to decode than wider of the same size. 0: the depth, or 4."""
    heads: int = 0
    """Query heads: more of them look at more positions at once, each with less detail. 0: the depth, or 4."""
    head_width: int = 0
    """Size of a head's queries, keys and values. 0: width / heads, as in GPT-2, Llama and OLMo."""
    kv_heads: int = 0
    """Key and value heads, each shared by heads / kv_heads query heads: the fewer, the smaller the cache, at
    some loss (arXiv 2305.13245). As many as heads is MHA, 1 is MQA. 0: half of the heads, as far as whole."""
    attention: Literal["mha", "gqa", "mla"] | None = None
    """gqa caches keys and values of kv_heads heads; mha is gqa with kv_heads = heads; mla caches one vector
    of kv_rank + rope_width a token for all heads (arXiv 2405.04434), for more arithmetic."""
    kv_rank: int = 0
    """mla: size of the vector that keys and values are made of. 0: two heads' width."""
    rope_width: int = 0
    """mla: size of the one rotated key that all heads share. 0: half a head's width."""
    norm: Norm | None = None
    """rms rescales; layer also centres, for a little time and no gain; batch uses the statistics of all
    tokens of the batch, future ones too: here to show why nobody uses it."""
    norm_place: NormPlace | None = None
    """pre trains at high learning rates; post (2017) bounds the stream but needs warm-up and care with depth;
    output (OLMo 2) norms what a sublayer adds; sandwich does both, for twice the norms."""
    norm_eps: float = 1e-6
    """Added to the mean square inside a norm."""
    qk_norm: QKNorm | None = None
    """RMSNorm of queries and keys, each head's (Qwen3) or all heads' together (OLMo 2): keeps attention
    logits bounded at high learning rates."""
    positions: Positions | None = None
    """rotary turns queries and keys by their position; learned adds a row of a table, and knows none beyond
    it; sinusoidal adds fixed waves; alibi makes distance cost attention (arXiv 2108.12409), and reads longer
    text than it learned on; none leaves it to causality."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths; longer contexts want a larger one."""
    rope_scaling: Literal["none", "linear", "llama3"] = "none"
    """How rotary positions are squeezed for a context longer than that of training: linear squeezes all
    wavelengths alike (arXiv 2306.15595), llama3 the long ones only, which keeps near positions apart."""
    rope_factor: float = 1.0
    """By how much rope_scaling squeezes."""
    rope_original_len: int = 8192
    """llama3: the context before scaling, by which wavelengths are long or short."""
    mlp: Literal["swiglu", "gelu"] | None = None
    """swiglu has three matrices and gates one by another, gelu two; at equal size swiglu usually learns a
    little more (arXiv 2002.05202)."""
    mlp_ratio: float = 0.0
    """Hidden size of the feed-forward layer, in widths. 0: 3 for swiglu (Qwen3), 4 for gelu (GPT-2)."""
    bias: bool | None = None
    """Add a vector after each matrix and in layer norms: little cost, little gain; GPT-2 has them."""
    tied_embeddings: bool = True
    """Use one matrix for input embeddings and output logits: saves much of a small model's size."""

    def __post_init__(self) -> None:
        require_positive(self, "rope_theta", "rope_factor", "rope_original_len", "norm_eps")
        require_within(self, 1, _MOST_ROWS, "sequence_len")
        require_within(self, 259, _MOST_ROWS, "vocab_size")  # the 256 bytes and 3 special tokens
        require_within(self, 0, _MOST_LAYERS, "depth", "layers")
        require_within(self, 0, _MOST, "width", "heads", "head_width", "kv_heads", "kv_rank", "rope_width")
        require_within(self, 0, 1024, "mlp_ratio")
        for field, choice in PRESETS[self.preset].items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, choice)
        self._size()
        for refusal in REFUSALS:
            require(self, refusal.field, not refusal.when(self), refusal.rule)

    def _size(self) -> None:
        """Put sizes that follow from others where none was given."""
        self._default("width", 64 * self.depth or 128)
        self._default("layers", self.depth or 4)
        self._default("heads", self.depth or 4)
        require(
            self,
            "heads",
            self.head_width > 0 or self.width % self.heads == 0,
            f"must divide width = {self.width}",
        )
        self._default("head_width", self.width // self.heads)
        shared = self.attention == "gqa" and self.heads % 2 == 0
        self._default("kv_heads", self.heads // 2 if shared else self.heads)
        if self.attention == "mla":
            self._default("kv_rank", 2 * self.head_width)
            self._default("rope_width", self.head_width // 2)
        # Three matrices of 3 widths have about the parameters of two of 4: 9 and 8 squares of the width.
        self._default("mlp_ratio", 3.0 if self.mlp == "swiglu" else 4.0)

    def _default(self, field: str, value: float) -> None:
        if not getattr(self, field):
            object.__setattr__(self, field, value)

    @property
    def hidden(self) -> int:
        return round(self.width * self.mlp_ratio)

    @property
    def rotary_width(self) -> int:
        """How much of a head is rotated: all of it, or mla's own part."""
        return self.rope_width if self.attention == "mla" else self.head_width

    @property
    def cached_per_token(self) -> int:
        """Numbers the KV cache holds for each token and layer."""
        if self.attention == "mla":
            return self.kv_rank + self.rope_width
        return 2 * self.kv_heads * self.head_width


class Refusal(NamedTuple):
    """A combination that cannot work, the field to blame, and the rule it breaks."""

    field: str
    when: Callable[[ModelConfig], bool]
    rule: str


# All combinations that are refused; everything else works.
REFUSALS = (
    Refusal("kv_heads", lambda c: c.heads % c.kv_heads > 0, "must divide heads"),
    Refusal(
        "kv_heads", lambda c: c.attention != "gqa" and c.kv_heads != c.heads, "attention = gqa shares them"
    ),
    Refusal("kv_rank", lambda c: c.attention != "mla" and c.kv_rank > 0, "attention = mla has it"),
    Refusal("rope_width", lambda c: c.attention != "mla" and c.rope_width > 0, "attention = mla has it"),
    Refusal(
        "attention", lambda c: c.attention == "mla" and c.positions != "rotary", "needs rotary positions"
    ),
    Refusal(
        "qk_norm",
        lambda c: c.attention == "mla" and c.qk_norm != "none",
        "mla norms its compressed vector; whole keys, which it never makes in decoding, cannot be normed",
    ),
    Refusal(
        "head_width",
        lambda c: c.positions == "rotary" and c.rotary_width % 2 > 0,
        "rotary positions turn pairs: what is rotated of a head must be even",
    ),
    Refusal("width", lambda c: c.positions == "sinusoidal" and c.width % 2 > 0, "sinusoids come in pairs"),
    Refusal(
        "heads",
        lambda c: c.positions == "alibi" and c.heads & (c.heads - 1) > 0,
        "alibi's slopes are defined for a power of 2",
    ),
    Refusal(
        "rope_scaling",
        lambda c: c.rope_scaling != "none" and c.positions != "rotary",
        "needs rotary positions",
    ),
    Refusal(
        "rope_factor",
        lambda c: (c.rope_scaling == "none") != (c.rope_factor == 1),
        "and rope_scaling go together",
    ),
    Refusal("mlp_ratio", lambda c: c.hidden < 1, "leaves no hidden layer"),
    Refusal("bias", lambda c: c.attention == "mla" and c.bias is True, "mla has matrices alone"),
)
