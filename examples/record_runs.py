#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2,<3", "wandb>=0.31,<0.32"]
# ///
"""Record the example runs: models that remove noise from signals on graphs, logged by the W&B SDK offline.

Stage 1a of the study trains and tests on one graph, stage 2c tests on graphs that were not in the training data,
stage 3b varies k and the learning rate. README.md in this folder lists the runs that have something odd.

Writes DIR/<project>/offline-run-<date>_<time>-<id>/run-<id>.wandb, and files/media/ beside it if the run logged a
table. Needs no account and no network, and takes about ten seconds. Names, ids and numbers are the same every time;
only the times differ.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import shutil
import sys
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
VALIDATE_EVERY = 20  # steps
KILLED_LOG_BYTES = 65_536  # two of the blocks in which the SDK writes its log

# --- the runs ---------------------------------------------------------------------------------------------

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


SEEDS = (0, 1, 2)
BASELINE = {"k": None, "weight_decay": "1e-2", "tags": ("baseline",)}
ABLATION = {"tags": ("sweep-by-hand",), "notes": "How much resolution does lr pay for?"}
SPELLINGS = {"optim_momentum": MOMENTUM, "optim.momentum": str(MOMENTUM)}

STUDY: list[tuple[str, str, tuple[int, ...], dict[str, Any]]] = [  # stage, arch, seeds, other settings
    ("stage1a", "filter_bank", (0,), {"steps": 3, "log_every": 1, "title": "smoke-test", "tags": ("debug",)}),
    ("stage1a", "filter_bank", SEEDS, {}),
    ("stage1a", "spectral", SEEDS, {}),
    ("stage1a", "self_attention", SEEDS, {}),
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
    ("stage3b", "filter_bank", SEEDS, ABLATION | {"k": 4, "lr": "1e-4"}),
    ("stage3b", "filter_bank", SEEDS, ABLATION | {"k": 4}),
    ("stage3b", "filter_bank", SEEDS, ABLATION | {"lr": "1e-4"}),
    ("stage3b", "filter_bank", SEEDS, ABLATION),
    ("stage3b", "filter_bank", (3,), {"more_config": {"seed": "three"}, "notes": "started from a notebook"}),
    ("stage3b", "filter_bank", (0,), {"k": 8, "more_config": SPELLINGS, "notes": "from the first version of the code"}),
    ("stage3b", "linear", (0,), ABLATION | {"k": None, "title": "quick-look", "tags": (), "empty_config": True}),
]


def config_of(plan: Plan) -> dict[str, Any]:
    _, _, graph, one_graph, _ = STAGES[plan.stage]
    target, _ = MODELS[plan.arch]
    return {
        "model": {"_target_": f"denoising.models.{target}"} | ({"k": plan.k} if plan.k else {}),
        "optim": {"lr": float(plan.lr), "weight_decay": float(plan.weight_decay), "momentum": MOMENTUM},
        "data": {
            "_target_": f"denoising.data.{'SingleGraph' if one_graph else 'GraphDistribution'}",
            "graph": graph,
            "nodes": NODES,
            "noise": NOISE,
            "batches": BATCHES,
            "same_graph_all_splits": one_graph,
        },
        "steps": plan.steps,
        "seed": plan.seed,
    } | (plan.more_config or {})


# --- data -------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Signals (nodes x signals) on one undirected graph."""

    neighbours: np.ndarray  # nodes x nodes: the normalized adjacency, 1 - Laplacian
    frequencies: np.ndarray  # the Laplacian's eigenvalues, 0 to 2, ascending
    modes: np.ndarray  # its eigenvectors, a column each
    clean: np.ndarray
    noisy: np.ndarray


def draw_data(stage: str, rng: np.random.Generator) -> list[list[Batch]]:
    """Draw the batches for training, validation and test."""
    _, _, kind, one_graph, _ = STAGES[stage]
    the_graph = draw_graph(kind, rng)
    data = []
    for count in BATCHES:
        graphs = [the_graph if one_graph else draw_graph(kind, rng) for _ in range(count)]
        data.append([draw_batch(graph, rng) for graph in graphs])
    return data


def draw_graph(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the adjacency matrix, nodes x nodes."""
    nodes = np.arange(NODES)
    if kind == "tree":  # each node is linked to one before it
        links = np.zeros((NODES, NODES))
        for node in range(1, NODES):
            links[node, rng.integers(node)] = 1
    elif kind == "sbm":  # four blocks, dense within and sparse between, and a path that keeps all connected
        block = nodes * 4 // NODES
        probability = np.where(block[:, None] == block, 0.5, 0.05)
        links = np.triu(rng.random((NODES, NODES)) < probability, 1) + np.eye(NODES, k=1)
    else:  # cliques of 3 to 10 nodes, and a ring through all nodes
        ends = np.cumsum(rng.integers(3, 9, size=NODES))
        clique = np.searchsorted(ends[ends <= NODES - 3], nodes, side="right")
        links = (clique[:, None] == clique) - np.eye(NODES) + np.roll(np.eye(NODES), 1, axis=1)
    return np.sign(links + links.T)


def draw_batch(graph: np.ndarray, rng: np.random.Generator) -> Batch:
    """Clean signals have low frequencies and a narrow band around 1.2, which a smoothing filter would lose."""
    degrees = graph.sum(axis=0)
    neighbours = graph / np.sqrt(np.outer(degrees, degrees))
    frequencies, modes = np.linalg.eigh(np.eye(NODES) - neighbours)
    amplitudes = np.exp(-4 * frequencies) + 0.8 * np.exp(-(((frequencies - 1.2) / 0.1) ** 2))
    amplitudes /= np.sqrt(np.mean(amplitudes**2))
    clean = modes @ (amplitudes[:, None] * rng.normal(size=(NODES, BATCH_SIGNALS)))
    noisy = clean + NOISE * rng.normal(size=clean.shape)
    return Batch(neighbours, frequencies, modes, clean, noisy)


# --- models -----------------------------------------------------------------------------------------------

Params = dict[str, np.ndarray]
Output = tuple[np.ndarray, Params]  # denoised minus clean signals, and the gradients of half its squared sum


def filter_bank(params: Params, batch: Batch) -> Output:
    """A spectral filter: k triangular bands, one gain each."""
    distances = np.abs(batch.frequencies - np.linspace(0, 2, params["weights"].size)[:, None])
    return spectral_filter(params, batch, np.maximum(0, 1 - distances * (params["weights"].size - 1) / 2))


def spectral(params: Params, batch: Batch) -> Output:
    """A polynomial of the graph Laplacian, degree k - 1, in the Chebyshev basis."""
    angles = np.arccos(np.clip(batch.frequencies - 1, -1, 1))
    return spectral_filter(params, batch, np.cos(np.arange(params["weights"].size)[:, None] * angles))


def spectral_filter(params: Params, batch: Batch, atoms: np.ndarray) -> Output:
    """`y = U g U' x`, where the response g is a weighted sum of the atoms (k x nodes)."""
    spectrum = batch.modes.T @ batch.noisy
    error = batch.modes @ ((params["weights"] @ atoms)[:, None] * spectrum) - batch.clean
    return error, {"weights": atoms @ np.sum(spectrum * (batch.modes.T @ error), axis=1)}


def self_attention(params: Params, batch: Batch) -> Output:
    """`y = a x + b S x`, S the row-wise softmax of `P diag(w) P' / sqrt(k)`, P the k lowest modes."""
    weights, (own, smooth), noisy = params["weights"], params["mix"], batch.noisy
    positions = math.sqrt(NODES) * batch.modes[:, : weights.size]
    scores = (positions * weights) @ positions.T / math.sqrt(weights.size)
    attention = np.exp(scores - scores.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    error = own * noisy + smooth * (attention @ noisy) - batch.clean
    by_attention = smooth * (error @ noisy.T)
    by_score = attention * (by_attention - np.sum(by_attention * attention, axis=1, keepdims=True))
    return error, {
        "weights": np.sum(positions * (by_score @ positions), axis=0) / math.sqrt(weights.size),
        "mix": np.array([np.sum(error * noisy), np.sum(error * (attention @ noisy))]),
    }


def graph_network(params: Params, batch: Batch) -> Output:
    """`y = a x + sum over k channels of (v + u A) tanh(p x + q A x)`, A the normalized adjacency."""
    noisy, near, outer = batch.noisy, batch.neighbours @ batch.noisy, np.multiply.outer
    hidden = np.tanh(outer(params["p"], noisy) + outer(params["q"], near))
    own, passed_on = (np.tensordot(params[name], hidden, axes=1) for name in "vu")
    error = params["a"] * noisy + own + batch.neighbours @ passed_on - batch.clean
    near_error = batch.neighbours @ error
    by_input = (outer(params["v"], error) + outer(params["u"], near_error)) * (1 - hidden**2)
    products = {"v": hidden * error, "u": hidden * near_error, "p": by_input * noisy, "q": by_input * near}
    gradients = {name: np.sum(product, axis=(1, 2)) for name, product in products.items()}
    return error, {"a": np.array([np.sum(error * noisy)])} | gradients


def linear(params: Params, batch: Batch) -> Output:
    """`y = W x`: any matrix; the baseline, which does not use the graph."""
    error = params["weights"] @ batch.noisy - batch.clean
    return error, {"weights": error @ batch.noisy.T}


MODELS = {  # how configs call the model, and its function
    "filter_bank": ("SpectralFilterBank", filter_bank),
    "spectral": ("SpectralPolynomial", spectral),
    "self_attention": ("SelfAttention", self_attention),
    "gnn_all": ("GNN", graph_network),
    "linear": ("Linear", linear),
}


def initial_params(arch: str, k: int | None, rng: np.random.Generator) -> Params:
    if arch == "self_attention":
        return {"weights": rng.normal(1, 0.1, k), "mix": np.array([0.5, 0.5])}
    if arch == "gnn_all":
        return {name: rng.normal(0, 0.3, k) for name in "pquv"} | {"a": np.array([0.5])}
    if arch == "linear":
        return {"weights": rng.normal(0, 0.01, (NODES, NODES))}
    return {"weights": rng.normal(0, 0.1, k)}


def fit(plan: Plan, train: list[Batch], rng: np.random.Generator) -> list[tuple[Params, float, float]]:
    """Gradient descent with momentum and weight decay; for each step the parameters, loss and gradient norm."""
    _, model = MODELS[plan.arch]
    params = initial_params(plan.arch, plan.k, rng)
    velocity = {name: np.zeros_like(values) for name, values in params.items()}
    progress = []
    for step in range(plan.steps + 1):
        error, gradients = model(params, train[step % len(train)])
        gradients = {name: gradient / BATCH_SIGNALS for name, gradient in gradients.items()}
        norm = math.sqrt(sum(np.sum(gradient**2) for gradient in gradients.values()))
        progress.append((params, float(np.mean(error**2)), norm))
        velocity = {name: MOMENTUM * velocity[name] + gradients[name] for name in params}
        decay = float(plan.weight_decay)
        params = {name: params[name] - float(plan.lr) * (velocity[name] + decay * params[name]) for name in params}
    return progress


def evaluate(plan: Plan, params: Params, batches: list[Batch], prefix: str) -> dict[str, Any]:
    """Return the mean squared error and the signal-to-noise ratio; a clean signal's mean square is 1."""
    _, model = MODELS[plan.arch]
    mse = float(np.mean([np.square(model(params, batch)[0]) for batch in batches]))
    return {f"{prefix}/mse": mse, f"{prefix}/snr_db": -10 * math.log10(mse) if mse > 0 else math.nan}


# --- recording --------------------------------------------------------------------------------------------


def start_run(plan: Plan, scratch: Path) -> wandb.Run:
    project, entity, graph, _, job_type = STAGES[plan.stage]
    k = f"_k{plan.k}" if plan.k else ""
    name = plan.title or f"{plan.stage}_{plan.arch}_lr{plan.lr}_wd{plan.weight_decay}{k}_s{plan.seed}"
    print(f"{project}: {name}", file=sys.stderr)
    folder = scratch / plan.ending / project
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        dir=folder,
        project=project,
        entity=entity,
        id=hashlib.sha256(f"{project}/{name}".encode()).hexdigest()[:8],
        name=name,
        config={} if plan.empty_config else config_of(plan),
        group=f"{plan.stage}_{plan.arch}",
        job_type="debug" if "debug" in plan.tags else job_type,
        tags=[graph, *plan.tags],
        notes=plan.notes,
        resume="allow" if plan.ending == "resumed" else None,
        # Nothing in the logs about this machine, its user, or the folders they work in.
        settings=wandb.Settings(
            mode="offline",
            silent=True,
            symlink=False,
            host="localhost",
            program="record_runs.py",
            x_executable="python",
            console="off",
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )
    run.define_metric("epoch", hidden=True)
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("val/mse", step_metric="epoch", summary="min")
    return run


def record(plan: Plan, scratch: Path) -> None:
    """Fit the plan's model and log it as one run."""
    rng = np.random.default_rng(plan.seed)
    train, validation, test = draw_data(plan.stage, rng)
    progress = fit(plan, train, rng)
    run = start_run(plan, scratch)
    first = 0  # step of this log
    for step, (params, loss, gradient_norm) in enumerate(progress):
        if plan.ending == "resumed" and step == plan.steps // 2:
            run.finish()
            run = start_run(plan, scratch)
            first = step  # the second log counts its steps from 0 again
        if step % plan.log_every == 0:
            row = {"epoch": step // len(train), "train/loss": loss, "train/grad_norm": gradient_norm}
            if "optim_momentum" in run.config:
                row["train_loss"] = loss * NODES  # how the first version of the code named and counted it
            if step % VALIDATE_EVERY == 0:
                row |= evaluate(plan, params, validation, "val")
            run.log(row, step=step - first)
        if plan.ending == "failed" and not math.isfinite(loss):
            run.finish(exit_code=1)
            return
    log_test(run, plan, progress[-1][0], test, step=plan.steps + 1 - first)
    run.finish()


def log_test(run: wandb.Run, plan: Plan, params: Params, batches: list[Batch], step: int) -> None:
    row = evaluate(plan, params, batches, "test")
    if plan.seed == 0 and math.isfinite(row["test/mse"]):
        errors = [evaluate(plan, params, [batch], "test")["test/mse"] for batch in batches]
        rows = [
            [i, np.count_nonzero(batch.neighbours) // 2, error]
            for i, (batch, error) in enumerate(zip(batches, errors, strict=True))
        ]
        row["test/by_graph"] = wandb.Table(columns=["graph", "edges", "mse"], data=rows)
        # Unbound, it would be logged as an artifact too, and that record holds a path of this machine.
        row["test/by_graph"].bind_to_run(run, "test/by_graph", step)
        values = np.concatenate([values.ravel() for values in params.values()])
        row["params"] = wandb.Histogram(np_histogram=np.histogram(values, bins=8))
    run.log(row, step=step)
    run.summary["model/parameters"] = sum(values.size for values in params.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=Path("example-runs"), help="default: %(default)s"
    )
    output = parser.parse_args().output
    if output.exists() and any(output.iterdir()):
        parser.error(f"{output} is not empty: name another folder with -o")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]  # the user's own settings
    with tempfile.TemporaryDirectory() as scratch, np.errstate(over="ignore", invalid="ignore"):
        for stage, arch, seeds, settings in STUDY:
            for seed in seeds:
                record(Plan(stage, arch, seed, **settings), Path(scratch))
        wandb.teardown()  # from here on all logs are complete
        for run_folder in sorted(Path(scratch).glob("*/*/wandb/offline-run-*")):
            ending, project, *_ = run_folder.relative_to(scratch).parts
            copy = output / project / run_folder.name
            shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns("logs", "tmp"))
            if ending == "killed":  # the log ends in the middle of a record, as after SIGKILL
                os.truncate(next(copy.glob("*.wandb")), KILLED_LOG_BYTES)
    print(output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
