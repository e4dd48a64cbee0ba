"""The training loop that pretraining and fine-tuning share, from the first step to the last or to a signal.

A step: the gradients of micro-batches are summed, over all ranks, and divided by the number of tokens in all
of them; clipped; followed, unless they are bad (`trainer.run.spikes`). Once in a while the run is measured,
logged and saved. A run that was killed goes on from its last checkpoint, on the same number of ranks with
bit-identical losses.
"""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tinylm.errors import TinylmError
from tinylm.records import MALFORMED
from tinylm.terminal import say
from trainer.config import TrainConfig
from trainer.data.batch import IGNORE, Batch
from trainer.model.model import GPT
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointDamaged, CheckpointError, Saver
from trainer.run.distributed import StopSignal, World, exchanging, passes, prepare, replicas, whole
from trainer.run.metrics import Meter, Progress, Record, describe, profiled
from trainer.run.optim import Optimizer, before_decay, clip, learning_rate
from trainer.run.preflight import peak_flops, training_dtype
from trainer.run.spikes import Guard

# To one and the same checkpoint, each time with other text; what three do not mend is not the text's fault.
_MOST_ROLLBACKS = 3


class TrainingError(TinylmError):
    """Losses that stay bad whatever text comes."""


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
    """One training run in the folder `config.out`, taken up where its last intact checkpoint left it.

    Only a run of the same `identity` (settings, text, first weights) is taken up. `step` counts finished
    steps, `tokens` what was predicted in them, `skipped` the bad ones among them.
    `peak` is the FLOPs a second of all ranks' devices. `evaluate` is called by all ranks together every
    `eval_every` steps and after the last; `measured` is what it last returned.
    """

    def __init__(
        self,
        model: GPT,
        source: Source,
        config: TrainConfig,
        world: World,
        *,
        steps: int,
        evaluate: Callable[[], dict[str, Any]],
        identity: Mapping[str, Any],
    ) -> None:
        self.step = self.tokens = self.skipped = 0
        self.measured: dict[str, Any] = {}
        self.model = model.train()
        self._source = source
        self._config = config
        self._world = world
        self._steps = steps
        self._warmup = round(steps * config.warmup)
        self._evaluate = evaluate
        self._identity = identity
        self._dtype = training_dtype(config.precision, world.device)
        self._guard = Guard(config)
        self.peak = float(world.sum(self._numbers([peak_flops(world.device, self._dtype)])))
        self._rollbacks = 0
        self._branch = before_decay(steps, config) if config.can_grow else 0
        prepare(model, config, world)
        self._optimizer = Optimizer(model, config, world)
        self._saver = Saver(config, world)
        self._resume()
        self._replicas = replicas(model, world, self._nothing())
        if config.compile:
            for block in model.layers:  # which are alike: it is done once for all of them
                block.compile()

    def fit(self) -> None:
        """Train to the last step. On SIGTERM or SIGINT to any rank: save, and exit with 128 + the signal.

        Raises `TrainingError` when going back to the last checkpoint does not help against bad steps.
        """
        config = self._config
        meter, progress = self._meter(), Progress()
        with (
            StopSignal() as stop,
            Record(config, self.step) if self._world.is_main else contextlib.nullcontext() as record,
            profiled(config.profile, self._world.rank) as profile,
        ):
            while self.step < self._steps:
                rate = learning_rate(self.step, self._steps, self._warmup, config)
                outcome = self.train_step(rate, stop)
                profile()
                if self._guard.bad >= config.bad_steps:
                    self._roll_back()
                    meter = self._meter()  # the step it counts from is another now
                    if record:
                        record.cut(self.step)
                    continue
                fresh = self._measure() if self._due(config.eval_every) else {}
                if record and (fresh or self._due(config.log_every)):
                    values = {"step": self.step, "steps": self._steps, "tokens": self.tokens, "lr": rate}
                    if not self._guard.bad:  # else they may be no numbers, which JSON could not hold
                        values |= {"loss": outcome.loss, "grad_norm": outcome.grad_norm}
                    values |= {"skipped": self.skipped, **meter.read(self.step, self.tokens)}
                    record.write(values | fresh)
                    progress.show(describe(values | self.measured), last=self.step == self._steps)
                if outcome.exit_code or self._due(config.checkpoint_every) or self.step == self._branch:
                    self._save(anyway=bool(outcome.exit_code))
                if outcome.exit_code and self.step < self._steps:
                    self._saver.wait()
                    if self._world.is_main:
                        after = f"saved after step {self.step}"
                        say(f"{after}; the same command goes on from here", file=sys.stderr)
                    raise SystemExit(outcome.exit_code)
            self._saver.wait()

    def _meter(self) -> Meter:
        return Meter(self.step, self._steps, self.tokens, self.peak / self.model.flops_per_token)

    def _due(self, every: int) -> bool:
        """Is it time for what is done every so many steps (0: never), and after the last?"""
        return self.step == self._steps or (every > 0 and self.step % every == 0)

    def train_step(self, rate: float, stop: StopSignal) -> Outcome:
        """The next step, at this learning rate; a collective."""
        batches = self._source.next_step()
        # All that ranks have to tell each other before a step in one sum: tokens, who has how many
        # micro-batches, signals seen.
        here = sum(int((batch["targets"] != IGNORE).sum()) for batch in batches)
        counts = [0.0] * self._world.size
        counts[self._world.rank] = len(batches)
        summed: list[float] = self._world.sum(self._numbers([here, *counts, *stop.flags()])).tolist()
        tokens, counts, flags = summed[0], summed[1 : 1 + len(counts)], summed[1 + len(counts) :]
        # At least 1, for a step in which no rank has a token to predict.
        loss = self._backward(batches, max(1.0, tokens), passes(self.model, counts, len(batches)))
        norm = float(clip(self.model, self._config.grad_clip))
        if self._guard.accepts(loss=loss, grad_norm=norm):
            self._optimizer.step(rate)
        else:
            self.skipped += 1
            self._warn(f"step {self.step + 1} is left out: {self._guard.reason}")
        self._optimizer.zero_grad()
        self.step += 1
        self.tokens += int(tokens)
        return Outcome(loss, norm, stop.exit_code(flags))

    def _backward(self, batches: Sequence[Batch], tokens: float, number: int) -> float:
        """Gradient of the mean loss over `tokens`, those of all ranks, in `number` passes; returns that loss.

        The ranks' gradients are averaged when they are exchanged; multiplying by the number of ranks makes
        that the sum.
        """
        total = self._numbers([0.0])
        device = self._world.device.type
        for index in range(number):
            batch = batches[index] if index < len(batches) else self._nothing()
            with exchanging(self._replicas, last=index == number - 1):
                with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
                    loss, _ = self._replicas(**batch, z_loss=self._config.z_loss)
                (loss * (self._world.size / tokens)).backward()
            total += loss.detach()
        return float(self._world.sum(total)) / tokens

    def _measure(self) -> dict[str, Any]:
        self.model.eval()
        # Not compiled: its batches have other shapes than training's, each of which would be compiled.
        with whole(self.model), torch.compiler.set_stance("force_eager"):
            self.measured = self._evaluate()
        self.model.train()
        return self.measured

    def _save(self, *, anyway: bool) -> None:
        """Start a checkpoint; not amid bad steps, which would take the place of one from before them."""
        if self._guard.bad and not (anyway or self.step == self._steps):
            return
        state = {
            "step": self.step,
            "steps": self._steps,
            "warmup": self._warmup,
            "tokens": self.tokens,
            "skipped": self.skipped,
            "identity": dict(self._identity),
            "data": self._source.state(),
            "guard": self._guard.state(),
            "measured": self.measured,
        }
        self._saver.start(self.model, self._optimizer, state)
        self._rollbacks = 0

    def _roll_back(self) -> None:
        """Go back to the last checkpoint, but not in the text: what follows the bad steps is read."""
        self._saver.wait()
        step, skipped, position = self.step, self.skipped, self._source.state()
        self._rollbacks += 1
        if self._rollbacks > _MOST_ROLLBACKS or not self._resume():
            raise TrainingError(
                f"step {step}: {self._guard.reason}, the last of {self._config.bad_steps} bad in a row; "
                "going back to a checkpoint did not help: lower learning_rate and start anew in another --out"
            )
        self._source.restore(position)  # `_resume` set the checkpoint's
        self.skipped = skipped
        self._warn(f"back to step {self.step}, with the text that comes after step {step}")

    def _resume(self) -> bool:
        """Go on from the newest intact checkpoint, if there is one.

        Raises `CheckpointDamaged` if all are damaged, `CheckpointError` if they are of another run.
        """
        damage = None
        for found in checkpoint.newest_first(self._config.out):
            try:
                state = checkpoint.restore(found, self.model, self._optimizer, self._identity, self._world)
            except CheckpointDamaged as error:
                damage = error  # raised if none before it is intact
                self._warn(f"{found} is damaged; going back to the one before it")
                continue
            try:
                self._source.restore(state["data"])
                self._guard.restore(state["guard"])
                self.step, self.tokens, self.skipped = state["step"], state["tokens"], state["skipped"]
                self.measured = state["measured"]
                # Of a run that was given more steps, as many as it began with.
                self._warmup = state.get("warmup", round(state["steps"] * self._config.warmup))
            except MALFORMED as error:
                raise CheckpointError(f"{found}: its state is none of such a run ({error!r})") from error
            return True
        if damage:
            raise damage
        return False

    def _warn(self, text: str) -> None:
        if self._world.is_main:
            say(f"warning: {text}", file=sys.stderr)

    def _nothing(self) -> Batch:
        """A micro-batch with nothing to predict, for a rank that has no other in a step."""
        shape = (self._config.device_batch_size, self.model.config.sequence_len)
        ids = torch.zeros(shape, dtype=torch.long, device=self._world.device)
        return {"ids": ids, "targets": torch.full_like(ids, IGNORE)}

    def _numbers(self, values: Sequence[float]) -> Tensor:
        # In fp64 counts of tokens and sums of losses lose nothing.
        return torch.tensor(values, dtype=torch.float64, device=self._world.device)
