"""A checkpoint is there whole or not at all, and what is wrong with one is said by name."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from bench.runs import losses
from tests.trainer.runs import save
from trainer.config import PretrainConfig, SFTConfig, TrainConfig, identity
from trainer.generate import Generator
from trainer.model.model import GPT
from trainer.pretrain import pretrain
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointError, Saver
from trainer.run.distributed import World
from trainer.run.optim import Optimizer
from trainer.sft import sft
from trainer.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["The reader reads and the writer writes."], 300)
FILES = [f"shard-00001-model-0000{number}-of-00002.safetensors" for number in (1, 2)] + ["state.json"]


@pytest.fixture
def config(tiny):
    return tiny(vocab_size=300, keep_last=3)


def trained(config, seed=0):
    """A model and optimizer after one step."""
    torch.manual_seed(seed)
    model = GPT(config.model(TOKENIZER.vocab_size))
    optimizer = Optimizer(model, config, World())
    loss, _ = model(torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    loss.backward()
    optimizer.step(config.learning_rate)
    return model, optimizer


def write(config, step=5, seed=0):
    model, optimizer = trained(config, seed)
    found = {"data": {"lanes": [[0, 1, 2]]}, "measured": {"val_bpb": 2.25}, "identity": identity(config)}
    save(model, config, optimizer, step=step, steps=9, tokens=70, **found)
    path = config.out / f"step_{step:06d}"
    TOKENIZER.save(config.out / "tokenizer.json")
    return path, model, optimizer


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_restored_is_what_was_saved_to_the_last_bit(tiny, tied):
    config = tiny(vocab_size=300, tied_embeddings=tied)
    path, model, optimizer = write(config)
    noise = torch.rand(3)
    other, moments = trained(config, seed=1)
    state = checkpoint.restore(path, other, moments, identity(config), World())
    assert torch.equal(torch.rand(3), noise)
    assert (state["step"], state["tokens"], state["measured"]) == (5, 70, {"val_bpb": 2.25})
    assert state["data"] == {"lanes": [[0, 1, 2]]}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert moments.updates == optimizer.updates == 1
    assert all(torch.equal(tensor, moments.tensors()[name]) for name, tensor in optimizer.tensors().items())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_named(config, name, damage):
    path, _, _ = write(config)
    file = path / name
    data = bytearray(file.read_bytes())
    match damage:
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "gone":
            file.unlink()
    with pytest.raises(
        CheckpointError, match=rf"{name} is missing or damaged; delete .*step_000005 to go on"
    ):
        checkpoint.restore(path, *trained(config), identity(config), World())


def test_a_directory_without_a_state_is_no_checkpoint(config):
    path, _, _ = write(config, step=5)
    shutil.copytree(path, config.out / "step_000006")
    (config.out / "step_000006" / "state.json").unlink()
    shutil.copytree(path, config.out / ".step_000007.tmp")
    assert checkpoint.latest(config.out) == path


def test_no_run_has_no_checkpoint(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_only_the_newest_are_kept_in_order_of_their_numbers(config):
    for step in (999_998, 999_999, 1_000_000, 1_000_001):
        write(config, step=step)
    assert sorted(path.name for path in config.out.glob("*step*")) == [
        "step_1000000",
        "step_1000001",
        "step_999999",
    ]
    assert checkpoint.latest(config.out).name == "step_1000001"


def test_what_lies_beyond_the_step_that_is_saved_does_not_outlive_it(tiny):
    config = tiny(vocab_size=300, keep_last=1)
    write(config, step=9)
    path, _, _ = write(config, step=7)
    assert list(config.out.glob("*step*")) == [path]


def test_a_step_can_be_saved_again(config):
    write(config, seed=0)
    path, model, _ = write(config, seed=1)
    loaded, _ = checkpoint.load_model(path)
    assert torch.equal(loaded.norm.weight, model.norm.weight)
    assert [each.name for each in config.out.glob("*step*")] == ["step_000005"]


def test_another_setting_is_named_with_both_values(config, tiny):
    path, _, _ = write(config)
    other = tiny(vocab_size=300, learning_rate=0.125)
    with pytest.raises(
        CheckpointError, match=r"learning_rate = 0.004, not 0.125: go on with .* another --out"
    ):
        checkpoint.restore(path, *trained(other), identity(other), World())


def test_a_setting_that_may_change_does_not_matter(config, tiny):
    path, _, _ = write(config)
    other = tiny(vocab_size=300, log_every=3, keep_last=1, checkpoint_every=100)
    assert checkpoint.restore(path, *trained(other), identity(other), World())["step"] == 5


def test_another_shape_is_named_with_both_values(config):
    path, _, _ = write(config)
    shape = config.model(TOKENIZER.vocab_size + 1)
    model = GPT(shape)
    with pytest.raises(CheckpointError, match=f"vocab_size = {TOKENIZER.vocab_size}, not {shape.vocab_size}"):
        checkpoint.restore(path, model, Optimizer(model, config, World()), identity(config), World())


def test_another_format_is_refused_with_what_to_do(config):
    path, _, _ = write(config)
    state = json.loads((path / "state.json").read_text())
    state.pop("digest")
    state["format"] = 4
    (path / "state.json").write_text(json.dumps(state | {"digest": checkpoint._digest(state)}))
    with pytest.raises(CheckpointError, match=r"format = 4, this tinylm reads 3: train anew"):
        checkpoint.read_state(path)


@pytest.mark.parametrize("of", ["run", "checkpoint"])
def test_a_model_is_loaded_from_a_run_or_a_checkpoint(config, of):
    path, model, _ = write(config)
    loaded, tokenizer = checkpoint.load_model(config.out if of == "run" else path)
    ids = torch.arange(16).reshape(2, 8)
    with torch.no_grad():
        assert torch.equal(loaded(ids), model(ids))
    assert not loaded.training
    assert tokenizer.fingerprint == TOKENIZER.fingerprint


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        checkpoint.load_model(tmp_path)


def test_a_tokenizer_of_another_run_is_refused(config):
    write(config)
    other = Tokenizer.train(["something quite different, different, different"], 310)
    other.save(config.out / "tokenizer.json")
    with pytest.raises(CheckpointError, match=rf"vocab_size = 300|has {other.vocab_size}"):
        checkpoint.load_model(config.out)


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(config):
    write(config, step=5)
    blocked = config.out / ".step_000006.tmp"
    blocked.write_text("a file where a directory has to be")
    with pytest.raises(CheckpointError, match="step_000006 could not be written"):
        write(config, step=6)
    assert checkpoint.load_model(config.out)


def test_what_is_saved_is_what_was_there_when_saving_began(config):
    model, optimizer = trained(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saver = Saver(config, World())
    saver.start(model, optimizer, {"step": 5, "steps": 9, "data": {}, "measured": {}, "identity": {}})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    saver.wait()
    TOKENIZER.save(config.out / "tokenizer.json")
    loaded, _ = checkpoint.load_model(config.out)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_a_checkpoint_is_tensors_and_json_so_a_stranger_s_runs_no_code(config):
    path, _, _ = write(config)
    assert sorted(file.name for file in path.iterdir()) == FILES


def test_a_train_config_is_its_own_identity():
    with pytest.raises(CheckpointError, match="seed = 0, not 1"):
        checkpoint.check_identity(TrainConfig().out, identity(TrainConfig()), identity(TrainConfig(seed=1)))


# Runs that tinylm made when checkpoints were of format 2, each cut back to before its last step: `model` was
# pretrained on `corpus` (its last checkpoint is there too), `more` begun from it, `chat` fine-tuned from it.
FORMAT_2 = Path(__file__).with_name("format_2.tar.xz")
SHAPE = {"vocab_size": 264, "width": 8, "layers": 1, "heads": 1, "kv_heads": 1}
COURSE = {"device_batch_size": 2, "tokens_per_step": 64, "log_every": 1, "eval_every": 0}


@pytest.fixture
def old(tmp_path):
    """The folder of the runs, and the settings each was made with: `old("model", seed=1)`."""
    with tarfile.open(FORMAT_2) as archive:
        archive.extractall(tmp_path, filter="data")
    text = {"shards": str(tmp_path / "corpus"), "steps": 4, "lanes": 2, "baseline_bytes": 1000}
    pretrained = {**text, "sequence_len": 16, "sample_prompt": "", "checkpoint_every": 2}
    tuned = {"data": tmp_path / "chat.jsonl", "epochs": 2, "sequence_len": 32, "checkpoint_every": 1}

    def settings(name, **changes):
        where = {"out": tmp_path / name} | ({} if name == "model" else {"init_from": tmp_path / "model"})
        if name == "chat":
            return SFTConfig(**{**COURSE, **tuned, **where, **changes})
        return PretrainConfig(
            **{**COURSE, **pretrained, **(SHAPE if name == "model" else {}), **where, **changes}
        )

    return settings


@pytest.mark.parametrize(
    ("name", "train", "last"), [("model", pretrain, 4), ("more", pretrain, 4), ("chat", sft, 8)]
)
def test_a_run_of_format_2_goes_on_with_the_same_losses(old, name, train, last, capsys):
    config = old(name)
    if name == "model":
        shutil.rmtree(config.out / "step_000004")
    expected = losses(config.out)
    before = checkpoint.find(config.out)
    train(config)
    step = int(before.name[5:])
    assert f"goes on after step {step}" in capsys.readouterr().out
    assert losses(config.out).keys() == expected.keys()
    for number, values in losses(config.out).items():
        assert values[0] == pytest.approx(expected[number][0], rel=1e-4)
    assert json.loads((checkpoint.latest(config.out) / "state.json").read_text())["format"] == 3
    assert checkpoint.latest(config.out).name == f"step_{last:06d}"
    train(config)
    assert f"finished, {last} steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "train", "changes", "says"),
    [
        ("model", pretrain, {"learning_rate": 0.5}, "learning_rate = 0.004, not 0.5"),
        ("model", pretrain, {"mix": ("{}/corpus=0.5",)}, r"sources = 1, not 2"),
        ("more", pretrain, {"init_from": None, **SHAPE}, r"init_from\.sha256 = \w+, not None"),
        ("chat", sft, {"data": "{}/other.jsonl"}, r"data\.sha256 = \w+, not \w+"),
        ("chat", sft, {"init_from": "{}/more"}, r"init_from\.sha256 = \w+, not \w+"),
    ],
)
def test_what_differs_from_a_run_of_format_2_is_named(old, tmp_path, name, train, changes, says):
    (tmp_path / "other.jsonl").write_text("another file\n")
    if name == "model":
        shutil.rmtree(tmp_path / "model" / "step_000004")
    here = {
        "mix": lambda entries: tuple(entry.format(tmp_path) for entry in entries),
        "data": lambda path: Path(path.format(tmp_path)),
        "init_from": lambda path: path and Path(path.format(tmp_path)),
    }
    changed = {field: here.get(field, lambda value: value)(value) for field, value in changes.items()}
    with pytest.raises(CheckpointError, match=rf"{name} holds a run with {says}: go on with"):
        train(old(name, **changed))


def test_a_model_of_format_2_writes(old):
    generator = Generator.load(old("model").out)
    assert len("".join(generator.complete("The ", max_tokens=8, temperature=0))) > 0
