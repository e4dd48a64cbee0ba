import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm.errors import ConfigError
from trainer.config import InstructionsConfig
from trainer.instructions import Example, InstructionError, Smallest, main, make, split
from trainer.post.chat import held_out_file, parse_messages

TOOLS = ["awl", "vise", "hammer", "saw", "chisel", "plane", "rasp", "lathe", "gouge", "clamp", "drill"]


def page(tool):
    return f"""# {tool}

A {tool} is a tool that every {tool} maker knows and that lies on the bench beside the wood.

## Using the {tool}

Take the {tool} in the hand you write with and let it do the work for you.

## `sharpen_{tool}(angle=25)`

Sharpen the {tool} until it cuts paper without a sound, then put the {tool} away.

## License

Everybody may use the {tool} for whatever purpose they have in mind for it.
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_corpus):
    """A page a tool; the first two are held out."""
    return write_corpus(tmp_path_factory.mktemp("shards"), [page(tool) for tool in TOOLS], held_out=2)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_kind_of_question_is_made_and_every_line_is_a_conversation(corpus, tmp_path):
    tally = make(InstructionsConfig(shards=corpus, out=tmp_path / "chat.jsonl"))
    examples = read(tmp_path / "chat.jsonl") + read(tmp_path / "chat.val.jsonl")
    assert dict(tally.kept) == {"definition": 9, "heading": 9, "api": 9}
    assert len(examples) == 27
    for example in examples:
        user, assistant = parse_messages(example["messages"])
        assert user["content"].endswith(("?", "."))
        tool = TOOLS[int(example["source"]["id"].split("-")[0], 16)]
        assert assistant["content"] in page(tool)
        assert example["source"]["url"].endswith(f"/{TOOLS.index(tool)}")


def test_held_out_hosts_of_the_corpus_give_no_example(corpus, tmp_path):
    make(InstructionsConfig(shards=corpus, out=tmp_path / "chat.jsonl"))
    written = (tmp_path / "chat.jsonl").read_text() + (tmp_path / "chat.val.jsonl").read_text()
    assert "hammer" in written
    assert "vise" not in written
    assert "awl" not in written


def test_a_document_stands_on_one_side_only(corpus, tmp_path):
    make(InstructionsConfig(shards=corpus, out=tmp_path / "chat.jsonl", held_out=0.3))
    train, held_out = (
        {example["source"]["id"] for example in read(path)}
        for path in (tmp_path / "chat.jsonl", tmp_path / "chat.val.jsonl")
    )
    assert len(held_out) == 3
    assert train.isdisjoint(held_out)


def test_the_same_corpus_gives_the_same_bytes(corpus, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        make(InstructionsConfig(shards=corpus, out=tmp_path / name))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (
        held_out_file(tmp_path / "a.jsonl").read_bytes() == held_out_file(tmp_path / "b.jsonl").read_bytes()
    )


def test_what_is_there_is_replaced_by_nothing_else(corpus, tmp_path):
    config = InstructionsConfig(shards=corpus, out=tmp_path / "chat.jsonl")
    make(config)
    made, held_out = config.out.read_bytes(), held_out_file(config.out).read_bytes()
    make(config)
    assert config.out.read_bytes() == made
    with pytest.raises(InstructionError, match=r"chat\.val\.jsonl holds something else than"):
        make(replace(config, max_examples=9))
    held_out_file(config.out).unlink()
    config.out.write_text("mine\xff\n", encoding="latin-1")
    with pytest.raises(InstructionError, match=r"chat\.jsonl holds something else"):
        make(config)
    assert [path.name for path in tmp_path.iterdir()] == ["chat.jsonl"]
    assert config.out.read_bytes() == b"mine\xff\n"
    # Killed between the two: the same command goes on.
    config.out.unlink()
    held_out_file(config.out).write_bytes(held_out)
    make(config)
    assert config.out.read_bytes() == made


def test_no_kind_crowds_out_another(corpus, tmp_path):
    tally = make(InstructionsConfig(shards=corpus, out=tmp_path / "chat.jsonl", max_examples=9))
    assert dict(tally.kept) == {"definition": 3, "heading": 3, "api": 3}


def test_what_mirrors_repeat_is_there_once(tmp_path, write_corpus):
    shards = write_corpus(tmp_path / "shards", [page("saw")] * 3)
    tally = make(InstructionsConfig(shards=shards, out=tmp_path / "chat.jsonl"))
    assert tally.kept.total() == 3
    assert tally.dropped["duplicate answer"] + tally.dropped["duplicate question"] == 9


def test_a_corpus_that_answers_nothing_is_refused_and_nothing_is_written(tmp_path, write_corpus):
    shards = write_corpus(tmp_path / "shards", ["- a list\n- of links"])
    with pytest.raises(InstructionError, match="no document defines"):
        make(InstructionsConfig(shards=shards, out=tmp_path / "out" / "chat.jsonl"))
    assert not (tmp_path / "out").exists()


def test_a_setting_that_cannot_work_is_named():
    with pytest.raises(ConfigError, match=r"max_answer_chars = 10"):
        InstructionsConfig(max_answer_chars=10)


@given(st.lists(st.integers(0, 1000), unique=True, min_size=1), st.randoms(), st.integers(1, 10))
def test_the_order_of_reading_does_not_change_the_sample(keys, random, size):
    shuffled = keys.copy()
    random.shuffle(shuffled)
    samples = []
    for order in (keys, shuffled):
        sample = Smallest(size)
        for key in order:
            sample.add(key, Example(str(key), "api", "d1"))
        samples.append([example.line for example in sample])
    assert samples[0] == samples[1] == [str(key) for key in sorted(keys)[:size]]


@given(st.lists(st.integers(0, 9), max_size=30), st.floats(0, 0.9))
def test_a_split_loses_nothing_and_leaves_something_to_train_on(ids, share):
    examples = [Example(str(n), "api", str(number)) for n, number in enumerate(ids)]
    train, held_out = split(examples, share)
    assert sorted(int(example.line) for example in train + held_out) == list(range(len(ids)))
    assert bool(train) == bool(ids)


def test_the_command_says_what_it_made_and_why_it_dropped_the_rest(corpus, tmp_path):
    out = tmp_path / "chat.jsonl"
    result = run("--shards", corpus, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "instructions: 27 (definition 9, heading 9, api 9)" in result.stdout
    assert str(out) in result.stdout


def test_the_command_ends_with_one_line_if_there_is_no_corpus(tmp_path):
    result = run("--shards", tmp_path / "nowhere", "--out", tmp_path / "chat.jsonl")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "trainer.instructions", *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_an_interrupted_command_says_that_it_goes_on(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.instructions.make", interrupted)
    monkeypatch.setattr("sys.argv", ["instructions"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"
