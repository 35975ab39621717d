"""Runs on several processes: each learns from its share of every batch.

On a busy machine two processes of one thread lose far less time to waiting than two threads that
meet after every operation: processes meet once a step, to average gradients.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import distributed, multiprocessing

from training.familiarity import write
from training.recipe import Recipe
from training.schedule import Share
from training.train import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Command that runs a recipe here.

    processes: how many learn together, meeting at `port` on this machine. workers: how many each
    has to make its batches; a GPU needs several to be kept busy. photos: by which the model will
    know at the end what is unfamiliar; None: it never does.
    """

    recipe: Recipe
    folder: Path
    output: Path
    device: str = "cpu"
    processes: int = 1
    port: int = 29517
    workers: int = 1
    steps: int | None = None
    resume: bool = True
    compile: bool = True
    photos: Path | None = None


def launch(plan: Launch) -> None:
    """Train to the end of the recipe, or of `plan.steps`."""
    if plan.processes == 1:
        _train(0, plan)
    else:
        multiprocessing.spawn(_train, (plan,), nprocs=plan.processes)


def _train(index: int, plan: Launch) -> None:
    if plan.processes > 1:
        torch.set_num_threads(max(torch.get_num_threads() // plan.processes, 1))
        store = distributed.TCPStore("127.0.0.1", plan.port, plan.processes, index == 0)
        distributed.init_process_group("gloo", store=store, rank=index, world_size=plan.processes)
    share = Share(index, plan.processes)
    trainer = Trainer(plan.recipe, plan.folder, plan.output, torch.device(plan.device), share)
    console = Console(quiet=index > 0)
    if plan.resume and trainer.resume():
        console.print(f"resuming at step {trainer.step}")
    if plan.compile:
        trainer.compile()
    trainer.run(console, plan.workers, plan.steps)
    ended = trainer.step == plan.recipe.total_steps
    if index == 0 and ended and plan.photos is not None:
        console.print("measuring what is familiar to it")
        write(plan.output, plan.recipe, plan.photos)
