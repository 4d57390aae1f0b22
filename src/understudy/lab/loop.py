"""The training loop of every task: schedule, checkpoints, early stop, and going on after a stop.

What an epoch draws at random is seeded by the seed and the epoch's number alone, so a run that
was stopped and goes on ends with the weights it would have had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from understudy.core.errors import ConfigError
from understudy.lab import checkpoint
from understudy.lab.checkpoint import Checkpoint

STATE: Final = "state.safetensors"
HISTORY: Final = "history.json"
WARM_UP: Final = 0.05  # of all steps
CLIP_NORM: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to learn. `patience`: epochs without a better score; 0: no limit."""

    epochs: int = 60
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    patience: int = 0
    seed: int = 0


class Task(Protocol):
    """What is learned; `score` is the figure that says which epoch was best (higher is better)."""

    steps: int  # batches an epoch

    @property
    def parameters(self) -> nn.Module:
        """All that is trained: the net, and what is thrown away afterwards."""
        ...

    def batches(self, epoch: int) -> Iterator[Any]: ...
    def loss(self, batch: Any) -> tuple[Tensor, float, int]:
        """(mean loss, how many were right, of how many)"""
        ...

    def settle(self) -> None:
        """Makes the net ready to be judged, once an epoch: see `settle_norms`."""
        ...

    def validate(self) -> dict[str, float]:
        """At least "loss" and "score"."""
        ...

    def checkpoint(self) -> Checkpoint: ...


@dataclass(frozen=True, slots=True)
class Epoch:
    epoch: int
    train_loss: float
    train_accuracy: float
    validation: dict[str, float]
    learning_rate: float
    seconds: float


def fit(
    task: Task,
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    say: Callable[[Epoch], None] = lambda _: None,
    tensorboard: bool = False,
) -> list[Epoch]:
    """Trains, writes checkpoints into `folder`, and returns what each epoch came to.

    Raises ConfigError where there is nothing to resume, or the plan is another one.
    """
    optimiser = torch.optim.AdamW(
        task.parameters.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    history = _restore(task, plan, optimiser, folder) if resume else []
    writer = _writer(folder) if tensorboard else None
    for number in range(len(history), plan.epochs):
        if _is_tired(history, plan.patience):
            break
        epoch = _train_epoch(task, plan, optimiser, number)
        better = all(epoch.validation["score"] > e.validation["score"] for e in history)
        history.append(epoch)
        made = task.checkpoint()
        if better:
            checkpoint.save(folder, made, checkpoint.BEST)
        checkpoint.save(folder, made, checkpoint.LAST)
        _keep(task, plan, optimiser, history, folder)
        if writer is not None:
            _log(writer, epoch)
        say(epoch)
    if writer is not None:
        writer.close()
    return history


def settle_norms(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Takes the statistics of every batch norm anew, of clips as they are heard in use.

    Those of training are of augmented clips and of the last few batches, which costs accuracy and
    makes it jump from epoch to epoch (Y. Wu and J. Johnson, arXiv:2105.07576, section 3).
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    net.train()
    for batch in batches:
        net(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def best_of(history: list[Epoch]) -> Epoch:
    return max(history, key=lambda epoch: epoch.validation["score"])


def rate_at(step: int, steps: int, peak: float) -> float:
    """The learning rate: a short linear warm-up, then half a cosine down to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _train_epoch(task: Task, plan: Plan, optimiser: torch.optim.Optimizer, number: int) -> Epoch:
    begun = perf_counter()
    torch.manual_seed(plan.seed * 100_003 + number)
    task.parameters.train()
    total, right, count = 0.0, 0.0, 0
    rate = 0.0
    for at, batch in enumerate(task.batches(number)):
        rate = rate_at(number * task.steps + at, plan.epochs * task.steps, plan.learning_rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss, correct, of = task.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.parameters.parameters(), CLIP_NORM)
        optimiser.step()
        total, right, count = total + float(loss.detach()) * of, right + correct, count + of
    with torch.no_grad():
        task.settle()
    task.parameters.eval()
    with torch.inference_mode():
        validation = task.validate()
    seconds = round(perf_counter() - begun, 3)
    return Epoch(
        number + 1, total / max(1, count), right / max(1, count), validation, rate, seconds
    )


def _is_tired(history: list[Epoch], patience: int) -> bool:
    return patience > 0 and bool(history) and len(history) - best_of(history).epoch >= patience


def _keep(
    task: Task,
    plan: Plan,
    optimiser: torch.optim.Optimizer,
    history: list[Epoch],
    folder: Path,
) -> None:
    tensors = {f"net.{key}": value for key, value in task.parameters.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items()}
    record = json.dumps([asdict(epoch) for epoch in history])
    told = {"history": record, "asked": _asked(task, plan)}
    checkpoint.write_tensors(folder / STATE, tensors, told)
    checkpoint.write_text(folder / HISTORY, json.dumps(json.loads(record), indent=1) + "\n")


def _restore(task: Task, plan: Plan, optimiser: torch.optim.Optimizer, folder: Path) -> list[Epoch]:
    if not (folder / STATE).is_file():
        raise ConfigError(f"{folder} holds no training to go on with; leave out --resume")
    with safe_open(folder / STATE, "pt") as file:
        told = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if told["asked"] != _asked(task, plan):
        raise ConfigError(
            f"the training in {folder} has other settings or other data; give it the same ones, "
            "or another --out"
        )
    weights = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
    task.parameters.load_state_dict(weights)
    kept = optimiser.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            kept["state"].setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(kept)
    return [Epoch(**epoch) for epoch in json.loads(told["history"])]


def _asked(task: Task, plan: Plan) -> str:
    made = task.checkpoint()
    return json.dumps([asdict(plan), made.data_hash, dict(made.settings)], sort_keys=True)


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("--tensorboard needs it: pip install tensorboard") from None
    return SummaryWriter(str(folder / "tensorboard"))


def _log(writer: Any, epoch: Epoch) -> None:
    writer.add_scalar("train/loss", epoch.train_loss, epoch.epoch)
    writer.add_scalar("train/accuracy", epoch.train_accuracy, epoch.epoch)
    for name, value in epoch.validation.items():
        writer.add_scalar(f"validation/{name}", value, epoch.epoch)
    writer.flush()
