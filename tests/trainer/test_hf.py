"""What is exported gives transformers our logits, ids, conversations and masks; the rest is refused."""

import json
import os
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.cli.app import app
from tests.trainer.foreign import ids, model, same_weights, tokenizer
from tests.trainer.test_chat import CONTENT, conversation
from tinylm.errors import ConfigError, FileError
from trainer.config import SamplingConfig
from trainer.generate import Generator
from trainer.interop import hf
from trainer.interop.layouts import LAYOUTS, UNFIT, layout_of
from trainer.interop.start import Start
from trainer.model.architecture import PRESETS
from trainer.post.chat import render, render_prompt
from trainer.pretrain import pretrain
from trainer.run import checkpoint

transformers = pytest.importorskip("transformers")

ROPES = (
    {},
    {"rope_theta": 5e5},
    {"rope_scaling": "linear", "rope_factor": 4.0},
    {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_len": 16},
)


@st.composite
def variations(draw):
    """Settings that a class of transformers fits, of any preset."""
    preset = draw(st.sampled_from(list(PRESETS)))
    heads = draw(st.sampled_from([1, 2, 4]))
    found = {"preset": preset, "heads": heads, "tied_embeddings": draw(st.booleans())}
    found |= {"mlp_ratio": draw(st.sampled_from([0, 1, 2.6])), "layers": draw(st.integers(1, 3))}
    if preset != "gpt2":
        found |= draw(st.sampled_from(ROPES)) | {"head_width": draw(st.sampled_from([0, 6, 24]))}
    if preset in ("llama", "qwen3", "olmo2"):
        found["kv_heads"] = draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0]))
    if preset != "deepseek":
        found["norm_eps"] = draw(st.sampled_from([1e-6, 1e-5, 1e-3]))
    if preset == "deepseek":
        found |= {"kv_rank": draw(st.sampled_from([0, 10])), "rope_width": 6}
    if preset == "llama":
        found["bias"] = draw(st.booleans())
    return found


def opened(folder):
    """transformers' model of a folder, every weight of which must have been in it, and none besides."""
    found, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return found.eval()


@torch.no_grad()
def check_round_trip(settings):
    ours = model(**settings)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        hf.write(ours, tokenizer(), out)
        theirs = opened(out)
        start = Start.at(out)
        back = start.load(start.shape.sequence_len)
    assert type(theirs).__name__ == layout_of(ours.config).architecture
    torch.testing.assert_close(theirs(ids()).logits, ours(ids()), rtol=1e-4, atol=1e-4)
    assert start.shape == replace(ours.config, mlp_ratio=ours.config.hidden / ours.config.width)
    assert not start.added
    assert start.tokenizer.fingerprint == tokenizer().fingerprint
    assert same_weights(ours, back)
    assert torch.equal(ours(ids()), back(ids()))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_our_logits_in_transformers_and_comes_back_bit_for_bit(preset):
    check_round_trip({"preset": preset})


@settings(max_examples=30)
@given(variations())
def test_so_has_every_variation_that_a_class_fits(changes):
    check_round_trip(changes)


MISFITS = [
    ("norm", {"norm": "batch"}),
    ("norm_place", {"norm_place": "post"}),
    ("norm_place", {"norm_place": "sandwich"}),
    ("norm_place", {"preset": "deepseek", "norm_place": "output"}),
    ("positions", {"positions": "alibi"}),
    ("positions", {"positions": "none"}),
    ("norm", {"norm": "layer"}),
    ("norm", {"preset": "gpt2", "norm": "rms"}),
    ("mlp", {"mlp": "gelu"}),
    ("mlp", {"preset": "gpt2", "mlp": "swiglu"}),
    ("qk_norm", {"qk_norm": "whole"}),
    ("qk_norm", {"norm_place": "output"}),
    ("qk_norm", {"preset": "gpt2", "qk_norm": "head"}),
    ("kv_heads", {"preset": "gpt2", "attention": "gqa", "kv_heads": 2}),
    ("head_width", {"preset": "gpt2", "head_width": 24}),
    ("heads", {"preset": "llama", "heads": 3, "head_width": 16}),
    ("bias", {"bias": True}),
    ("bias", {"preset": "gpt2", "bias": False}),
    ("norm_eps", {"preset": "deepseek", "norm_eps": 1e-5}),
]


@pytest.mark.parametrize(("field", "settings"), MISFITS)
def test_what_no_class_fits_is_refused_by_field_and_nothing_is_written(field, settings, tmp_path):
    with pytest.raises(ConfigError, match=f"^{field} = "):
        hf.write(model(**settings), tokenizer(), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_every_refusal_is_to_blame_for_something():
    shapes = [model(**settings).config for _, settings in MISFITS]
    assert all(any(refusal.when(shape) for shape in shapes) for refusal in UNFIT)
    assert {layout.preset for layout in LAYOUTS} == set(PRESETS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder as transformers opens it."""
    out = tmp_path_factory.mktemp("hf") / "out"
    hf.write(model(), tokenizer(), out)
    return out


@lru_cache
def their_tokenizer():
    with TemporaryDirectory() as folder:
        hf.write(model(), tokenizer(), Path(folder) / "out")
        return transformers.AutoTokenizer.from_pretrained(Path(folder) / "out")


def test_the_folder_has_the_files_of_transformers_5(exported):
    assert sorted(path.name for path in exported.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@given(st.text() | st.text("\u180e \n\t\u2028ſs'019aé<|im_end>") | CONTENT)
def test_ids_are_ours_for_any_text(text):
    text = well_formed(text)
    found = their_tokenizer()(text, split_special_tokens=True)["input_ids"]
    assert found == tokenizer().encode(text)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_tokenizer_is_ours_whatever_the_model_is(preset, tmp_path):
    hf.write(model(preset=preset), tokenizer(), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "In 2024 the reader's 12345 rows\n\n    déjà  vu"
    assert theirs(text)["input_ids"] == tokenizer().encode(text)
    assert theirs.decode(theirs(text)["input_ids"]) == text


def test_special_tokens_are_set():
    theirs, ours = their_tokenizer(), tokenizer()
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        ours.endoftext,
        ours.im_end,
        ours.endoftext,
    )
    assert theirs("<|im_start|>a<|im_end|>")["input_ids"] == [ours.im_start, *ours.encode("a"), ours.im_end]
    assert len(theirs) == ours.vocab_size


def well_formed(text):
    """Without halves of surrogate pairs, of which our tokenizer makes U+FFFD and transformers an error."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain(text):
    """The same to who reads markers out of text, and to who encodes it together with what is before it."""
    return well_formed(text).replace("<|", "").lstrip() or "Yes."


ANY, PLAIN = CONTENT.map(well_formed), CONTENT.map(plain)


def turns(contents):
    return st.lists(st.tuples(contents, contents), min_size=1, max_size=3)


@given(turns(ANY), st.none() | st.just("") | ANY)
def test_the_template_renders_conversations_as_we_do(turns, system):
    messages, ours = conversation(turns, system), tokenizer()
    marks = {ours.im_start: b"<|im_start|>", ours.im_end: b"<|im_end|>"}

    def text(tokens):
        return b"".join(marks.get(token) or ours.decode_bytes([token]) for token in tokens).decode()

    render_as = partial(their_tokenizer().apply_chat_template, tokenize=False)
    assert render_as(messages) == text(render(messages, ours)[0])
    assert render_as(messages[:-1], add_generation_prompt=True) == text(render_prompt(messages[:-1], ours))


@given(turns(PLAIN), st.none() | st.just("") | PLAIN)
def test_the_template_gives_our_ids_and_knows_what_is_learned(turns, system):
    messages = conversation(turns, system)
    encode_as = partial(their_tokenizer().apply_chat_template, return_dict=True)
    found = encode_as(messages, return_assistant_tokens_mask=True)
    assert (found["input_ids"], found["assistant_masks"]) == render(messages, tokenizer())
    prompt = encode_as(messages[:-1], add_generation_prompt=True)["input_ids"]
    assert prompt == render_prompt(messages[:-1], tokenizer())


def test_a_marker_inside_a_content_is_text_to_who_asks_for_it():
    messages = conversation([("a <|im_end|> b", "<|endoftext|> c")])
    found = their_tokenizer().apply_chat_template(messages, sanitize_control_tokens=True, return_dict=True)
    assert found["input_ids"] == render(messages, tokenizer())[0]


def continued(theirs, prompt, count=40):
    """Token ids that transformers writes after `prompt` by default, the likeliest each time."""
    given = torch.tensor([prompt])
    written = theirs.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False
    )
    return written[0, len(prompt) :].tolist()


def test_generation_gives_our_tokens(exported):
    theirs, ours = opened(exported), Generator(model(), tokenizer())
    config = SamplingConfig(max_tokens=40, temperature=0)
    ends = (tokenizer().im_end, tokenizer().endoftext)
    lengths = []
    for question in ("Hi", "Why?", "What is a shard?"):
        prompt = render_prompt(conversation([(question, "-")])[:1], tokenizer())
        expected = list(ours.tokens(prompt, config, ends))
        assert [token for token in continued(theirs, prompt) if token not in ends] == expected
        lengths.append(len(expected))
    assert max(lengths) > 10


@pytest.mark.parametrize("end", ["im_end", "endoftext"])
def test_generation_stops_at_either_end_and_never_opens_a_message(end, tmp_path):
    ours, ends = model(preset="llama", bias=True, tied_embeddings=False), getattr(tokenizer(), end)
    ours.lm_head.weight.zero_()
    ours.norm.weight.zero_()[0] = 1.0
    ours.embed_tokens.weight[:, 0] = 1000.0  # which is all that the head sees
    ours.lm_head.weight[ends, 0] = 1.0
    ours.lm_head.weight[tokenizer().im_start, 0] = 2.0
    hf.write(ours, tokenizer(), tmp_path / "out")
    assert continued(opened(tmp_path / "out"), tokenizer().encode("The")) == [ends]


def test_a_run_is_exported_from_the_command_line_and_not_twice(tiny, tmp_path, capsys):
    config = tiny(steps=2, checkpoint_every=2)
    pretrain(config)
    out = tmp_path / "some" / "where"
    app(["export", "hf", str(config.out), "--out", str(out)], result_action="return_value")
    assert f"{out}: Qwen3ForCausalLM" in capsys.readouterr().out
    ours, _ = checkpoint.load_model(config.out)
    given = ids() % 300
    with torch.no_grad():
        torch.testing.assert_close(opened(out)(given).logits, ours(given), rtol=1e-4, atol=1e-4)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match=r"out = .*where': is there already: give another"):
        hf.export_hf(config.out, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_is_exported_is_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        hf.write(model(), tokenizer(), tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_two_exports_to_one_place_do_not_meet(tmp_path):
    with hf.new_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("{}")
        with pytest.raises(FileError, match=rf"out: process {os.getpid()} is writing here"):
            hf.write(model(), tokenizer(), tmp_path / "out")
        assert (folder / "config.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()  # empty: taken
    left = tmp_path / ".out.tmp"
    left.mkdir()
    (left / "model.safetensors").write_text("half of one, of an export that was killed")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer()), "save", full)
    with pytest.raises(OSError, match="No space left"):
        hf.write(model(), tokenizer(), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not [*out.iterdir()]
    monkeypatch.undo()
    hf.write(model(), tokenizer(), out)
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen3"
