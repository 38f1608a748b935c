"""The one training loop: steps, accumulation, evaluation, checkpoints, exact resume.

Devices, mixed precision and DDP come from `accelerate`. Its `save_state` writes pickles, so the
state is kept here as one safetensors file (tensors, with the counters in its header), renamed into
place: weights that train, Adam's moments, random states, position in the data, best score. On one
CPU an interrupted run that goes on is, bit for bit, the run that was never interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from pydantic import Field
from torch import Tensor, nn

from stages.artifacts import atomic
from stages.core.config import Config
from stages.core.errors import ConfigError, DataError, DivergenceError
from stages.core.out_of_memory import room_for
from stages.core.runtime import Progress
from stages.training.optim import OptimizerConfig, build_optimizer, set_learning_rate
from stages.training.schedule import LearningRateConfig, learning_rate
from stages.training.tensorboard import EventLog

log = logging.getLogger(__name__)

STATE_FILE = "state.safetensors"
BEST_FILE = "best.safetensors"
METRICS_FILE = "metrics.jsonl"

Precision = Literal["float32", "bfloat16", "float16"]
MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class TrainingConfig(Config):
    """How a model is trained, whatever the model."""

    epochs: int = Field(default=10, ge=1)
    """Passes over the training questions."""
    batch_size: int = Field(default=8, ge=1)
    """Questions per forward pass, over all processes together."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes per optimizer step."""
    accumulate_rule: Literal["mean", "sum"] = "mean"
    """`sum` adds gradients without dividing, as the reference does (specs/vlap.md 5.1)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Adam's settings."""
    schedule: LearningRateConfig = LearningRateConfig()
    """Learning rate over time."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; trained weights and their moments stay float32."""
    clip_gradient: float | None = Field(default=None, gt=0)
    """Largest gradient norm; none: no clipping, as in the reference."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Forward passes after which the next optimizer step saves the state, as every epoch's end."""
    select_best: bool = True
    """Keep the epoch with the best accuracy on the tune split; otherwise the last one."""
    seed: int = Field(default=42, ge=0)
    """Order of the questions, dropout, frame noise."""


class StepOutput(Protocol):
    """What a model returns in training."""

    @property
    def loss(self) -> Tensor:
        """What is minimised."""
        ...

    @property
    def parts(self) -> dict[str, Tensor]:
        """Named parts of the loss, for the log."""
        ...


class TrainingData(Protocol):
    """Questions as batches; a pure function of its arguments, so that a run can be resumed."""

    def __len__(self) -> int:
        """Number of questions."""
        ...

    def batch(self, indices: Sequence[int], epoch: int) -> Any:
        """The batch of these questions, on the CPU."""
        ...

    def ids(self, indices: Sequence[int]) -> list[str]:
        """Their question ids, for messages."""
        ...


@dataclass
class Position:
    """Where a run stands; saved with every state."""

    epoch: int = 0
    index: int = 0
    forward_passes: int = 0
    best_accuracy: float = -math.inf
    best_epoch: int = -1
    metrics_bytes: int = 0


@dataclass(frozen=True)
class FitResult:
    """What came out of `fit`.

    Attributes:
        weights: The trained tensors of the chosen epoch, by parameter name.
        best_epoch: Which epoch that is, from 0.
        best_accuracy: Its accuracy on the tune split in percent; none when there is no such split.
        forward_passes: Forward passes of the whole run.
    """

    weights: dict[str, Tensor]
    best_epoch: int
    best_accuracy: float | None
    forward_passes: int


@dataclass(frozen=True)
class Moment:
    """Which forward pass this is, for schedules: `iteration` of `per_epoch` in `epoch`."""

    epoch: int
    iteration: int
    epochs: int
    per_epoch: int


Forward = Callable[[nn.Module, Any, Moment], StepOutput]
"""Calls the (wrapped) model on one batch."""


def make_accelerator(device: torch.device, config: TrainingConfig) -> Accelerator:
    """The accelerator of a run; processes started by torchrun or accelerate are found by it.

    Raises:
        ConfigError: float16 on a CPU.
    """
    if config.precision == "float16" and device.type == "cpu":
        raise ConfigError(
            "training.precision: float16 needs an accelerator (its loss scaling has no CPU form)",
            "--set training.precision=bfloat16, or float32",
        )
    # accelerate keeps the first run's precision for the whole process and refuses another one;
    # `vqa run` and `vqa demo` train several models in one process.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=MIXED_PRECISION[config.precision],
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


class Fit:
    """One run of training.

    Args:
        model: Its trainable parameters are those that require a gradient.
        data: Training questions.
        config: How to train.
        directory: Where state, best weights and metrics are kept; only the main process writes.
        forward: Calls the model on one batch.
        evaluate: Accuracy on the tune split in percent; none: no tune split.
        accelerator: From `make_accelerator`.
        progress: Called after every forward pass.
        events: Folder for TensorBoard event files; none: none are written.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        config: TrainingConfig,
        directory: Path,
        *,
        forward: Forward,
        evaluate: Callable[[nn.Module], float] | None,
        accelerator: Accelerator,
        progress: Progress,
        events: Path | None = None,
    ) -> None:
        self.config, self.data, self.directory = config, data, directory
        self.forward, self.evaluate, self.progress = forward, evaluate, progress
        self.accelerator, self.events = accelerator, events
        self._event_log: EventLog | None = None
        self.processes = accelerator.num_processes
        self.model = model
        self.trainable = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        }
        named = ((name.removeprefix("backbone."), value) for name, value in self.trainable.items())
        optimizer = build_optimizer(named, config.optimizer, config.schedule.init_lr)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.position = Position()
        self._since_step: list[dict[str, float]] = []
        self._questions: list[int] = []
        self._saved_at = 0
        self.passes_per_epoch = self._passes_per_epoch()
        self.total_passes = config.epochs * self.passes_per_epoch
        self.started = time.monotonic()

    def run(self) -> FitResult:
        """Train from the saved state, if there is one, to the end."""
        torch.manual_seed(self.config.seed + self.accelerator.process_index)
        self._load_state()
        self.optimizer.zero_grad()
        with self._opened_events() as self._event_log:
            for epoch in range(self.position.epoch, self.config.epochs):
                self._train_epoch(epoch)
                self._evaluate_epoch(epoch)
                self.position.epoch, self.position.index = epoch + 1, 0
                self._save_state()
        return self._result()

    def _opened_events(self) -> AbstractContextManager[EventLog | None]:
        if self.events is None or not self.accelerator.is_main_process:
            return nullcontext()
        return EventLog(self.events, self.position.forward_passes)

    # --- one epoch -----------------------------------------------------------------------------

    def _passes_per_epoch(self) -> int:
        if len(self.data) == 0:
            raise DataError("no question to train on", "vqa prepare --split train")
        if self.config.batch_size % self.processes:
            raise ConfigError(
                f"batch_size {self.config.batch_size} is no multiple of {self.processes} processes"
            )
        return max(1, len(self.data) // self.config.batch_size)

    def _order(self, epoch: int) -> list[list[int]]:
        """Global batches of an epoch; the rest of a division is left out, as in the reference."""
        generator = np.random.Generator(np.random.PCG64([self.config.seed, epoch]))
        order = generator.permutation(len(self.data)).tolist()
        size = self.config.batch_size
        return [order[i * size : (i + 1) * size] for i in range(self.passes_per_epoch)]

    def _train_epoch(self, epoch: int) -> None:
        self.wrapped.train()
        batches = self._order(epoch)[self.position.index :]
        for indices, batch in self._prefetched(batches, epoch):
            self._forward_backward(indices, batch, epoch)
            self.position.index += 1
            self.position.forward_passes += 1
            if self._step_is_due():
                self._optimizer_step()
                if self.position.forward_passes - self._saved_at >= self.config.checkpoint_every:
                    self._save_state()
            self.progress(self.position.forward_passes, self.total_passes, "training batches")

    def _step_is_due(self) -> bool:
        """Every `accumulate` passes; what is left at an epoch's end is not carried over."""
        index = self.position.index
        return index % self.config.accumulate == 0 or index == self.passes_per_epoch

    def _step_group(self) -> tuple[int, int]:
        """First pass and number of passes of the running optimizer step; an epoch's last is cut."""
        first = self.position.index - self.position.index % self.config.accumulate
        return first, min(self.config.accumulate, self.passes_per_epoch - first)

    def _prefetched(self, batches: list[list[int]], epoch: int) -> Iterator[tuple[list[int], Any]]:
        """Each process's part of each batch, the next one read while the model works."""
        rank, count = self.accelerator.process_index, self.processes
        parts = [indices[rank::count] for indices in batches]
        with ThreadPoolExecutor(1) as reader:
            waiting: Future[Any] | None = None
            for number, indices in enumerate(parts):
                ready = waiting or reader.submit(self.data.batch, indices, epoch)
                following = parts[number + 1] if number + 1 < len(parts) else None
                batch = ready.result()
                waiting = reader.submit(self.data.batch, following, epoch) if following else None
                yield indices, batch

    def _forward_backward(self, indices: list[int], batch: Any, epoch: int) -> None:
        moment = Moment(epoch, self.position.index, self.config.epochs, self.passes_per_epoch)
        rate = learning_rate(self.config.schedule, **asdict(moment))
        set_learning_rate(self.optimizer, rate)
        first, size = self._step_group()
        last = self.position.index + 1 == first + size
        context = (
            nullcontext() if self.processes == 1 or last else self.accelerator.no_sync(self.wrapped)
        )
        with context, room_for(f"a training step of {len(indices)} questions"):
            output = self.forward(self.wrapped, batch, moment)
            self._check_finite(output.loss, indices)
            scale = size if self.config.accumulate_rule == "mean" else 1
            self.accelerator.backward(output.loss / scale)
        self._since_step.append(
            {name: float(value.detach()) for name, value in output.parts.items()}
            | {"loss": float(output.loss.detach()), "lr": rate, "epoch": epoch}
        )
        self._questions += indices

    def _check_finite(self, loss: Tensor, indices: list[int]) -> None:
        if not torch.isfinite(loss.detach()).item():
            raise self._divergence("loss", float(loss.detach()), indices)

    def _check_gradient(self, norm: Any) -> None:
        """Before the step, so that no bad weights are kept; float16's scaler skips such steps."""
        if norm is not None and self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._divergence("gradient norm", float(norm), self._questions)

    def _divergence(self, what: str, value: float, indices: list[int]) -> DivergenceError:
        return DivergenceError(
            f"the {what} is {value} in epoch {self.position.epoch}, batch {self.position.index}; "
            f"questions: {', '.join(self.data.ids(indices))}",
            "the state before it is kept; try a smaller --set training.schedule.init_lr=..., "
            "or training.precision=float32",
        )

    def _optimizer_step(self) -> None:
        limit = self.config.clip_gradient
        norm = self.accelerator.clip_grad_norm_(
            list(self.trainable.values()), math.inf if limit is None else limit
        )
        self._check_gradient(norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        value = math.nan if norm is None else float(norm)
        self._log({**self._step_means(), "gradient_norm": value if math.isfinite(value) else None})
        self._since_step, self._questions = [], []

    def _step_means(self) -> dict[str, float]:
        """Means over the step's passes and over all processes, each of which saw its own part."""
        parts = self._since_step
        mean = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        if self.processes == 1:
            return mean
        # float32, because not every accelerator has float64.
        values = torch.tensor(list(mean.values()), device=self.accelerator.device)
        shared = self.accelerator.reduce(values, "mean").tolist()
        same = {"lr": mean["lr"], "epoch": mean["epoch"]}
        return dict(zip(mean, shared, strict=True)) | same

    # --- evaluation ----------------------------------------------------------------------------

    def _evaluate_epoch(self, epoch: int) -> None:
        accuracy: float | None = None
        if self.evaluate is not None:
            self.wrapped.eval()
            with torch.no_grad():
                accuracy = self.evaluate(self.model)
            self._log({"epoch": epoch, "tune_accuracy": accuracy})
        better = accuracy is not None and accuracy > self.position.best_accuracy
        if better or accuracy is None or not self.config.select_best:
            self.position.best_epoch = epoch
            if accuracy is not None:
                self.position.best_accuracy = accuracy
            self._write(BEST_FILE, self._weights(), {})

    def _result(self) -> FitResult:
        self.accelerator.wait_for_everyone()
        weights = safetensors.torch.load_file(self.directory / BEST_FILE)
        self.accelerator.wait_for_everyone()  # the main process deletes the file soon
        known = math.isfinite(self.position.best_accuracy)
        return FitResult(
            weights=weights,
            best_epoch=self.position.best_epoch,
            best_accuracy=self.position.best_accuracy if known else None,
            forward_passes=self.position.forward_passes,
        )

    # --- log and state -------------------------------------------------------------------------

    def _log(self, values: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        line = {
            "pass": self.position.forward_passes,
            **values,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        with (self.directory / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            self.position.metrics_bytes = file.tell()
        if self._event_log is not None:
            self._event_log(line)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu() for name, value in self.trainable.items()}

    def _save_state(self) -> None:
        """All that the next run needs; random states of every process, since dropout differs."""
        tensors = {f"weights/{name}": value for name, value in self._weights().items()}
        names = {id(value): name for name, value in self.trainable.items()}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"adam/{names[id(parameter)]}/{key}"] = value.detach().cpu()
        for rank, state in enumerate(self._random_states()):
            for device, value in state.items():
                tensors[f"random/{rank}/{device}"] = value
        scaler = self.accelerator.scaler
        facts = {"position": asdict(self.position), "scaler": scaler and scaler.state_dict()}
        self._write(STATE_FILE, tensors, facts)
        self._saved_at = self.position.forward_passes

    def _random_states(self) -> list[dict[str, Tensor]]:
        own = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state()
        if self.processes == 1:
            return [own]
        gathered: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(gathered, own)
        return gathered

    def _write(self, name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            metadata = {"vqa": json.dumps(facts)}
            contiguous = {key: value.contiguous() for key, value in tensors.items()}
            atomic.write_bytes(
                self.directory / name, safetensors.torch.save(contiguous, metadata=metadata)
            )
        self.accelerator.wait_for_everyone()

    def _load_state(self) -> None:
        path = self.directory / STATE_FILE
        if not path.exists():
            if self.accelerator.is_main_process:
                (self.directory / METRICS_FILE).unlink(missing_ok=True)
            return
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["vqa"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.position = Position(**facts["position"])
        self._saved_at = self.position.forward_passes
        self._restore(tensors)
        if facts["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        if self.accelerator.is_main_process and (self.directory / METRICS_FILE).exists():
            os.truncate(self.directory / METRICS_FILE, self.position.metrics_bytes)
        log.info("going on after %d forward passes", self.position.forward_passes)

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        rank, device = self.accelerator.process_index, self.accelerator.device
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(tensors[f"weights/{name}"])
                prefix = f"adam/{name}/"
                state = {
                    key.removeprefix(prefix): value
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                if state:
                    self.optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(device)
                        for key, value in state.items()
                    }
        # A run resumed on more processes than wrote the state seeds the new ones afresh.
        if f"random/{rank}/cpu" in tensors:
            torch.set_rng_state(tensors[f"random/{rank}/cpu"])
        if device.type == "cuda" and f"random/{rank}/cuda" in tensors:
            torch.cuda.set_rng_state(tensors[f"random/{rank}/cuda"])
