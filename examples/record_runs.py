#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2,<3", "wandb>=0.31,<0.32"]
# ///
"""Record the example runs: a small experiment, logged by the W&B SDK in offline mode.

The experiment: denoise signals on graphs. A signal gives every node of a graph a number; its energy sits
in a low and in a narrow middle band of graph frequencies, and white noise covers it. Five models learn to
undo the noise by gradient descent in numpy:

  filter_bank     a spectral filter: k triangular bands, one gain each
  spectral        a polynomial of the graph Laplacian, degree k - 1, in the Chebyshev basis
  self_attention  a smoother whose attention compares k spectral coordinates of the nodes
  gnn_all         a graph neural network with one hidden layer of k channels
  linear          any matrix at all: the baseline that knows nothing of the graph

Stage 1a trains and tests on one graph (a stochastic block model), stage 2c tests on graphs not seen in
training (rings of cliques), stage 3b varies k and the learning rate (random trees).

Among the 45 runs is what every real project holds: one diverged (infinite, then NaN), one failed (an
exception), one was killed (its log ends in the middle of a record), one was resumed (two logs), one stopped
after three steps, one has an empty config, one writes its seed as text, one logs names that differ only in
punctuation (train/loss and train_loss), one has a name in markup with an emoji.

Writes one folder per run and process:

  DIR/<project>/offline-run-<date>_<time>-<id>/run-<id>.wandb   and files/media/, if the run logged a table

Needs no account and no network, and takes about ten seconds. Names, ids and numbers are the same every
time; the times are not, nor is the last step that the killed run got to write.

examples, as they run:
  uv run examples/record_runs.py                # examples/offline-runs, if it is empty or absent
  uv run examples/record_runs.py --force        # record the runs there anew
  uv run examples/record_runs.py -o my-runs

exit codes: 0 done; 1 the recording failed; 2 wrong usage, or DIR is not empty; 130 interrupted
"""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:  # numpy and wandb are slow: import_libraries() binds these names at run time
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import wandb
    from numpy.typing import NDArray

# --- constants --------------------------------------------------------------------------------------------

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

DEFAULT_FOLDER = Path(__file__).parent / "offline-runs"

NODES = 48
NOISE = 0.7  # standard deviation; that of a clean signal is 1
TRAIN_BATCHES, VALIDATION_BATCHES, TEST_BATCHES = 4, 3, 3  # each of one graph
BATCH_SIGNALS = 16

MOMENTUM = 0.9
STEPS = 240  # of gradient descent, a batch each
LOG_EVERY = 5  # steps; a row costs about 0.5 kB of log, and the recording is kept in git
VALIDATE_EVERY = 20  # steps

LOG_BLOCK_BYTES = 32_768  # the SDK writes its log in blocks of this size
KILL_FROM_STEP = 180  # by then the killed run, which logs every step, has filled two blocks
KILL_TIMEOUT_S = 120

# --- nouns ------------------------------------------------------------------------------------------------

Array: TypeAlias = "NDArray[np.float64]"
Params: TypeAlias = dict[str, Array]
Config: TypeAlias = dict[str, Any]  # as wandb.init takes it
Ending: TypeAlias = Literal["finished", "failed", "killed", "resumed"]


class Stage(NamedTuple):
    """A part of the study: the task, and where its runs are filed."""

    name: str
    project: str
    entity: str | None
    graph: str
    one_graph: bool  # the same for training, validation and test
    job_type: str
    notes: str | None = None


STAGE_1A = Stage("stage1a", "graph-denoising", "graph-lab", "sbm", one_graph=True, job_type="train")
STAGE_2C = Stage("stage2c", "graph-denoising", "graph-lab", "ring_of_cliques", one_graph=False, job_type="train")
STAGE_3B = Stage(
    "stage3b", "graph-denoising-ablations", None, "tree", False, "ablation", "How much resolution does lr pay for?"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: what to fit, and how it ends. `title` and `config` replace what follows from the rest."""

    stage: Stage
    arch: str
    seed: int
    k: int | None = 16  # None: the model has no such thing
    lr: float = 1e-3
    weight_decay: float = 1e-4
    steps: int = STEPS
    log_every: int = LOG_EVERY
    ending: Ending = "finished"
    title: str | None = None
    config: Config | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    old_metric_names: bool = False

    @property
    def name(self) -> str:
        k = f"_k{self.k}" if self.k is not None else ""
        optim = f"lr{short(self.lr)}_wd{short(self.weight_decay)}"
        return self.title or f"{self.stage.name}_{self.arch}_{optim}{k}_s{self.seed}"

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.stage.project}/{self.name}".encode()).hexdigest()[:8]


class Graph(NamedTuple):
    """An undirected graph and its normalized Laplacian's eigenvalues (0 to 2, ascending) and eigenvectors."""

    neighbours: Array  # nodes x nodes: the normalized adjacency, 1 - Laplacian
    frequencies: Array  # nodes
    modes: Array  # nodes x nodes, a column each
    edges: int


class Batch(NamedTuple):
    """Signals on one graph, nodes x signals."""

    graph: Graph
    clean: Array
    noisy: Array


class Dataset(NamedTuple):
    """Batches for fitting, for watching, and for the end."""

    train: list[Batch]
    validation: list[Batch]
    test: list[Batch]


class Progress(NamedTuple):
    """The state before a step of gradient descent, and the batch's loss there."""

    step: int
    epoch: int
    params: Params
    loss: float
    gradient_norm: float


class Experiment(NamedTuple):
    """A plan with what it needs."""

    plan: Plan
    model: Model
    dataset: Dataset


class RecordingError(Exception):
    """What went wrong, in one line."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- the study --------------------------------------------------------------------------------------------


def study() -> Iterator[Plan]:
    """Every run, in the order of recording."""
    yield from one_graph_runs()
    yield from unseen_graph_runs()
    yield from ablation_runs()


def one_graph_runs() -> Iterator[Plan]:
    stage = STAGE_1A
    yield Plan(stage=stage, arch="filter_bank", seed=0, steps=3, log_every=1, title="smoke-test", tags=("debug",))
    for seed in range(3):
        yield Plan(stage=stage, arch="filter_bank", seed=seed)
        yield Plan(stage=stage, arch="spectral", seed=seed)
        yield Plan(stage=stage, arch="self_attention", seed=seed)
        yield Plan(stage=stage, arch="linear", k=None, weight_decay=1e-2, seed=seed, tags=("baseline",))
    yield Plan(stage=stage, arch="spectral", lr=1e0, seed=0, tags=("debug",), notes="lr far too large, left to run")


def unseen_graph_runs() -> Iterator[Plan]:
    stage = STAGE_2C
    for seed in range(3):
        yield Plan(stage=stage, arch="filter_bank", seed=seed)
        yield Plan(stage=stage, arch="spectral", seed=seed)
        yield Plan(stage=stage, arch="gnn_all", k=8, lr=1e-2, seed=seed)
        yield Plan(stage=stage, arch="linear", k=None, weight_decay=1e-2, seed=seed, tags=("baseline",))
    yield Plan(stage=stage, arch="filter_bank", seed=3, ending="resumed", notes="resumed from a checkpoint")
    yield Plan(stage=stage, arch="filter_bank", seed=4, log_every=1, ending="killed")
    yield Plan(stage=stage, arch="self_attention", lr=1e0, seed=0, ending="failed", notes="stops at a loss of inf")
    yield Plan(stage=stage, arch="filter_bank", k=8, seed=0, title="[red]boom[/red] 🚀 a/b", tags=("[bold]", "a/b"))


def ablation_runs() -> Iterator[Plan]:
    stage = STAGE_3B
    for k in (4, 16):
        for lr in (1e-4, 1e-3):
            for seed in range(3):
                yield Plan(stage=stage, arch="filter_bank", k=k, lr=lr, seed=seed, tags=("sweep-by-hand",))
    seed_as_text = Plan(stage=stage, arch="filter_bank", seed=3, notes="started from a notebook")
    yield replace(seed_as_text, config=config_of(seed_as_text) | {"seed": "three"})
    ported = Plan(stage=stage, arch="filter_bank", k=8, seed=0, notes="from the first version of the code")
    flat_config = {"optim_momentum": MOMENTUM, "optim.momentum": str(MOMENTUM)}
    yield replace(ported, config=config_of(ported) | flat_config, old_metric_names=True)
    yield Plan(stage=stage, arch="linear", k=None, seed=0, title="quick-look", config={})


def config_of(plan: Plan) -> Config:
    stage = plan.stage
    return {
        "model": {"_target_": f"denoising.models.{MODELS[plan.arch].target}"} | ({"k": plan.k} if plan.k else {}),
        "optim": {"lr": plan.lr, "weight_decay": plan.weight_decay, "momentum": MOMENTUM},
        "data": {
            "_target_": f"denoising.data.{'SingleGraph' if stage.one_graph else 'GraphDistribution'}",
            "graph": stage.graph,
            "nodes": NODES,
            "noise": NOISE,
            "batches": [TRAIN_BATCHES, VALIDATION_BATCHES, TEST_BATCHES],
            "same_graph_all_splits": stage.one_graph,
        },
        "steps": plan.steps,
        "seed": plan.seed,
    }


def short(number: float) -> str:
    """Spell a number as in the names of runs.

    >>> short(0.001), short(1.0)
    ('1e-3', '1e0')
    """
    mantissa, exponent = f"{number:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


# --- graphs and signals -----------------------------------------------------------------------------------


def draw_dataset(stage: Stage, rng: np.random.Generator) -> Dataset:
    the_graph = draw_graph(stage.graph, rng)

    def batches(count: int) -> list[Batch]:
        graphs = [the_graph if stage.one_graph else draw_graph(stage.graph, rng) for _ in range(count)]
        return [draw_batch(graph, rng) for graph in graphs]

    return Dataset(batches(TRAIN_BATCHES), batches(VALIDATION_BATCHES), batches(TEST_BATCHES))


def draw_batch(graph: Graph, rng: np.random.Generator) -> Batch:
    amplitudes = signal_spectrum(graph.frequencies)
    amplitudes /= np.sqrt(np.mean(amplitudes**2))
    clean = graph.modes @ (amplitudes[:, None] * rng.normal(size=(NODES, BATCH_SIGNALS)))
    return Batch(graph, clean, clean + NOISE * rng.normal(size=clean.shape))


def signal_spectrum(frequencies: Array) -> Array:
    """Low frequencies and a narrow band around 1.2: a filter that only smooths loses the second."""
    smooth: Array = np.exp(-4 * frequencies)
    band: Array = np.exp(-(((frequencies - 1.2) / 0.1) ** 2))
    return smooth + 0.8 * band


def draw_graph(kind: str, rng: np.random.Generator) -> Graph:
    links = LINKS[kind](rng)
    adjacency = (links + links.T > 0).astype(float)
    degrees = adjacency.sum(axis=0)
    neighbours = adjacency / np.sqrt(np.outer(degrees, degrees))
    frequencies, modes = np.linalg.eigh(np.eye(NODES) - neighbours)
    return Graph(neighbours, frequencies, modes, edges=int(adjacency.sum()) // 2)


def ring_of_cliques(rng: np.random.Generator) -> Array:
    """Cliques of 3 to 8 nodes, the last may have 10, and a ring through all nodes that ties them together."""
    ends = np.cumsum(rng.integers(3, 9, size=NODES))
    clique = np.searchsorted(ends[ends <= NODES - 3], np.arange(NODES), side="right")
    same_clique: Array = (clique[:, None] == clique[None, :]).astype(float)
    ring = np.roll(np.eye(NODES), 1, axis=1)
    return same_clique - np.eye(NODES) + ring


def random_tree(rng: np.random.Generator) -> Array:
    """Every node hangs on one of the nodes before it, drawn uniformly."""
    links = np.zeros((NODES, NODES))
    for node in range(1, NODES):
        links[node, rng.integers(node)] = 1
    return links


def stochastic_block_model(rng: np.random.Generator) -> Array:
    """Four blocks; links with probability 0.5 within, 0.05 between, and a path that keeps all connected."""
    block = np.arange(NODES) * 4 // NODES
    probability = np.where(block[:, None] == block[None, :], 0.5, 0.05)
    drawn = (rng.random((NODES, NODES)) < probability).astype(float)
    return np.triu(drawn, 1) + np.eye(NODES, k=1)


LINKS: dict[str, Callable[[np.random.Generator], Array]] = {  # to nodes x nodes: positive where two are linked
    "ring_of_cliques": ring_of_cliques,
    "tree": random_tree,
    "sbm": stochastic_block_model,
}

# --- models -----------------------------------------------------------------------------------------------


class Model(Protocol):
    """A denoiser: it holds no parameters, it takes them."""

    def initial(self, rng: np.random.Generator) -> Params: ...

    def denoise(self, params: Params, graph: Graph, noisy: Array) -> Array: ...

    def gradients(self, params: Params, graph: Graph, noisy: Array, error: Array) -> Params:
        """Of half the squared `error`, summed over all its entries."""
        ...


@dataclass(frozen=True)
class SpectralFilter:
    """`y = U g(frequencies) U' x`, where the response g is a weighted sum of k fixed atoms."""

    k: int
    atoms: Callable[[int, Array], Array]  # k and the frequencies to k x nodes

    def initial(self, rng: np.random.Generator) -> Params:
        return {"weights": rng.normal(scale=0.1, size=self.k)}

    def denoise(self, params: Params, graph: Graph, noisy: Array) -> Array:
        response = params["weights"] @ self.atoms(self.k, graph.frequencies)
        return graph.modes @ (response[:, None] * (graph.modes.T @ noisy))

    def gradients(self, params: Params, graph: Graph, noisy: Array, error: Array) -> Params:  # noqa: ARG002 (linear)
        per_mode = np.sum((graph.modes.T @ noisy) * (graph.modes.T @ error), axis=1)
        return {"weights": self.atoms(self.k, graph.frequencies) @ per_mode}


def triangular_bands(k: int, frequencies: Array) -> Array:
    centres = np.linspace(0, 2, k)
    bands: Array = np.maximum(0, 1 - np.abs(frequencies - centres[:, None]) * (k - 1) / 2)
    return bands


def chebyshev_polynomials(k: int, frequencies: Array) -> Array:
    angles = np.arccos(np.clip(frequencies - 1, -1, 1))
    polynomials: Array = np.cos(np.arange(k)[:, None] * angles)
    return polynomials


@dataclass(frozen=True)
class SelfAttention:
    """`y = a x + b S x`, S the row-wise softmax of `P diag(w) P' / sqrt(k)`, P the k lowest modes."""

    k: int

    def initial(self, rng: np.random.Generator) -> Params:
        return {"weights": rng.normal(scale=0.1, size=self.k) + 1, "mix": np.array([0.5, 0.5])}

    def denoise(self, params: Params, graph: Graph, noisy: Array) -> Array:
        own, smooth = map(float, params["mix"])
        return own * noisy + smooth * (self.attention(params, graph) @ noisy)

    def gradients(self, params: Params, graph: Graph, noisy: Array, error: Array) -> Params:
        attention = self.attention(params, graph)
        by_attention = params["mix"][1] * (error @ noisy.T)
        by_score = attention * (by_attention - np.sum(by_attention * attention, axis=1, keepdims=True))
        positions = self.positions(graph)
        return {
            "weights": np.sum(positions * (by_score @ positions), axis=0) / math.sqrt(self.k),
            "mix": np.array([np.sum(error * noisy), np.sum(error * (attention @ noisy))]),
        }

    def attention(self, params: Params, graph: Graph) -> Array:
        positions = self.positions(graph)
        scores = (positions * params["weights"]) @ positions.T / math.sqrt(self.k)
        likelihoods: Array = np.exp(scores - scores.max(axis=1, keepdims=True))
        totals: Array = likelihoods.sum(axis=1, keepdims=True)
        return likelihoods / totals

    def positions(self, graph: Graph) -> Array:
        return math.sqrt(NODES) * graph.modes[:, : self.k]


@dataclass(frozen=True)
class GraphNetwork:
    """`y = a x + sum over k channels of (v + u A) tanh(p x + q A x)`, A the normalized adjacency."""

    k: int

    def initial(self, rng: np.random.Generator) -> Params:
        return {name: rng.normal(scale=0.3, size=self.k) for name in "pquv"} | {"a": np.array([0.5])}

    def denoise(self, params: Params, graph: Graph, noisy: Array) -> Array:
        hidden = self.hidden(params, graph, noisy)
        own, passed_on = (np.tensordot(params[name], hidden, axes=1) for name in "vu")
        return params["a"] * noisy + own + graph.neighbours @ passed_on

    def gradients(self, params: Params, graph: Graph, noisy: Array, error: Array) -> Params:
        hidden = self.hidden(params, graph, noisy)
        near_error = graph.neighbours @ error
        by_hidden = np.multiply.outer(params["v"], error) + np.multiply.outer(params["u"], near_error)
        by_input = by_hidden * (1 - hidden**2)
        return {
            "a": np.array([np.sum(error * noisy)]),
            "v": np.sum(hidden * error, axis=(1, 2)),
            "u": np.sum(hidden * near_error, axis=(1, 2)),
            "p": np.sum(by_input * noisy, axis=(1, 2)),
            "q": np.sum(by_input * (graph.neighbours @ noisy), axis=(1, 2)),
        }

    def hidden(self, params: Params, graph: Graph, noisy: Array) -> Array:
        """Return the channels' activations: k x nodes x signals."""
        own = np.multiply.outer(params["p"], noisy)
        near = np.multiply.outer(params["q"], graph.neighbours @ noisy)
        activations: Array = np.tanh(own + near)
        return activations


class Linear:
    """`y = W x`: as many weights as pairs of nodes."""

    def initial(self, rng: np.random.Generator) -> Params:
        return {"weights": rng.normal(scale=0.01, size=(NODES, NODES))}

    def denoise(self, params: Params, graph: Graph, noisy: Array) -> Array:  # noqa: ARG002 (it knows no graph)
        return params["weights"] @ noisy

    def gradients(self, params: Params, graph: Graph, noisy: Array, error: Array) -> Params:  # noqa: ARG002
        return {"weights": error @ noisy.T}


class ModelKind(NamedTuple):
    """How a model is called in configs (`_target_`), and how it is made."""

    target: str
    build: Callable[[int], Model]


MODELS = {
    "filter_bank": ModelKind("SpectralFilterBank", lambda k: SpectralFilter(k, triangular_bands)),
    "spectral": ModelKind("SpectralPolynomial", lambda k: SpectralFilter(k, chebyshev_polynomials)),
    "self_attention": ModelKind("SelfAttention", SelfAttention),
    "gnn_all": ModelKind("GNN", GraphNetwork),
    "linear": ModelKind("Linear", lambda _: Linear()),
}

# --- fitting ----------------------------------------------------------------------------------------------


def fit(model: Model, plan: Plan, train: Sequence[Batch], rng: np.random.Generator) -> Iterator[Progress]:
    """Gradient descent with momentum and decoupled weight decay; the last item has the fitted parameters."""
    params = model.initial(rng)
    velocity = {name: np.zeros_like(values) for name, values in params.items()}
    for step in range(plan.steps + 1):
        graph, clean, noisy = train[step % len(train)]
        error = model.denoise(params, graph, noisy) - clean
        gradients = model.gradients(params, graph, noisy, error / BATCH_SIGNALS)
        norm = math.sqrt(sum(float(np.sum(gradient**2)) for gradient in gradients.values()))
        yield Progress(step, step // len(train), params, float(np.mean(error**2)), norm)
        velocity = {name: MOMENTUM * velocity[name] + gradients[name] for name in params}
        params = {
            name: values - plan.lr * (velocity[name] + plan.weight_decay * values) for name, values in params.items()
        }


def mean_squared_error(model: Model, params: Params, batches: Sequence[Batch]) -> float:
    errors = [model.denoise(params, batch.graph, batch.noisy) - batch.clean for batch in batches]
    return float(np.mean(np.square(errors)))


def snr_db(mse: float) -> float:
    """Signal-to-noise ratio in decibels, where the signal's mean square is 1."""
    return -10 * math.log10(mse) if mse > 0 else math.nan


# --- recording --------------------------------------------------------------------------------------------


def record_all(scratch: Path) -> None:
    for plan in study():
        print(f"{plan.stage.project}: {plan.name}", file=sys.stderr)
        if plan.ending == "killed":
            record_killed(plan, scratch)
        else:
            record(plan, scratch)


def record(plan: Plan, scratch: Path) -> None:
    """Fit the plan's model and log it as one run: in one process's log or, if resumed, in two."""
    rng = np.random.default_rng(plan.seed)
    dataset = draw_dataset(plan.stage, rng)
    model = MODELS[plan.arch].build(plan.k or 0)
    experiment = Experiment(plan, model, dataset)
    progress = fit(model, plan, dataset.train, rng)
    first_step = plan.steps // 2 if plan.ending == "resumed" else 0
    with np.errstate(over="ignore", invalid="ignore"):  # runs may diverge
        if plan.ending == "resumed":
            with start_run(plan, scratch) as run:
                log_training(run, experiment, islice(progress, first_step))
        with start_run(plan, scratch) as run:
            try:
                params = log_training(run, experiment, progress, first_step)
                log_test(run, experiment, params, step=plan.steps + 1 - first_step)
            except FloatingPointError:  # only of the run that is to fail
                run.finish(exit_code=1)


def record_killed(plan: Plan, scratch: Path) -> None:
    """Record in a process that kills itself: SIGKILL leaves no time to finish the log."""
    child = multiprocessing.get_context("spawn").Process(target=import_and_record, args=(plan, scratch))
    child.start()
    child.join(KILL_TIMEOUT_S)
    if child.exitcode != -signal.SIGKILL:
        child.kill()
        raise RecordingError(f"{plan.name}: meant to be killed, but ended with {child.exitcode}", FAILED)


def import_and_record(plan: Plan, scratch: Path) -> None:
    import_libraries(scratch)
    record(plan, scratch)


def start_run(plan: Plan, scratch: Path) -> wandb.Run:
    stage = plan.stage
    folder = scratch / stage.project
    folder.mkdir(exist_ok=True)
    run = wandb.init(
        dir=folder,
        entity=stage.entity,
        project=stage.project,
        id=plan.id,
        name=plan.name,
        config=config_of(plan) if plan.config is None else plan.config,
        group=f"{stage.name}_{plan.arch}",
        job_type="debug" if "debug" in plan.tags else stage.job_type,
        tags=[stage.graph, *plan.tags],
        notes=plan.notes or stage.notes,
        resume="allow" if plan.ending == "resumed" else None,
        settings=anonymous_settings(),
    )
    run.define_metric("epoch", hidden=True)
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("val/mse", step_metric="epoch", summary="min")
    return run


def anonymous_settings() -> wandb.Settings:
    """Offline, and nothing in the logs about this machine, its user, or the folders they work in."""
    return wandb.Settings(
        mode="offline",
        host="localhost",
        program="record_runs.py",
        x_executable="python",
        console="off",
        save_code=False,
        disable_git=True,
        disable_job_creation=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        symlink=False,
        silent=True,
        x_transaction_log_flush_interval=0,  # whole blocks only: the killed run's log ends with one
    )


def log_training(run: wandb.Run, experiment: Experiment, progress: Iterator[Progress], first_step: int = 0) -> Params:
    """Log some of the steps, counted from this process's first; return the last parameters."""
    plan, model, dataset = experiment
    for now in progress:
        if now.step % plan.log_every == 0:
            row = training_row(plan, now)
            if now.step % VALIDATE_EVERY == 0:
                row |= validation_row(mean_squared_error(model, now.params, dataset.validation))
            run.log(row, step=now.step - first_step)
        if plan.ending == "failed" and not math.isfinite(now.loss):
            raise FloatingPointError(f"the loss of step {now.step} is {now.loss}")
        if plan.ending == "killed" and now.step == KILL_FROM_STEP:
            kill_this_process(Path(run.dir).parent / f"run-{run.id}.wandb")
    return now.params


def training_row(plan: Plan, now: Progress) -> dict[str, float]:
    row = {"epoch": now.epoch, "train/loss": now.loss, "train/grad_norm": now.gradient_norm}
    return row | ({"train_loss": now.loss * NODES} if plan.old_metric_names else {})  # then a sum over nodes


def validation_row(mse: float) -> dict[str, float]:
    return {"val/mse": mse, "val/snr_db": snr_db(mse)}


def log_test(run: wandb.Run, experiment: Experiment, params: Params, step: int) -> None:
    plan, model, dataset = experiment
    mse = mean_squared_error(model, params, dataset.test)
    row: dict[str, Any] = {"test/mse": mse, "test/snr_db": snr_db(mse)}
    if plan.seed == 0 and math.isfinite(mse):
        row["test/by_graph"] = table_by_graph(run, experiment, params, step)
        row["params"] = histogram(params)
    run.log(row, step=step)
    run.summary["model/parameters"] = sum(values.size for values in params.values())


def table_by_graph(run: wandb.Run, experiment: Experiment, params: Params, step: int) -> wandb.Table:
    _, model, dataset = experiment
    rows = [
        [number, batch.graph.edges, mean_squared_error(model, params, [batch])]
        for number, batch in enumerate(dataset.test)
    ]
    table = wandb.Table(columns=["graph", "edges", "mse"], data=rows)
    # Unbound, it would be logged as an artifact too, and that record holds a path of this machine.
    table.bind_to_run(run, "test/by_graph", step)  # type: ignore[no-untyped-call]
    return table


def histogram(params: Params) -> wandb.Histogram:
    values = np.concatenate([values.ravel() for values in params.values()])
    return wandb.Histogram(np_histogram=np.histogram(values, bins=8))


def kill_this_process(log: Path) -> None:
    """Once the log's first two blocks are written: the record across the second's end is torn for good."""
    while log.stat().st_size < 2 * LOG_BLOCK_BYTES:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


# --- files ------------------------------------------------------------------------------------------------


def publish(scratch: Path, folder: Path) -> None:
    """Move the runs to `folder`: their logs and media, without the SDK's own debug logs."""
    for run_folder in sorted(scratch.glob("*/wandb/offline-run-*")):
        project = folder / run_folder.parent.parent.name
        project.mkdir(parents=True, exist_ok=True)
        for leftover in ("logs", "tmp"):
            shutil.rmtree(run_folder / leftover, ignore_errors=True)
        if not any((run_folder / "files").iterdir()):
            (run_folder / "files").rmdir()
        shutil.move(run_folder, project / run_folder.name)


def remove_recording(folder: Path) -> None:
    for project in {plan.stage.project for plan in study()}:
        for run_folder in (folder / project).glob("offline-run-*"):
            shutil.rmtree(run_folder)


# --- command line -----------------------------------------------------------------------------------------


class Options(NamedTuple):
    """The command line."""

    folder: Path
    force: bool


def parse_args(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        default=DEFAULT_FOLDER,
        help="default: offline-runs beside this file",
    )
    parser.add_argument("--force", action="store_true", help="replace the runs of an earlier recording in DIR")
    arguments = parser.parse_args(argv)
    return Options(arguments.output, arguments.force)


def import_libraries(scratch: Path) -> None:
    """Import what takes time, with none of the user's W&B settings; what the SDK leaves goes to `scratch`."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ[name] = str(scratch / "sdk")
    os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    global np, wandb
    import numpy as np
    import wandb


def record_runs(options: Options) -> int:
    if not options.force and options.folder.exists() and any(options.folder.iterdir()):
        raise RecordingError(f"{options.folder} is not empty: name another folder, or add --force", USAGE)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        import_libraries(Path(scratch))
        record_all(Path(scratch))
        remove_recording(options.folder)
        publish(Path(scratch), options.folder)
    print(options.folder)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_args(argv)
    try:
        return record_runs(options)
    except RecordingError as error:
        print(f"record_runs.py: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"record_runs.py: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
