"""Runs that start from a checkpoint of transformers: its shape, weights and tokenizer, or one clear error."""

import json
import shutil
from dataclasses import replace

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from bench.runs import losses
from tests.trainer.foreign import TEXT, ids, model, same_weights, tokenizer
from tinylm.errors import ConfigError
from trainer.config import PretrainConfig, SamplingConfig, SFTConfig
from trainer.generate import Generator
from trainer.interop import hf
from trainer.interop.start import Start
from trainer.pretrain import pretrain
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointError
from trainer.sft import sft
from trainer.tokenizer import SPLIT, Tokenizer, TokenizerError

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_level(specials, split=SPLIT, normalizer=None):
    """A tokenizer as Qwen's are made: its special tokens come last."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizer
    parts = [
        pre_tokenizers.Split(Regex(split), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    bpe.pre_tokenizer = pre_tokenizers.Sequence(parts)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_special_tokens(list(specials))
    bpe.add_tokens(["<think>"])
    return bpe


def edit(folder, **changes):
    """Change keys of config.json; None takes one away."""
    path = folder / "config.json"
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))


@pytest.fixture
def folder(tmp_path):
    hf.write(model(), tokenizer(), tmp_path / "hf")
    return tmp_path / "hf"


def load(folder):
    start = Start.at(folder)
    return start.load(start.shape.sequence_len)


def test_weights_in_several_files_are_the_same(folder):
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: whole[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert same_weights(load(folder), model())


@pytest.mark.parametrize("shards_there", [True, False])
def test_one_file_is_believed_before_an_index_that_was_left_beside_it(folder, shards_there):
    path = folder / "model.safetensors"
    old = load_file(path)
    if shards_there:
        save_file(old, folder / "old-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(old, "old-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = hf.fingerprint(folder)
    save_file(old | {"model.norm.weight": old["model.norm.weight"] + 1}, path)
    assert torch.equal(load(folder).norm.weight, model().norm.weight + 1)
    assert hf.fingerprint(folder) != before


def test_a_head_that_is_tied_and_another_is_refused(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    head = weights["model.embed_tokens.weight"].clone()
    save_file(weights | {"lm_head.weight": head}, path)
    assert same_weights(load(folder), model())
    save_file(weights | {"lm_head.weight": head + 1}, path)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is another .* tie_word_embeddings = true"):
        load(folder)


def test_an_adapter_that_was_not_merged_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: an adapter .* merge it"):
        Start.at(folder)


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_that_one_file_has_and_the_other_not_are_refused(folder, name):
    for token_id in (tokenizer().im_start, tokenizer().im_end):
        found = {"<|im_start|>": token_id}
        listed = {"added_tokens_decoder": {str(token_id): {"content": "<|im_start|>"}}}
        (folder / name).write_text(json.dumps(found if name == "added_tokens.json" else listed))
        if token_id == tokenizer().im_start:
            assert Start.at(folder).tokenizer.im_start == token_id
    with pytest.raises(TokenizerError, match=rf"{name}: '<\|im_start\|>' has the id {token_id}, which"):
        Start.at(folder)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Llama", {"head_dim": 12, "num_key_value_heads": 1, "tie_word_embeddings": True}),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}),
        ("Qwen3", {"num_key_value_heads": 2, "head_dim": 24, "rms_norm_eps": 1e-5}),
        ("Olmo2", {"num_key_value_heads": 2}),
    ],
)
@torch.no_grad()
def test_a_model_that_transformers_made_has_its_logits_here(name, settings, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 96}
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, f"{name}Config")(**{"num_key_value_heads": 4, **sizes, **settings})
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    made.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer().save(tmp_path / "tokenizer.json")
    made = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours, theirs = load(tmp_path), made(ids()).logits
    assert ours.config.vocab_size == tokenizer().vocab_size  # rows that no token has are left out
    torch.testing.assert_close(ours(ids()), theirs[..., : ours.config.vocab_size], rtol=1e-4, atol=1e-4)


def test_a_config_of_transformers_4_is_understood(folder):
    scaling = {"type": "linear", "factor": 2.0}
    edit(folder, rope_parameters=..., dtype=..., torch_dtype="float32", rope_theta=5e5, rope_scaling=scaling)
    shape = Start.at(folder).shape
    assert (shape.rope_theta, shape.rope_scaling, shape.rope_factor) == (5e5, "linear", 2.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "qwen3_moe"}, r"model_type = 'qwen3_moe': must be one of llama, qwen3"),
        ({"use_sliding_window": True}, r"use_sliding_window = True: only False"),
        ({"layer_types": ["sliding_attention"] * 2}, r"layer_types: 'sliding_attention'"),
        ({"attention_bias": True}, r"attention_bias = True: only False"),
        ({"hidden_act": "gelu"}, r"hidden_act = 'gelu': only 'silu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}, "rope_parameters": ...}, r"rope_type = 'yarn'"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor = 0.5",
        ),
        ({"quantization_config": {"bits": 4}}, r"quantization_config: "),
        ({"hidden_size": ...}, r"no hidden_size in it"),
        ({"num_attention_heads": 3}, r"kv_heads = 2: must divide heads"),
        ({"hidden_size": 32}, r"the tensor model\.\S+ is \(.*\), not \(.*\); is config.json of this model"),
        ({"num_hidden_layers": 1}, r"the tensor model\.layers\.1\.\S+ is not known here"),
        ({"num_hidden_layers": 3}, r"the tensor model\.layers\.2\.\S+ is not in it"),
        ({"tie_word_embeddings": False}, r"the tensor lm_head\.weight is not in it"),
        ({"vocab_size": 300}, r"vocab_size = 300, but its tokenizer\.json has \d+"),
    ],
)
def test_what_we_cannot_compute_is_one_error_that_names_it(folder, changes, says):
    edit(folder, **changes)
    with pytest.raises((CheckpointError, ConfigError), match=rf"{folder}.*{says}"):
        load(folder)


def test_llamas_biases_must_agree(tmp_path):
    hf.write(model(preset="llama", bias=True), tokenizer(), tmp_path / "hf")
    edit(tmp_path / "hf", mlp_bias=False)
    with pytest.raises(CheckpointError, match="mlp_bias = False: must be True, as others"):
        load(tmp_path / "hf")


def test_deepseeks_experts_and_compressed_queries_are_named(tmp_path):
    hf.write(model(preset="deepseek"), tokenizer(), tmp_path / "hf")
    for changes, says in (
        ({"q_lora_rank": 16}, "q_lora_rank = 16: only None"),
        ({"q_lora_rank": None, "first_k_dense_replace": 1}, "first_k_dense_replace = 1: experts"),
    ):
        edit(tmp_path / "hf", **changes)
        with pytest.raises(CheckpointError, match=says):
            load(tmp_path / "hf")


def test_damage_and_absence_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        Start.at(tmp_path / "nowhere")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"no model\.safetensors .* that can be read"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load(folder)


def test_special_tokens_that_are_there_are_taken_and_rows_without_a_token_left_out(tmp_path):
    bpe = byte_level(SPECIALS)
    hf.write(model(vocab_size=512), tokenizer(), tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text(bpe.to_str())
    start = Start.at(tmp_path / "hf")
    ours = start.tokenizer
    assert start.added == ()
    assert [ours.endoftext, ours.im_start, ours.im_end] == [bpe.token_to_id(name) for name in SPECIALS]
    assert start.shape.vocab_size == ours.vocab_size == bpe.get_vocab_size()
    kept = load(tmp_path / "hf").embed_tokens.weight
    assert torch.equal(kept, model(vocab_size=512).embed_tokens.weight[: ours.vocab_size])
    assert "added" not in start.describe()


@pytest.mark.parametrize("tied", [True, False])
def test_special_tokens_that_are_missing_are_added_after_the_last(tied, tmp_path):
    bpe = byte_level(SPECIALS[:1])
    before = bpe.get_vocab_size()
    hf.write(model(vocab_size=before, tied_embeddings=tied), tokenizer(), tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text(bpe.to_str())
    start = Start.at(tmp_path / "hf")
    assert start.added == SPECIALS[1:]
    assert "<|im_start|>, <|im_end|>" in start.describe()
    assert (start.tokenizer.im_start, start.tokenizer.im_end) == (before, before + 1)
    grown, old = load(tmp_path / "hf"), model(vocab_size=before, tied_embeddings=tied)
    for ours, theirs in ((grown.embed_tokens, old.embed_tokens), (grown.lm_head, old.lm_head)):
        assert torch.equal(ours.weight[:before], theirs.weight)
        torch.testing.assert_close(ours.weight[before:], theirs.weight.mean(0).expand(2, -1))


def as_qwen():
    return byte_level(SPECIALS, normalizer=normalizers.NFC())


def as_gpt2():
    bpe = byte_level(SPECIALS)
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return bpe


def as_llama3():
    """It takes a piece that is a token whole, and puts a token of its own before every text."""
    bpe = byte_level(SPECIALS, SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|"))
    bpe.model.ignore_merges = True
    bpe.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[(SPECIALS[0], bpe.token_to_id(SPECIALS[0]))]
    )
    return bpe


@pytest.fixture(scope="module", params=[as_qwen, as_gpt2, as_llama3], ids=lambda kind: kind.__name__)
def adopted(request, tmp_path_factory):
    """A tokenizer of theirs as we read it, and as it is."""
    bpe = request.param()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(bpe.to_str())
    bpe.encode_special_tokens = True
    return Tokenizer.adopt(path)[0], bpe


@given(text=st.text() | st.text("e\u0301\u180e \n12'saé<|im_end>") | st.just("<think>\n<|im_end|>"))
def test_a_foreign_tokenizer_gives_the_ids_it_defines_and_reads_no_marker_out_of_text(adopted, text):
    ours, theirs = adopted
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    found = ours.encode(text)
    assert found == theirs.encode(text, add_special_tokens=False).ids
    assert not {ours.endoftext, ours.im_start, ours.im_end} & {*found}
    assert ours.decode(found) == (theirs.normalizer.normalize_str(text) if theirs.normalizer else text)


def moved(definition, token, token_id):
    for added in definition["added_tokens"]:
        if added["content"] == token:
            added["id"] = token_id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(model={"type": "Unigram", "vocab": []}), "must be a byte-level BPE"),
        (lambda d: d.update(pre_tokenizer=None), "must be a byte-level BPE"),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix = '</w>': must not"),
        (
            lambda d: d["model"].update(continuing_subword_prefix="##"),
            "continuing_subword_prefix = '##'",
        ),
        (lambda d: d["model"]["vocab"].update({"!": 900}), "have a gap: no token has 0, the largest is 900"),
        (lambda d: moved(d, "<think>", 400), "have a gap: no token has 303, the largest is 400"),
        (lambda d: moved(d, "<think>", 299), "two of its tokens have the id 299"),
    ],
)
def test_a_tokenizer_that_would_be_another_one_here_is_refused(tmp_path, change, says):
    path = tmp_path / "tokenizer.json"
    definition = json.loads(byte_level(SPECIALS).to_str())
    change(definition)
    path.write_text(json.dumps(definition))
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.adopt(path)
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.load(path)


def test_a_tokenizer_that_cuts_at_random_to_be_trained_with_does_not_here(tmp_path):
    bpe, path = byte_level(SPECIALS), tmp_path / "tokenizer.json"
    expected = bpe.encode(TEXT[0] + "\u180e").ids  # a character with which `tokenizers` itself encodes
    bpe.model.dropout = 0.5
    path.write_text(bpe.to_str())
    assert Tokenizer.adopt(path)[0].encode(TEXT[0] + "\u180e") == expected


def test_a_models_own_special_tokens_never_come_and_its_own_ends_end_a_text(from_hf, tmp_path):
    bpe = byte_level((*SPECIALS, "<|eot_id|>", "<|eom_id|>", "<|audio_pad|>"))
    eot, eom, pad = (bpe.token_to_id(name) for name in ("<|eot_id|>", "<|eom_id|>", "<|audio_pad|>"))
    config = from_hf(steps=1)
    hf.write(model(vocab_size=bpe.get_vocab_size()), tokenizer(), folder := tmp_path / "llama")
    (folder / "tokenizer.json").write_text(bpe.to_str())
    edit(folder, eos_token_id=eom)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [eot, 100_000]}))
    pretrain(replace(config, init_from=folder))
    ours = Generator.load(config.out)
    assert ours.tokenizer.ends == (eot, eom)
    everything = {"max_tokens": 2000, "temperature": 50.0, "top_k": 0, "seed": 0}
    written = {*ours.tokens([1], SamplingConfig(**everything), ends=())}
    assert written.isdisjoint(ours.tokenizer.special)
    assert {eot, eom, pad} < ours.tokenizer.special
    with torch.no_grad():  # the head sees one number, and eot is what it wants most but for the padding
        ours.model.norm.weight.zero_()[0] = 1.0
        ours.model.embed_tokens.weight[:, 0] = 1000.0
        ours.model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(ours.model.lm_head.weight))
        ours.model.lm_head.weight[[eot, pad], 0] = torch.tensor([1.0, 2.0])
    ours = Generator(ours.model, ours.tokenizer)
    assert "".join(ours.complete("The", max_tokens=5)) == ""
    assert "".join(ours.chat([{"role": "user", "content": "a"}], max_tokens=5)) == ""
    hf.export_hf(config.out, tmp_path / "again")
    found = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert found["eos_token_id"] == [ours.tokenizer.im_end, ours.tokenizer.endoftext, eot, eom]
    assert found["suppress_tokens"] == sorted([ours.tokenizer.im_start, pad])
    assert Start.at(tmp_path / "again").tokenizer.ends == (eot, eom)


@pytest.mark.parametrize("said", ['{"eos_token_id": "</s>"}', '{"eos_token_id": [1.5]}', "[]", "{"])
def test_ends_that_are_none_are_named(folder, said):
    (folder / "generation_config.json").write_text(said)
    with pytest.raises(TokenizerError, match=r"generation_config\.json: "):
        Start.at(folder)


@pytest.fixture
def from_hf(folder, corpus, tmp_path):
    """Settings of a pretraining run of a second that starts from a folder: `from_hf(steps=4)`."""

    def config(**changes):
        course = {"device_batch_size": 2, "tokens_per_step": 256, "steps": 8, "lanes": 4, "log_every": 1}
        rest = {"checkpoint_every": 4, "eval_every": 4, "keep_last": 10, "sequence_len": 32}
        places = {"shards": corpus, "out": tmp_path / "run", "init_from": folder, "baseline_bytes": 10_000}
        return PretrainConfig(**{**course, **rest, **places, **changes})

    return config


def test_pretraining_goes_on_from_a_folder_and_can_be_exported_again(from_hf, folder, tmp_path, capsys):
    config = from_hf(learning_rate=1e-9, weight_decay=0.0)
    pretrain(config)
    assert f"starts from {folder}, which read up to 96 tokens at once" in capsys.readouterr().out
    trained, own = checkpoint.load_model(config.out)
    assert own.fingerprint == tokenizer().fingerprint
    assert trained.config == replace(Start.at(folder).shape, sequence_len=32)
    for name, tensor in model().state_dict().items():  # at that rate nothing moves
        torch.testing.assert_close(trained.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    hf.export_hf(config.out, tmp_path / "again")
    assert same_weights(load(tmp_path / "again"), trained)


def test_a_run_that_started_from_a_folder_goes_on_with_the_same_losses(from_hf, tmp_path):
    whole, cut = from_hf(), from_hf(out=tmp_path / "cut")
    pretrain(whole)
    shutil.copytree(whole.out, cut.out)
    shutil.rmtree(cut.out / "step_000008")
    (cut.out / "evaluation.json").unlink()
    pretrain(cut)
    assert losses(cut.out) == losses(whole.out)


def test_a_run_is_not_continued_from_another_start(from_hf, tmp_path):
    pretrain(from_hf(steps=4))
    other = model()
    other.embed_tokens.weight[7] = 1.0
    hf.write(other, tokenizer(), tmp_path / "other")
    (from_hf().out / "evaluation.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds a run with init_from\.sha256 = \w+, not \w+"):
        pretrain(from_hf(steps=4, init_from=tmp_path / "other"))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("preset", {"preset": "llama"}),
        ("layers", {"layers": 3}),
        ("vocab_size", {"vocab_size": 8000}),
        ("tied_embeddings", {"tied_embeddings": False}),
    ],
)
def test_a_flag_that_contradicts_the_shape_is_named(from_hf, field, changes):
    with pytest.raises(ConfigError, match=rf"^{field} = .*hf has .*leave {field} out"):
        pretrain(from_hf(**changes))


def test_learned_positions_are_as_many_as_they_are(from_hf, tmp_path):
    hf.write(model(preset="gpt2"), tokenizer(), tmp_path / "gpt2")
    with pytest.raises(ConfigError, match=r"sequence_len = 32: .*gpt2 has learned 96 positions"):
        pretrain(from_hf(init_from=tmp_path / "gpt2"))


def test_pretraining_goes_on_from_a_run_of_ours(tiny, tmp_path):
    first = tiny(steps=4, width=24, heads=2, document_mask=True)
    pretrain(first)
    course = {"device_batch_size": 2, "tokens_per_step": 256, "steps": 2, "lanes": 4, "sequence_len": 32}
    second = PretrainConfig(shards=first.shards, out=tmp_path / "more", init_from=first.out, **course)
    pretrain(second)
    shape = checkpoint.load_model(second.out)[0].config
    assert shape == checkpoint.load_model(first.out)[0].config


def test_fine_tuning_starts_from_a_folder(folder, tmp_path, capsys):
    lines = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    data = tmp_path / "chat.jsonl"
    data.write_text((json.dumps({"messages": lines}) + "\n") * 16)
    course = {"device_batch_size": 2, "tokens_per_step": 128, "epochs": 20, "learning_rate": 1e-2}
    config = SFTConfig(data=data, init_from=folder, out=tmp_path / "chat", sequence_len=64, **course)
    sft(config)
    assert "starts from" in capsys.readouterr().out
    generator = Generator.load(config.out)
    assert generator.context_len == 64
    assert "".join(generator.chat(lines[:1], temperature=0)) == "That."
    sft(config)
    assert "finished" in capsys.readouterr().out
