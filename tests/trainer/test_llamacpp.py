"""llama.cpp reads what is exported: the same ids of a text, and the same tokens after it."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from deploy.cli.app import app
from tests.trainer.foreign import model, tokenizer
from tests.trainer.test_start import SPECIALS, as_gpt2, as_llama3, as_qwen, byte_level
from tinylm.errors import ConfigError
from trainer.config import SamplingConfig
from trainer.generate import Generator
from trainer.model.architecture import PRESETS
from trainer.post.chat import template
from trainer.pretrain import pretrain
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointError
from trainer.tokenizer import TokenizerError

gguf = pytest.importorskip("gguf", reason="not installed: pip install '.[export]'")
from trainer.interop import gguf as llamacpp  # noqa: E402 (which needs it)

BESIDE = ("lstrip", "rstrip", "single_word")
PROMPT = "In 2024 the reader's 12345 rows\n\n    déjà vu, "


def runs(path, **more):
    """llama.cpp's model of a file, computing in fp32."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: docs/model.md")
    kind = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        str(path), n_ctx=96, n_batch=96, n_threads=1, type_k=kind, type_v=kind, verbose=False, **more
    )


def written(folder, precision="fp32", **settings):
    path = Path(folder) / "model.gguf"
    llamacpp.write(model(**settings), path, precision, tokenizer())
    return path


def likeliest(theirs, ids, count):
    """Tokens that llama.cpp holds the likeliest after `ids`, none that opens a message."""
    found, unread = [], ids
    for _ in range(count):
        theirs.eval(unread)
        logits = theirs.scores[theirs.n_tokens - 1].copy()
        logits[tokenizer().im_start] = -np.inf
        unread = [int(logits.argmax())]
        found += unread
    return found


@pytest.mark.parametrize(
    "settings",
    [
        *({"preset": preset} for preset in PRESETS),
        *({"preset": preset, "tied_embeddings": False} for preset in PRESETS),
        {"preset": "llama", "bias": True, "kv_heads": 1},
        {"preset": "llama", "head_width": 24},
        {"preset": "llama", "rope_scaling": "llama3", "rope_factor": 4.0, "rope_original_len": 16},
        {"preset": "qwen3", "rope_scaling": "linear", "rope_factor": 4.0, "head_width": 24},
        {"preset": "deepseek", "kv_rank": 32, "rope_width": 8},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_text_is_continued_as_we_continue_it(settings, tmp_path):
    theirs = runs(written(tmp_path, **settings), logits_all=True)
    ours = model(**settings)
    ids = theirs.tokenize(PROMPT.encode(), add_bos=True)
    assert ids == tokenizer().encode(PROMPT)
    greedy = SamplingConfig(max_tokens=24, temperature=0)
    ends = (tokenizer().im_end, tokenizer().endoftext)
    expected = list(Generator(ours, tokenizer()).tokens(ids, greedy, ends))
    assert likeliest(theirs, ids, len(expected)) == expected
    with torch.no_grad():
        logits = ours(torch.tensor([ids]))[0].numpy()
    theirs.reset()
    theirs.eval(ids)
    # llama.cpp looks GELU up in a table of fp16.
    limit = 1e-3 if ours.config.mlp == "gelu" else 1e-5
    assert np.abs(theirs.scores[: len(ids)] - logits).max() < limit * np.abs(logits).max()


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    found = runs(written(tmp_path_factory.mktemp("gguf")), vocab_only=True)
    yield found
    found.close()


@given(text=st.text() | st.text(" \n\t's019aé.<|im_end>") | st.lists(st.sampled_from(SPECIALS)).map("".join))
@example("\n\n  indented\r\n\r\n\tx  y   \n")
@example("12 345 67890 ½ ٣٤ x1y22")
def test_ids_are_ours_for_any_text(vocabulary, text):
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    found = vocabulary.tokenize(text.encode(), add_bos=False, special=False)
    assert found == tokenizer().encode(text)


def test_special_tokens_are_read_where_they_are_asked_for(vocabulary):
    found = vocabulary.tokenize(b"<|im_start|>a<|im_end|>", special=True)
    assert found == [tokenizer().im_start, *tokenizer().encode("a"), tokenizer().im_end]
    assert vocabulary.token_eos() == tokenizer().im_end


def values(path):
    """What a file says of itself, and its tensors."""
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, reader.tensors


@pytest.mark.parametrize("preset", PRESETS)
def test_a_file_says_what_it_is(preset, tmp_path):
    fields, _ = values(written(tmp_path, preset=preset))
    assert fields["general.architecture"] == {"deepseek": "deepseek2"}.get(preset, preset)
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert fields["tokenizer.chat_template"] == template(mask=False)
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert len(fields["tokenizer.ggml.tokens"]) == tokenizer().vocab_size


@pytest.mark.parametrize(
    ("preset", "precision", "kind"),
    [*((preset, "q8_0", "Q8_0") for preset in PRESETS), ("qwen3", "fp32", "F32"), ("qwen3", "fp16", "F16")],
)
def test_matrices_are_as_precise_as_asked_for_and_vectors_always(preset, precision, kind, tmp_path):
    _, tensors = values(written(tmp_path, precision, preset=preset))
    assert {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) == 1} == {"F32"}
    matrices = {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1}
    odd = {"F16"} if precision == "q8_0" and preset == "deepseek" else set()  # rows of half a block
    assert matrices == {kind} | odd


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("rope_scaling", {"rope_scaling": "llama3", "rope_factor": 2.0}),
        ("rope_scaling", {"preset": "deepseek", "rope_scaling": "linear", "rope_factor": 2.0}),
        ("head_width", {"preset": "olmo2", "head_width": 24}),
        ("positions", {"positions": "alibi"}),
    ],
)
def test_what_llamacpp_has_not_is_refused_by_field(field, settings, tmp_path):
    with pytest.raises(ConfigError, match=f"^{field} = "):
        written(tmp_path, **settings)
    assert not [*tmp_path.iterdir()]


def test_what_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(CheckpointError):
        llamacpp.export_gguf(tmp_path / "nowhere", tmp_path / "some" / "model.gguf")
    assert not [*tmp_path.iterdir()]


def edited(kind, change):
    definition = json.loads(kind().to_str())
    change(definition)
    return definition


def test_families_are_known():
    as_plain = partial(byte_level, SPECIALS)
    assert llamacpp.family(edited(as_plain, lambda _: None)) == "qwen2"
    assert llamacpp.family(edited(as_gpt2, lambda _: None)) == "gpt-2"
    assert llamacpp.family(edited(as_llama3, lambda _: None)) == "llama-bpe"


def parts(definition):
    return definition["pre_tokenizer"]["pretokenizers"]


def part(definition, number):
    return parts(definition)[number]


def beside(definition, flag):
    definition["added_tokens"][-1][flag] = True


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        (as_qwen, lambda _: None, r"changes texts first, by \{'type': 'NFC'\}"),
        (as_gpt2, lambda d: d.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (as_gpt2, lambda d: d.update(normalizer={"type": "Prepend", "prepend": "_"}), "Prepend"),
        (as_gpt2, lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "'add_prefix_space': True"),
        (as_gpt2, lambda d: d["pre_tokenizer"].update(use_regex=False), r"splits texts by \[\{'type': 'Byte"),
        (as_gpt2, lambda d: d["model"].update(ignore_merges=True), "has ignore_merges = True"),
        (as_llama3, lambda d: d["model"].update(ignore_merges=False), "has ignore_merges = False"),
        (as_llama3, lambda d: part(d, 0).update(behavior="MergedWithNext"), "MergedWithNext"),
        (as_llama3, lambda d: part(d, 0).update(invert=True), "'invert': True"),
        (as_llama3, lambda d: part(d, 0)["pattern"].update(Regex=r"\p{N}{1,2}|\P{N}+"), "splits texts by"),
        (as_llama3, lambda d: part(d, 1).update(add_prefix_space=True), "'add_prefix_space': True"),
        (as_llama3, lambda d: parts(d).insert(0, {"type": "Digits", "individual_digits": True}), "Digits"),
        (
            as_llama3,
            lambda d: parts(d).append({"type": "Punctuation", "behavior": "Isolated"}),
            "Punctuation",
        ),
        *((as_gpt2, partial(beside, flag=flag), rf"beside <think> \({flag}\)") for flag in BESIDE),
    ],
)
def test_a_tokenizer_that_llamacpp_has_not_is_refused_by_what_it_does(kind, change, says):
    with pytest.raises(TokenizerError, match=rf"the tokenizer .*{says}.*, which llama\.cpp does not know"):
        llamacpp.family(edited(kind, change))


def test_a_run_is_exported_from_the_command_line_and_not_twice(tiny, tmp_path, capsys, monkeypatch):
    config = tiny(steps=2, checkpoint_every=2)
    pretrain(config)
    out = tmp_path / "some" / "model.gguf"
    command = ["export", "gguf", str(config.out), "--out", str(out), "--weights", "q8_0"]
    app(command, result_action="return_value")
    assert f"{out}: qwen3 in q8_0" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["model.gguf"]
    _, tensors = values(out)
    ours = checkpoint.load_model(config.out)[0]
    assert sum(tensor.n_elements for tensor in tensors) == ours.parameters_count
    with pytest.raises(ConfigError, match=r"out = .*gguf': is there already"):
        app(command, result_action="return_value")
    monkeypatch.setattr("deploy.cli.model.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"gguf is not installed: pip install '\.\[export\]'"):
        app(command, result_action="return_value")
