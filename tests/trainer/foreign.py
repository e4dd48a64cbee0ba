"""Models and tokenizers that other programs open, or made."""

from functools import lru_cache

import torch

from trainer.model.architecture import ModelConfig
from trainer.model.model import GPT, BatchNorm
from trainer.tokenizer import Tokenizer

TEXT = [
    "The reader's 1234 rows; the writer writes them.\n\n    def read(self):\n        return 3.14  # déjà vu\n"
] * 20


@lru_cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXT, 400)


def shaped(config: ModelConfig) -> GPT:
    """A model in evaluation mode in which all weights matter; a new one's blocks add nothing."""
    torch.manual_seed(0)
    made = GPT(config).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    for module in made.modules():
        if isinstance(module, BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made


def model(**changes) -> GPT:
    """A small model that knows the tokens of `tokenizer`."""
    sizes = {"vocab_size": tokenizer().vocab_size, "sequence_len": 96, "width": 64, "layers": 2, "heads": 4}
    return shaped(ModelConfig(**{**sizes, **changes})).requires_grad_(False)


def ids(rows=2, length=24):
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(1))


def same_weights(one: GPT, other: GPT) -> bool:
    """Bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
