"""The conversation on the terminal, with models that were given one thing to say."""

import io
import re
from inspect import signature

import pytest
import torch

from crawler.config import FrontierConfig
from deploy.cli.app import app, main
from deploy.cli.model import ChatSampling, chat, complete
from tests.trainer.runs import save
from tinylm.errors import ConfigError
from trainer.config import InstructionsConfig, PretrainConfig, SFTConfig
from trainer.model.model import GPT
from trainer.run import checkpoint
from trainer.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["one two three"] * 3, 270)


@pytest.fixture
def talk(tmp_path, monkeypatch, capsys):
    """`talk(token, *lines)`: what the terminal shows when a model that knows but `token` is asked."""
    shape = {"sequence_len": 64, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "device_batch_size": 1}
    config = PretrainConfig(**shape, tokens_per_step=64, tied_embeddings=False, out=tmp_path / "run")

    def talk(token, *lines):
        model = GPT(config.model(TOKENIZER.vocab_size))
        with torch.no_grad():
            model.embed_tokens.weight.fill_(1)
            model.lm_head.weight.zero_()[token] = 1
        save(model, config)
        TOKENIZER.save(config.out / checkpoint.TOKENIZER)
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
        chat(run=config.out, sampling=ChatSampling(temperature=0, max_tokens=4))
        return capsys.readouterr().out

    return talk


def test_completion_shows_how_likely_each_token_was(talk, tmp_path, capsys):
    (letter,) = TOKENIZER.encode("x")
    talk(letter)
    command = ["complete", "one", "--run", str(tmp_path / "run"), "--max-tokens", "3", "--temperature", "0"]
    with pytest.raises(SystemExit):
        app([*command, "--logprobs", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r" +-0\.\d{3} +100\.0%  'x' +'x' 100\.0%  \S+ 0\.0%", line) for line in lines), (
        lines
    )


@pytest.mark.parametrize("stop", [r"\n\n", "\n\n"])
def test_a_stop_string_is_what_a_shell_hands_over(talk, tmp_path, capsys, stop):
    (new_line,) = TOKENIZER.encode("\n")
    talk(new_line)
    asked = ["complete", "one", "--run", str(tmp_path / "run"), "--temperature", "0", "--max-tokens", "9"]
    for given in (["--stop", stop], ["--stop", "x", "--stop", stop], ["--stop", r"\\n"]):
        with pytest.raises(SystemExit):
            app([*asked, *given])
        assert capsys.readouterr().out == "one" + "\n" * (10 if given == ["--stop", r"\\n"] else 1)


def test_a_negative_number_of_likeliest_tokens_is_refused(talk, tmp_path):
    talk(TOKENIZER.im_end)
    with pytest.raises(ConfigError, match="logprobs = -1"):
        app(["complete", "one", "--run", str(tmp_path / "run"), "--logprobs", "-1"])


@pytest.mark.parametrize("given", [["--top-k", "0.9"], ["--max-tokens", "2.5"], ["--logprobs", "1.5"]])
def test_a_fraction_of_what_is_counted_is_refused_and_not_rounded(tmp_path, given):
    with pytest.raises(ConfigError, match=rf"= {given[1]}: must be a whole number"):
        app(["complete", "one", "--run", str(tmp_path), *given])


def test_unlike_tokens_look_unlike(talk, tmp_path, capsys):
    half, other = TOKENIZER.encode("é")
    talk(half)
    asked = ["complete", "one", "--run", str(tmp_path / "run"), "--max-tokens", "1", "--temperature", "0"]
    with pytest.raises(SystemExit):
        app([*asked, "--logprobs", "270"])
    said = capsys.readouterr().out
    assert re.match(r" +-?0\.\d{3} +100\.0%  b'\\xc3' +b'\\xc3' 100\.0%  ", said)
    assert all(f"  {shown} 0.0%" in said for shown in (r"b'\xa9'", "<|im_end|>", "'x'"))
    everything = [TOKENIZER.shown(token) for token in range(TOKENIZER.vocab_size)]
    assert everything[other] == r"b'\xa9'"
    assert len({*everything}) == len(everything)


def test_the_conversation_goes_on_after_an_answer_of_nothing(talk):
    assert talk(TOKENIZER.im_end, "one", "", "two", "three").count("> ") == 5


def test_the_conversation_goes_on_after_a_question_that_is_too_long(talk):
    (letter,) = TOKENIZER.encode("x")
    shown = talk(letter, "one", "long " * 100, "two")
    assert "ask something shorter" in shown
    assert shown.count("xxxx\n") == 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_byte_of_a_person_and_no_character_that_cannot_be_shown_ends_it(
    talk, tmp_path, monkeypatch, encoding
):
    def said(*words, typed=b""):
        """What a command writes to a terminal that knows no more than `encoding`, and is strict about it."""
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding))
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding, write_through=True))
        with pytest.raises(SystemExit) as ended:
            main([*words])
        assert not ended.value.code
        return written.getvalue().decode(encoding)

    (letter,) = TOKENIZER.encode("x")
    talk(letter)
    run = ("--run", str(tmp_path / "run"), "--max-tokens", "2", "--temperature", "0")
    shown = said("complete", "caf\udce9 你", *run)  # as Python hands over a byte that is no character
    assert shown == {"utf-8": "caf\ufffd 你xx\n"}.get(encoding, "caf? ?xx\n")
    assert said("chat", "caf\udce9", *run) == "xx\n"
    shown = said("chat", *run, typed=b"hello\ncaf\xe9\n\xe4\xbd\xa0\n")
    assert shown.count("xx\n") == 3
    assert "section" in said("config")  # a table with characters of its own


def test_a_conversation_without_stdin_ends_as_one_that_is_at_its_end(talk, tmp_path, monkeypatch, capsys):
    talk(TOKENIZER.im_end)
    monkeypatch.setattr("sys.stdin", None)  # what Python makes of `<&-`
    chat(run=tmp_path / "run")
    assert capsys.readouterr().out == "Ctrl-D ends the conversation.\n> "


def test_each_stage_reads_by_default_what_the_one_before_writes():
    assert PretrainConfig().shards == str(FrontierConfig().shards) == str(InstructionsConfig().shards)
    assert SFTConfig().data == InstructionsConfig().out
    assert SFTConfig().init_from == PretrainConfig().out == signature(complete).parameters["run"].default
    assert SFTConfig().out == signature(chat).parameters["run"].default
