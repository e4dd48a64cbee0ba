"""The training loop that pretraining and fine-tuning share, from the first step to the last or to a signal.

A step: the gradients of micro-batches are summed, over all ranks, and divided by the number of tokens in all
of them; clipped; followed. Once in a while the run is measured, logged and saved. A run that was killed goes
on from its last checkpoint, on the same number of ranks with bit-identical losses.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tinylm.errors import TinylmError
from trainer import checkpoint
from trainer.checkpoint import CheckpointDamaged
from trainer.config import TrainConfig
from trainer.distributed import StopSignal, World
from trainer.metrics import Meter, MetricsLog, Progress, describe
from trainer.model import GPT, IGNORE
from trainer.optim import adamw, clip, learning_rate

Batch = dict[str, Tensor]
"""A micro-batch as the model takes it: ids, targets, and segments if a row holds several texts; (B, T)."""


class TrainingError(TinylmError):
    """A loss that is no number any more."""


class Source(Protocol):
    """Where micro-batches come from: endless, and able to go on from a state."""

    def next_step(self) -> Sequence[Batch]:
        """This rank's micro-batches of the next step; may be none."""

    def state(self) -> dict[str, Any]:
        """Position after the steps given out so far, as JSON values; called by all ranks together."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


class Outcome(NamedTuple):
    """What a step came to: mean loss in nats a token, norm of the gradient, exit code if it is time to go."""

    loss: float
    grad_norm: float
    exit_code: int


class Run:
    """One training run in the folder `config.out`, taken up where its last whole checkpoint left it.

    `step` counts finished steps, `tokens` what was predicted in them. `evaluate` is called by all ranks
    together every `eval_every` steps and after the last; `measured` is what it last returned.
    """

    def __init__(
        self,
        model: GPT,
        source: Source,
        config: TrainConfig,
        world: World,
        *,
        steps: int,
        evaluate: Callable[[], dict[str, float]],
    ) -> None:
        self.step = 0
        self.tokens = 0
        self.measured: dict[str, float] = {}
        self.model = model
        self._source = source
        self._config = config
        self._world = world
        self._steps = steps
        self._evaluate = evaluate
        self._optimizer = adamw(model, config)
        self._resume()
        if config.compile:
            model.compile()
        self._replicas = self._replicated()

    def fit(self) -> None:
        """Train to the last step. On SIGTERM or SIGINT to any rank: save, and exit with 128 + the signal.

        Raises `TrainingError` when the loss is not finite; no checkpoint is made of that.
        """
        config = self._config
        log = MetricsLog(config.out / "metrics.jsonl", self.step) if self._world.is_main else None
        meter, progress = Meter(self.step, self._steps, self.tokens), Progress()
        with StopSignal() as stop, log or contextlib.nullcontext():
            while self.step < self._steps:
                rate = learning_rate(self.step, self._steps, config)
                outcome = self._train_step(rate, stop)
                fresh = self._measure() if self._due(config.eval_every) else {}
                if log and (fresh or self._due(config.log_every)):
                    values = {"step": self.step, "steps": self._steps, "loss": outcome.loss, "lr": rate}
                    values |= {"tokens": self.tokens, "grad_norm": outcome.grad_norm}
                    values |= meter.read(self.step, self.tokens)
                    log.write(values | fresh)
                    progress.show(describe(values | self.measured), last=self.step == self._steps)
                if outcome.exit_code or self._due(config.checkpoint_every):
                    self._save()
                if outcome.exit_code and self.step < self._steps:
                    raise SystemExit(outcome.exit_code)

    def _due(self, every: int) -> bool:
        """Is it time for what is done every so many steps (0: never), and after the last?"""
        return self.step == self._steps or (every > 0 and self.step % every == 0)

    def _train_step(self, rate: float, stop: StopSignal) -> Outcome:
        batches = self._source.next_step() or [self._nothing()]
        here = sum(int((batch["targets"] != IGNORE).sum()) for batch in batches)
        agreed = self._world.sum(self._numbers([here, *stop.flags()])).tolist()
        tokens = max(1, int(agreed[0]))
        loss = self._backward(batches, tokens)
        norm = float(clip(self.model, self._config.grad_clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {self.step + 1}: loss {loss}, gradient norm {norm}; lower learning_rate "
                f"(it was {rate:.2g}) and start anew with another --out"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self.tokens += int(agreed[0])
        return Outcome(loss, norm, stop.exit_code(agreed[1:]))

    def _backward(self, batches: Sequence[Batch], tokens: int) -> float:
        """Gradient of the mean loss over `tokens`, those of all ranks; returns that loss.

        DistributedDataParallel averages over ranks, in the last backward pass; multiplying by their number
        makes that the sum.
        """
        total = self._numbers([0.0])
        for number, batch in enumerate(batches, 1):
            with contextlib.nullcontext() if number == len(batches) else self._no_sync():
                loss, _ = self._replicas(**batch)
                (loss * (self._world.size / tokens)).backward()
            total += loss.detach()
        return float(self._world.sum(total)) / tokens

    def _measure(self) -> dict[str, float]:
        self.measured = self._evaluate()
        return self.measured

    def _save(self) -> None:
        state = {
            "step": self.step,
            "steps": self._steps,
            "tokens": self.tokens,
            "data": self._source.state(),
            "measured": self.measured,
        }
        if self._world.is_main:
            checkpoint.save(self._config.out, self.model, self._optimizer, self._config, state)
        self._world.barrier()

    def _resume(self) -> None:
        """Go on from the newest checkpoint that is whole; raises `CheckpointDamaged` if none of them is."""
        damage = None
        for found in checkpoint.newest_first(self._config.out):
            try:
                state = checkpoint.restore(found, self.model, self._optimizer, self._config)
            except CheckpointDamaged as error:
                damage = error
                if self._world.is_main:
                    print(f"warning: {found} is damaged; going back to the one before it", file=sys.stderr)
                continue
            self._source.restore(state["data"])
            self.step, self.tokens, self.measured = state["step"], state["tokens"], state["measured"]
            return
        if damage:
            raise damage

    def _replicated(self) -> nn.Module:
        """The model as the ranks train it together.

        DistributedDataParallel sorts its buckets anew after the first backward pass, which changes the order
        of additions among three ranks or more. That pass is made here, on nothing, so that a resumed run
        adds up in the same order as one that was never stopped.
        """
        if self._world.size == 1:
            return self.model
        model = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        loss, _ = model(**self._nothing())
        loss.backward()
        self._optimizer.zero_grad()
        return model

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self._replicas, DistributedDataParallel):
            return self._replicas.no_sync()
        return contextlib.nullcontext()

    def _nothing(self) -> Batch:
        """A micro-batch with nothing to predict, for a rank that has no other in a step."""
        shape = (self._config.device_batch_size, self.model.config.sequence_len)
        ids = torch.zeros(shape, dtype=torch.long, device=self._world.device)
        return {"ids": ids, "targets": torch.full_like(ids, IGNORE)}

    def _numbers(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._world.device)
