"""Fifty steps of training each choice of the model are what they were, and every choice learns.

The losses are in golden/choices.json, one line a choice. A change that means to change them writes them anew:

    TINYLM_TEST_WRITE_GOLDEN=1 python -m pytest tests/trainer/test_golden.py

They hold to 1e-3 across machines; bit-identity is a matter of one machine (test_checkpoint.py).
"""

import json
import math
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench.architectures import CHOICES
from trainer.model.architecture import ModelConfig
from trainer.model.model import GPT

GOLDEN = Path(__file__).parent / "golden" / "choices.json"
STEPS, ROWS, LENGTH = 50, 4, 32
SIZES = {"vocab_size": 259, "sequence_len": LENGTH, "width": 32, "layers": 2, "heads": 4}


@pytest.fixture(scope="module")
def stream(texts):
    """The bytes of a text, as many as fifty steps read."""
    return torch.tensor(list(" ".join(texts).encode()))[: STEPS * ROWS * LENGTH + 1]


@pytest.fixture(scope="module")
def unigram(stream):
    """Nats a byte of the best model that knows how often each byte comes, and nothing else."""
    counts = Counter(stream[1:].tolist())
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def losses(changes, stream):
    """Nats a byte at each of fifty steps of AdamW."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(**{**SIZES, **changes}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    found = []
    for rows in stream.unfold(0, LENGTH + 1, LENGTH).split(ROWS):
        loss, count = model(rows[:, :-1], rows[:, 1:])
        mean = loss / count
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(round(mean.item(), 5))
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_trains_as_it_did_and_learns(choice, stream, unigram):
    found = losses(CHOICES[choice], stream)
    assert len(found) == STEPS
    assert sum(found[-5:]) / 5 < unigram
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("TINYLM_TEST_WRITE_GOLDEN"):
        golden = {name: found if name == choice else golden.get(name) for name in CHOICES}
        lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in golden.items() if values]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        assert found == pytest.approx(golden[choice], rel=1e-3)


def test_there_are_golden_losses_of_every_choice_and_no_other():
    assert list(json.loads(GOLDEN.read_text())) == list(CHOICES)
