import json
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import ModelConfig, SFTConfig
from trainer.data.batch import IGNORE, DataError
from trainer.model.model import GPT
from trainer.post.chat import render
from trainer.post.conversations import (
    ConversationSource,
    batches,
    collate,
    pack,
    plan,
    read_conversations,
)
from trainer.run.distributed import World
from trainer.tokenizer import Tokenizer

SEQUENCE_LEN = 64
WORDS = ["what", "is", "a", "shard", "lane", "lease", "frontier", "of", "documents", "the", "in", "order"]
TOKENIZER = Tokenizer.train([" ".join(WORDS) * 5], 320)


def conversation(random, answer_words=8):
    return [
        {"role": "user", "content": " ".join(random.choices(WORDS, k=random.randint(1, 8))) + "?"},
        {"role": "assistant", "content": " ".join(random.choices(WORDS, k=random.randint(1, answer_words)))},
    ]


def write(path, conversations):
    path.write_text("".join(json.dumps({"messages": messages, "id": 1}) + "\n" for messages in conversations))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    random = Random(0)
    path = tmp_path_factory.mktemp("data") / "chat.jsonl"
    write(path, [conversation(random) for _ in range(100)])
    return read_conversations(path, TOKENIZER, SEQUENCE_LEN)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(0, 5))
def test_every_conversation_is_in_one_row_and_no_two_rows_fit_into_one(lengths, seed):
    rows = pack(lengths, 50, Random(seed))
    filled = sorted(sum(lengths[index] for index in row) for row in rows)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(fill <= 50 for fill in filled)
    assert len(filled) < 2 or filled[0] + filled[1] > 50


def test_the_order_follows_from_the_file_the_seed_and_the_epoch_alone(data, tmp_path):
    rows = plan(data, SEQUENCE_LEN, seed=1, epochs=2)
    assert rows == plan(data, SEQUENCE_LEN, seed=1, epochs=2)
    assert rows != plan(data, SEQUENCE_LEN, seed=2, epochs=2)
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert first != second
    assert sorted(index for row in rows for index in row) == sorted(2 * list(range(100)))
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(data.path.read_bytes())
    assert plan(read_conversations(copy, TOKENIZER, SEQUENCE_LEN), SEQUENCE_LEN, seed=1, epochs=2) == rows


def test_what_is_learned_is_the_assistants_tokens(data):
    for line, example in zip(data.path.read_text().splitlines(), data.examples, strict=True):
        messages = json.loads(line)["messages"]
        learned = [target for target in example.targets if target != IGNORE]
        assert learned == [*TOKENIZER.encode(messages[1]["content"]), TOKENIZER.im_end]
        ids, _ = render(messages, TOKENIZER)
        assert example.inputs == ids[: len(example.inputs)]
    assert data.supervised == sum(target != IGNORE for example in data.examples for target in example.targets)


def test_a_conversation_is_scored_as_if_it_were_alone_in_its_row(data):
    torch.manual_seed(0)
    model = GPT(
        ModelConfig(vocab_size=320, sequence_len=SEQUENCE_LEN, width=32, layers=2, heads=2, kv_heads=1)
    )
    torch.nn.init.normal_(model.embed_tokens.weight)
    row = max(plan(data, SEQUENCE_LEN, seed=0, epochs=1), key=len)
    assert len(row) > 1
    together, _ = model(**collate(data.examples, [row], SEQUENCE_LEN))
    apart = sum(model(**collate(data.examples, [[index]], SEQUENCE_LEN))[0] for index in row)
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("size", [2, 3])
def test_the_ranks_together_read_what_one_alone_reads(data, size):
    config = SFTConfig(device_batch_size=2, tokens_per_step=8 * SEQUENCE_LEN, epochs=2)
    alone = ConversationSource(data, SEQUENCE_LEN, config, World())
    ranks = [ConversationSource(data, SEQUENCE_LEN, config, World(rank, size)) for rank in range(size)]
    assert {source.steps for source in ranks} == {alone.steps}
    for _ in range(alone.steps):
        whole = alone.next_step()
        shares = [source.next_step() for source in ranks]
        for number, batch in enumerate(whole):
            part = shares[number % size].pop(0)
            assert all(torch.equal(batch[name], part[name]) for name in batch)
        assert not any(shares)


def test_a_source_goes_on_where_its_state_was_taken(data):
    config = SFTConfig(device_batch_size=2, tokens_per_step=8 * SEQUENCE_LEN)
    source = ConversationSource(data, SEQUENCE_LEN, config, World())
    source.next_step()
    other = ConversationSource(data, SEQUENCE_LEN, config, World())
    other.restore(json.loads(json.dumps(source.state())))
    assert torch.equal(source.next_step()[0]["ids"], other.next_step()[0]["ids"])


def test_a_conversation_that_is_too_long_is_cut_at_its_end_and_counted(tmp_path):
    random = Random(0)
    long_answer = [*conversation(random)[:1], {"role": "assistant", "content": "shard " * 200}]
    long_question = [{"role": "user", "content": "shard " * 200}, {"role": "assistant", "content": "yes"}]
    path = write(tmp_path / "chat.jsonl", [long_answer, long_question, conversation(random)])
    data = read_conversations(path, TOKENIZER, SEQUENCE_LEN)
    assert (len(data.examples), data.cut, data.unanswered) == (2, 2, 1)
    assert len(data.examples[0].inputs) == SEQUENCE_LEN
    assert data.examples[0].targets[-1] != IGNORE


BAD_LINES = {
    "not json": "not JSON",
    "[1, 2]": 'key "messages"',
    '{"conversations": []}': 'key "messages"',
    '{"messages": [{"role": "user"}]}': r"messages\[0\]\.content",
    '{"messages": [{"role": "bot", "content": "hi"}]}': r"messages\[0\]\.role: .*'bot'",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize(("line", "problem"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_by_file_number_and_field(tmp_path, line, problem):
    good = json.dumps({"messages": conversation(Random(0))})
    path = tmp_path / "chat.jsonl"
    path.write_text(f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(DataError, match=rf"chat\.jsonl:3: .*{problem}"):
        read_conversations(path, TOKENIZER, SEQUENCE_LEN)
    data = read_conversations(path, TOKENIZER, SEQUENCE_LEN, "skip")
    assert (len(data.examples), data.bad.total()) == (2, 1)


def test_lines_are_counted_by_what_is_wrong_with_them_and_keys_that_nobody_reads_are_named(tmp_path):
    good, calls = conversation(Random(0)), conversation(Random(0))
    calls[1]["tool_calls"] = [{"id": "1"}]
    masked = conversation(Random(0)) + conversation(Random(0))
    masked[1] |= {"train": False, "toxic": False, "id": None}
    lines = [
        {"messages": good, "source": "a"},
        {"messages": masked, "tools": [], "score": 1},
        {"messages": calls},
        {"messages": calls, "unseen": 1},
        {"messages": good, "tools": [{"type": "function"}]},
        {"messages": good, "system": "Be brief."},
        {"messages": good, "weight": 0.3},
        {"messages": good, "weight": 0},
        {"messages": [{"role": "tool", "content": "x"}]},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "no json\n")
    with pytest.raises(DataError, match=r"chat\.jsonl:3: messages\[1\]\.tool_calls: not rendered here"):
        read_conversations(path, TOKENIZER, SEQUENCE_LEN)
    data = read_conversations(path, TOKENIZER, 4 * SEQUENCE_LEN, "skip")
    assert data.bad == {
        "messages.tool_calls": 2,
        "tools": 1,
        "system": 1,
        "weight": 1,
        "messages.role": 1,
        "not JSON": 1,
    }
    assert (data.bad.total(), data.masked, data.unanswered) == (7, 2, 1)
    assert data.unread == {"source", "score", "toxic"}
    learned = [[target for target in example.targets if target != IGNORE] for example in data.examples]
    assert learned == [[*TOKENIZER.encode(good[1]["content"]), TOKENIZER.im_end]] * 2


def test_bytes_that_are_no_text_are_a_bad_line(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_bytes(b'{"messages": "\xff\xfe"}\n')
    with pytest.raises(DataError, match=r"chat\.jsonl:1: not JSON"):
        read_conversations(path, TOKENIZER, SEQUENCE_LEN)


@pytest.mark.parametrize("messages", [None, [{"role": "user", "content": "anyone?"}]])
def test_data_without_a_token_to_learn_is_refused(tmp_path, messages):
    path = write(tmp_path / "chat.jsonl", [messages] if messages else [])
    with pytest.raises(DataError, match="no token to learn"):
        read_conversations(path, TOKENIZER, SEQUENCE_LEN)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"chat\.jsonl: No such file.*trainer\.instructions"):
        read_conversations(tmp_path / "chat.jsonl", TOKENIZER, SEQUENCE_LEN)


def test_padding_is_never_predicted_and_never_seen(data):
    rows = plan(data, SEQUENCE_LEN, seed=0, epochs=1)
    (batch,) = batches(data, rows, SEQUENCE_LEN, len(rows), World())
    padding = batch["segments"] == -1
    assert padding.any()
    assert (batch["targets"][padding] == IGNORE).all()
