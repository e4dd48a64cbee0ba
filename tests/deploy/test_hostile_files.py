"""Files the product reads, with what should not be in them: one clear error, never a traceback."""

import hashlib
import json
import multiprocessing
import os
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.cli.app import main
from shards.errors import ShardError
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.writer import ShardWriter
from tests.shards.conftest import make_document, make_fetch, make_link
from tests.trainer.runs import save
from tinylm.errors import TinylmError
from tinylm.files import sha256
from trainer.config import PretrainConfig
from trainer.generate import Generator
from trainer.interop.start import Start
from trainer.model.model import GPT
from trainer.run.metrics import Record
from trainer.tokenizer import Tokenizer

NO_JSON = [b"", b"[]", b"null", b"3", b"{}", b"[" * 100_000, b'{"a":' * 50_000, b"\x00\xff\xfe", b"NaN"]
BAD = st.sampled_from(
    [
        None,
        [],
        {},
        "x",
        "",
        -1,
        1.5,
        float("nan"),
        10**30,
        True,
        [[]],
        [None],
        {"a": None},
        "../x",
        "/etc/passwd",
    ]
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    with ShardWriter(folder, crawl_id="c") as writer:
        for number in range(4):
            host = f"h{number % 2}.test"
            writer.append(
                make_document(number, host=host), [make_link(number)], make_fetch(number, host=host)
            )
        writer.commit({"0": "1-0"}, state=b"no walker's", dropped={"a": 1})
        writer.update(tombstones=("gone.test",))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the smallest model, with one checkpoint."""
    folder = tmp_path_factory.mktemp("models") / "run"
    folder.mkdir()
    tokenizer = Tokenizer.train(["some text to learn from"] * 5, 300)
    tokenizer.save(folder / "tokenizer.json")
    shape = {"width": 16, "layers": 1, "heads": 2, "vocab_size": 300, "sequence_len": 16}
    config = PretrainConfig(out=folder, device_batch_size=1, tokens_per_step=16, steps=1, **shape)
    save(GPT(config.model(tokenizer.vocab_size)), config)
    return folder


def spoiled(draw, document):
    """The document with one value replaced, left out, or of a name that is not known."""
    value = document
    while isinstance(value, dict | list) and value:
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        parent, key = value, draw(st.sampled_from(keys))
        value = value[key]
        if not draw(st.booleans()):
            break
    match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
        case "remove" if isinstance(parent, dict):
            del parent[key]
        case "add" if isinstance(parent, dict):
            parent["unknown"] = 1
        case _:
            parent[key] = draw(BAD)
    return document


def cli(capsys, *words):
    """What a command says; anything but an exit is raised."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert ended.value.code in (0, 1, 2, None)
    return said.out + said.err


def test_a_manifest_that_is_none_is_one_clear_error(corpus, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    for content in NO_JSON:
        (tmp_path / "manifest.json").write_bytes(content)
        assert "manifest.json" in cli(capsys, "shards", "list", tmp_path)


@given(st.data())
@settings(max_examples=150)
def test_whatever_a_manifest_says_it_is_believed_or_one_clear_error(corpus, data):
    path = corpus / "manifest.json"
    before = path.read_bytes()
    try:
        path.write_text(json.dumps(spoiled(data.draw, json.loads(before))))
        for _ in ShardReader(corpus, split="all"):
            pass
        assert all("/" not in file.name for file in Manifest.load(corpus).files)
    except ShardError:
        pass
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    "name", ["../outside.parquet", "/etc/passwd", "a/b", "..", "", "a\x00", "manifest.json"]
)
def test_a_manifest_names_files_beside_it_and_no_others(corpus, tmp_path, name):
    document = json.loads((corpus / "manifest.json").read_text())
    for entry in (document["shards"][0], document["shards"][0]["links"], document["state"]):
        before, entry["name"] = entry["name"], name
        (tmp_path / "manifest.json").write_text(json.dumps(document))
        with pytest.raises(ShardError, match="not a manifest"):
            ShardWriter(tmp_path)
        entry["name"] = before


def test_a_walkers_state_that_is_none_is_one_clear_error(corpus, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    manifest = Manifest.load(tmp_path)
    for content in NO_JSON:
        path = tmp_path / manifest.state.name
        path.write_bytes(content)
        entry = replace(manifest.state, bytes=len(content), sha256=sha256(path))
        replace(manifest, state=entry).save(tmp_path)
        assert "walker's state is damaged" in cli(capsys, "why", "https://h0.test/none", tmp_path)


def digested(state):
    return json.dumps(
        state | {"digest": hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}
    )


@pytest.fixture
def state(run):
    """The path and the contents of the run's state.json, which is put back."""
    [path] = run.glob("step_*/state.json")
    before = path.read_bytes()
    yield path, {name: value for name, value in json.loads(before).items() if name != "digest"}
    path.write_bytes(before)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_state_says_it_is_believed_or_one_clear_error(run, state, data):
    path, document = state
    path.write_text(digested(spoiled(data.draw, json.loads(json.dumps(document)))))
    with suppress(TinylmError):
        list(Generator.load(run).complete("a", max_tokens=1))


def test_a_state_that_is_none_is_one_clear_error(run, state, capsys):
    for content in NO_JSON:
        state[0].write_bytes(content)
        assert "state.json is missing or damaged" in cli(capsys, "complete", "a", "--run", run)


LARGE = [
    {"layers": 10**7}, {"width": 10**9}, {"vocab_size": 10**9}, {"head_width": 10**9}, {"mlp_ratio": 1e300},
    {"sequence_len": 10**12}, {"heads": 10**9, "head_width": 2},
]  # fmt: skip


@pytest.mark.parametrize("shape", LARGE)
def test_no_model_is_made_that_is_larger_than_what_is_saved(run, state, shape, capsys):
    path, document = state
    path.write_text(digested(document | {"model": document["model"] | shape}))
    assert f"error: {path}" in cli(capsys, "complete", "a", "--run", run)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_config_of_transformers_says_it_is_believed_or_one_clear_error(run, exported, data):
    path = exported / "config.json"
    before = path.read_bytes()
    try:
        path.write_text(json.dumps(spoiled(data.draw, json.loads(before))))
        Start.at(exported).load(16)
    except TinylmError:
        pass
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def exported(run):
    with pytest.raises(SystemExit):
        main(["export", "hf", str(run), "--out", str(run.parent / "hf")])
    return run.parent / "hf"


def test_what_is_no_checkpoint_is_not_advised_to_be_deleted(run, tmp_path, capsys):
    for name in ("step_abc", "step_", "step_-1"):
        (run / name).mkdir(exist_ok=True)
        (run / name / "state.json").write_text("{}")
    assert "error" not in cli(capsys, "complete", "a", "--run", run, "--max-tokens", "1")
    (tmp_path / "state.json").write_text('{"of": "another program"}')
    said = cli(capsys, "complete", "a", "--run", tmp_path)
    assert "state.json is missing or damaged; restore it" in said
    assert "delete" not in said


def test_metrics_that_are_none_are_not_thrown_away(run, tmp_path):
    config = PretrainConfig(out=tmp_path, sequence_len=16, device_batch_size=1, tokens_per_step=16)
    path = tmp_path / "metrics.jsonl"
    for content in (b"\xff\xfe\n\xff\n", b"[1]\n{}\n", b'{"step": null}\n{}\n', b"[" * 100_000 + b"\n{}\n"):
        path.write_bytes(content)
        with pytest.raises(TinylmError, match=r"metrics.jsonl, line 1: not what a run measured"):
            Record(config, 3)
        assert path.read_bytes() == content


def test_settings_that_nest_too_deeply_are_one_clear_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "tinylm.toml").write_text("a = " + "[" * 5000)
    monkeypatch.chdir(tmp_path)
    assert "tinylm.toml" in cli(capsys, "config")
    assert "tinylm.toml" in cli(capsys, "why", "https://a.test/", tmp_path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(corpus, tmp_path, capsys):
    """Links that lead to themselves: also root is refused."""
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    shard = tmp_path / Manifest.load(tmp_path).shards[0].name
    shard.unlink()
    shard.symlink_to(shard)
    said = cli(capsys, "shards", "show", tmp_path)
    assert "cannot be read (Too many levels of symbolic links)" in said
    assert "damaged" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_folder_of_archives_that_may_not_be_read_is_not_an_empty_one(tmp_path):
    (tmp_path / "warc").mkdir(mode=0o700)
    reader = multiprocessing.get_context("fork").Process(target=read_as_nobody, args=(tmp_path / "warc",))
    reader.start()
    reader.join()
    assert reader.exitcode == 0


def read_as_nobody(folder):
    from ranker.replay.web import RecordingError, read_warc

    for parent in [*folder.parents][:-2]:
        parent.chmod(0o755)
    os.setuid(65534)
    with pytest.raises(RecordingError, match=r"warc: cannot be read \(Permission denied\)"):
        read_warc((folder,), "text_chars")
