#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2.1,<3", "wandb>=0.31,<0.32"]
# ///
"""Record the example runs: models that remove noise from signals on graphs, logged by the W&B SDK offline.

Stage 1a of the study trains and tests on one graph, stage 2c tests on graphs that were not in the training data,
stage 3b varies k and the learning rate. README.md in this folder lists the runs that have something odd.

Writes DIR/<project>/offline-run-<date>_<time>-<id>/. Needs no account and no network, and takes under a minute.
"""

import argparse
import hashlib
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import wandb

NODES = 48
NOISE = 0.7  # standard deviation; that of a clean signal is 1
BATCHES = [4, 3, 3]  # for training, validation and test; each batch is on one graph
BATCH_SIGNALS = 16
MOMENTUM = 0.9

STAGES = {  # project, entity, graph, the same graph for training and test, job type
    "stage1a": ("graph-denoising", "graph-lab", "sbm", True, "train"),
    "stage2c": ("graph-denoising", "graph-lab", "ring_of_cliques", False, "train"),
    "stage3b": ("graph-denoising-ablations", None, "tree", False, "ablation"),
}


class Plan(NamedTuple):
    """One run: what to fit, and what is odd about it."""

    stage: str
    arch: str
    seed: int = 0
    k: int | None = 16
    lr: str = "1e-3"
    weight_decay: str = "1e-4"
    steps: int = 240
    log_every: int = 5
    ending: str = "finished"  # or failed, killed, resumed
    title: str | None = None  # instead of a name made of the settings
    tags: tuple[str, ...] = ()
    notes: str | None = None
    more_config: dict[str, Any] | None = None
    empty_config: bool = False


TARGETS = {  # how configs call the models
    "filter_bank": "SpectralFilterBank",
    "spectral": "SpectralPolynomial",
    "self_attention": "SelfAttention",
    "gnn_all": "GNN",
    "linear": "Linear",
}
SEEDS = (0, 1, 2)
BASELINE = {"k": None, "weight_decay": "1e-2", "tags": ("baseline",)}
ABLATION = {"tags": ("sweep-by-hand",), "notes": "How much resolution does lr pay for?"}
SPELLINGS = {"optim_momentum": MOMENTUM, "optim.momentum": str(MOMENTUM)}

STUDY: list[tuple[str, str, tuple[int, ...], dict[str, Any]]] = [  # stage, arch, seeds, other settings
    ("stage1a", "filter_bank", (0,), {"steps": 3, "log_every": 1, "title": "smoke-test", "tags": ("debug",)}),
    *(("stage1a", arch, SEEDS, {}) for arch in ("filter_bank", "spectral", "self_attention")),
    ("stage1a", "linear", SEEDS, BASELINE),
    ("stage1a", "spectral", (0,), {"lr": "1e0", "tags": ("debug",), "notes": "lr far too large, left to run"}),
    ("stage2c", "filter_bank", SEEDS, {}),
    ("stage2c", "spectral", SEEDS, {}),
    ("stage2c", "gnn_all", SEEDS, {"k": 8, "lr": "1e-2"}),
    ("stage2c", "linear", SEEDS, BASELINE),
    ("stage2c", "filter_bank", (3,), {"ending": "resumed", "notes": "resumed from a checkpoint"}),
    ("stage2c", "filter_bank", (4,), {"ending": "killed", "log_every": 1}),
    ("stage2c", "self_attention", (0,), {"ending": "failed", "lr": "1e0", "notes": "stops at a loss of inf"}),
    ("stage2c", "filter_bank", (0,), {"k": 8, "title": "[red]boom[/red] 🚀 a/b", "tags": ("[bold]", "a/b")}),
    *(("stage3b", "filter_bank", SEEDS, ABLATION | {"k": k, "lr": lr}) for k in (4, 16) for lr in ("1e-4", "1e-3")),
    ("stage3b", "filter_bank", (3,), {"more_config": {"seed": "three"}, "notes": "started from a notebook"}),
    ("stage3b", "filter_bank", (0,), {"k": 8, "more_config": SPELLINGS, "notes": "from the first version of the code"}),
    ("stage3b", "linear", (0,), ABLATION | {"k": None, "title": "quick-look", "tags": (), "empty_config": True}),
]


def draw_graph(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the adjacency matrix (nodes x nodes) of a connected graph."""
    nodes, ring = np.arange(NODES), np.roll(np.eye(NODES), 1, axis=1)
    if kind == "tree":  # each node but the first hangs on one before it
        links = np.eye(NODES)[rng.integers(np.maximum(nodes, 1))]
    elif kind == "sbm":  # four blocks, dense within and sparse between, and a ring through all nodes
        block = nodes * 4 // NODES
        links = ring + (rng.random((NODES, NODES)) < np.where(np.equal.outer(block, block), 0.3, 0.03))
    else:  # cliques of five nodes on average, and a ring through all nodes
        clique = np.cumsum(rng.random(NODES) < 0.2)
        links = ring + np.equal.outer(clique, clique)
    return np.sign(links + links.T) * (1 - np.eye(NODES))


def model_matrices(arch: str, k: int | None, frequencies: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Return F (parameters x nodes x nodes) of the model `y = sum_i w_i F_i x`, given the Laplacian's eigensystem."""
    if k is None:  # linear, the baseline: any matrix, whatever the graph
        return np.eye(NODES**2).reshape(-1, NODES, NODES)
    i = np.arange(k)[:, None]
    if arch == "self_attention":  # a softmax of the nodes' similarities, sharper with each i
        attention = np.exp(i[:, None] / 2 * (modes * np.exp(-frequencies) @ modes.T))
        return np.asarray(attention / attention.sum(axis=2, keepdims=True))
    if arch == "filter_bank":  # triangular bands over the frequencies
        responses = np.maximum(0, 1 - np.abs(frequencies * (k - 1) / 2 - i))
    elif arch == "spectral":  # Chebyshev polynomials of the Laplacian
        responses = np.cos(i * np.arccos(np.clip(frequencies - 1, -1, 1)))
    else:  # gnn_all: i steps to the neighbours, by the normalized adjacency
        responses = (1 - frequencies) ** i / k
    return np.asarray(modes * responses[:, None] @ modes.T)


class Batch:
    """Signals on one graph; clean ones have low frequencies and a narrow band that a smoothing filter would lose."""

    def __init__(self, plan: Plan, graph: np.ndarray, rng: np.random.Generator) -> None:
        self.edges = int(graph.sum()) // 2
        degrees = graph.sum(axis=0)
        frequencies, modes = np.linalg.eigh(np.eye(NODES) - graph / np.sqrt(np.outer(degrees, degrees)))
        amplitudes = np.exp(-4 * frequencies) + 0.8 * np.exp(-(((frequencies - 1.2) / 0.1) ** 2))
        amplitudes /= np.sqrt(np.mean(amplitudes**2))
        self.clean = modes @ (amplitudes[:, None] * rng.normal(size=(NODES, BATCH_SIGNALS)))
        noisy = self.clean + NOISE * rng.normal(size=self.clean.shape)
        self.features = model_matrices(plan.arch, plan.k, frequencies, modes) @ noisy  # parameters x nodes x signals

    def errors(self, weights: np.ndarray) -> np.ndarray:
        return np.asarray(np.tensordot(weights, self.features, axes=1) - self.clean)


def evaluate(weights: np.ndarray, batches: list[Batch], prefix: str) -> dict[str, Any]:
    """Return the mean squared error and the signal-to-noise ratio; a clean signal's mean square is 1."""
    mse = float(np.mean([batch.errors(weights) ** 2 for batch in batches]))
    return {f"{prefix}/mse": mse, f"{prefix}/snr_db": -10 * math.log10(mse) if mse > 0 else math.nan}


def start_run(plan: Plan, scratch: Path) -> wandb.Run:
    project, entity, graph, one_graph, job_type = STAGES[plan.stage]
    k = f"_k{plan.k}" if plan.k else ""
    name = plan.title or f"{plan.stage}_{plan.arch}_lr{plan.lr}_wd{plan.weight_decay}{k}_s{plan.seed}"
    dataset = "SingleGraph" if one_graph else "GraphDistribution"
    data = {"graph": graph, "nodes": NODES, "noise": NOISE, "batches": BATCHES, "same_graph_all_splits": one_graph}
    config = {
        "model": {"_target_": f"denoising.models.{TARGETS[plan.arch]}"} | ({"k": plan.k} if plan.k else {}),
        "optim": {"lr": float(plan.lr), "weight_decay": float(plan.weight_decay), "momentum": MOMENTUM},
        "data": {"_target_": f"denoising.data.{dataset}"} | data,
        "steps": plan.steps,
        "seed": plan.seed,
    }
    folder = scratch / plan.ending / project
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        dir=folder,
        project=project,
        entity=entity,
        id=hashlib.sha256(f"{project}/{name}".encode()).hexdigest()[:8],
        name=name,
        config={} if plan.empty_config else config | (plan.more_config or {}),
        group=f"{plan.stage}_{plan.arch}",
        job_type="debug" if "debug" in plan.tags else job_type,
        tags=[graph, *plan.tags],
        notes=plan.notes,
        resume="allow" if plan.ending == "resumed" else None,
        settings=wandb.Settings(  # as little as possible about this machine and its user
            program="record_runs.py", x_executable="python", x_disable_machine_info=True, x_save_requirements=False
        ),
    )
    run.define_metric("epoch", hidden=True)
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("val/mse", step_metric="epoch", summary="min")
    return run


def record(plan: Plan, scratch: Path) -> None:
    """Fit the plan's model by gradient descent with momentum and weight decay, and log it as one run."""
    _, _, kind, one_graph, _ = STAGES[plan.stage]
    rng = np.random.default_rng(plan.seed)
    graph = draw_graph(kind, rng)
    train, validation, test = (
        [Batch(plan, graph if one_graph else draw_graph(kind, rng), rng) for _ in range(count)] for count in BATCHES
    )
    weights = rng.normal(0, 0.03, len(train[0].features))
    velocity = np.zeros_like(weights)
    run = start_run(plan, scratch)
    first = 0  # step of this log
    for step in range(plan.steps + 1):
        if plan.ending == "resumed" and step == plan.steps // 2:
            run.finish()
            run = start_run(plan, scratch)
            first = step  # the second log counts its steps from 0 again
        batch = train[step % len(train)]
        error = batch.errors(weights)
        gradient = np.tensordot(batch.features, error, axes=2) / BATCH_SIGNALS
        loss, norm = float(np.mean(error**2)), float(np.linalg.norm(gradient))
        if step % plan.log_every == 0:
            row: dict[str, Any] = {"epoch": step // len(train), "train/loss": loss, "train/grad_norm": norm}
            if "optim_momentum" in run.config:
                row["train_loss"] = loss * NODES  # how the first version of the code named and counted it
            if step % 20 == 0:
                row |= evaluate(weights, validation, "val")
            run.log(row, step=step - first)
        if plan.ending == "failed" and not math.isfinite(loss):
            run.finish(exit_code=1)
            return
        velocity = MOMENTUM * velocity + gradient
        weights = weights - float(plan.lr) * (velocity + float(plan.weight_decay) * weights)
    step = plan.steps + 1 - first
    row = evaluate(weights, test, "test")
    if plan.seed == 0 and math.isfinite(row["test/mse"]):
        rows = [[i, each.edges, evaluate(weights, [each], "test")["test/mse"]] for i, each in enumerate(test)]
        row["test/by_graph"] = wandb.Table(columns=["graph", "edges", "mse"], data=rows)
        # Unbound, it would be logged as an artifact too, and that record holds a path of this machine.
        row["test/by_graph"].bind_to_run(run, "test/by_graph", step)
        row["params"] = wandb.Histogram(np_histogram=np.histogram(weights, bins=8))
    run.log(row, step=step)
    run.summary["model/parameters"] = weights.size
    run.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default="example-runs", help="default: %(default)s")
    output = parser.parse_args().output
    if output.exists() and any(output.iterdir()):
        parser.error(f"{output} is not empty: name another folder with -o")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]  # the user's own settings
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_HOST": "localhost"}
    with tempfile.TemporaryDirectory() as scratch, np.errstate(over="ignore", invalid="ignore"):
        for stage, arch, seeds, settings in STUDY:
            for seed in seeds:
                record(Plan(stage, arch, seed, **settings), Path(scratch))
        wandb.teardown()  # from here on all logs are complete
        for folder in sorted(Path(scratch).glob("*/*/wandb/offline-run-*")):
            ending, project, *_ = folder.relative_to(scratch).parts
            copy = shutil.copytree(folder, output / project / folder.name, ignore=shutil.ignore_patterns("logs", "tmp"))
            if ending == "killed":  # the log ends in the middle of a record, as after SIGKILL
                os.truncate(next(copy.glob("*.wandb")), 65_536)
    print(output)


if __name__ == "__main__":
    main()
