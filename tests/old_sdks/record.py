"""Record small runs with the wandb of many years, for tests of what reads them.

    PYTHONPATH=tests uv run python tests/old_sdks/record.py                 # all of them: about three minutes
    PYTHONPATH=tests uv run python tests/old_sdks/record.py 0.9.7 0.12.21   # these alone

It needs uv, git, unshare, and Python 3.8, 3.9 and 3.11: those that pyenv installed are found, others are named in
PYTHON_3_8 and so on. Every SDK has an environment of its own and logs as the user `researcher` of the host `node` in
`/tmp/lab`; a namespace of its own bears that host's name. What tests do not need (requirements, debug logs, code) is
removed. `expected.json` is what the programs themselves say they logged, by SDK and run id.

`runs/<SDK>/` holds a run that finished, one that failed by an exception, and one that was killed together with the
SDK's processes, all of them offline; of some SDKs also one that was killed while it logged to a server, which leaves
`files/wandb-summary.json`. `runs/damaged/` holds what is found beside good runs: see `damaged`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wandb_server import Server

HERE = Path(__file__).resolve().parent
RUNS, EXPECTED = HERE / "runs", HERE / "expected.json"
LAB = Path("/tmp/lab")  # appears in what is recorded
SDKS = {  # SDK → Python and what else that SDK needs to install and start today
    "0.8.36": ("3.8", ["setuptools<81"]),
    "0.9.7": ("3.8", ["setuptools<81"]),
    "0.10.33": ("3.8", ["setuptools<81", "protobuf<3.21"]),
    "0.11.2": ("3.8", ["setuptools<81", "protobuf<3.21"]),
    "0.12.21": ("3.9", ["setuptools<81", "protobuf<3.21"]),
    "0.15.12": ("3.11", ["setuptools<81", "numpy<2"]),
    "0.16.6": ("3.11", ["setuptools<81", "numpy<2"]),
    "0.19.8": ("3.11", []),
    "0.31.0": ("3.11", []),
}
SYSTEM = "Linux-6.8.0-x86_64-with-glibc2.39"  # what they say of the operating system
KINDS = ["finished", "failed", "crashed"]
ONLINE_SDKS = ["0.10.33", "0.11.2", "0.12.21"]  # these log to the tests' server too
DAMAGED_SDKS = ["0.9.7", "0.12.21"]
REMOVED = ["requirements.txt", "conda-environment.yaml", "diff.patch", "*.patch", "code", "logs", "tmp", "debug*.log"]
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": str(LAB / "home"),
    "USER": "researcher",
    "LOGNAME": "researcher",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


def main() -> None:
    versions = sys.argv[1:] or list(SDKS)
    project = LAB / "project"
    shutil.rmtree(project, ignore_errors=True)
    (LAB / "home").mkdir(parents=True, exist_ok=True)
    project.mkdir()
    shutil.copy(HERE / "train.py", project)
    git("init", "--quiet")
    git("add", "train.py")
    git("commit", "--quiet", "--message", "train")
    expected = json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.exists() else {}
    # The programs sleep most of the time, so all of them run side by side.
    with Server() as server, ThreadPoolExecutor(40) as together:
        recordings = []
        for version in versions:
            python = environment_of(version)
            shutil.rmtree(RUNS / version, ignore_errors=True)
            expected.pop(version, None)
            recordings += [together.submit(record, version, python, kind, RUNS / version) for kind in KINDS]
            if version in ONLINE_SDKS:
                online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": server.api_key, "WANDB_MODE": "online"}
                recordings.append(together.submit(record, version, python, "lost", RUNS / version, settings=online))
        for recording in recordings:
            truth = recording.result()
            expected.setdefault(truth["sdk"], {})[truth["id"]] = truth
            print(truth["id"], flush=True)
    if set(DAMAGED_SDKS) <= set(versions):
        expected["damaged"] = damaged()
    write_expected({sdk: expected[sdk] for sdk in [*SDKS, "damaged"] if sdk in expected})


def write_expected(expected: dict[str, dict[str, dict]]) -> None:
    """One line a run, so that a run that is recorded anew is one line of a diff."""
    blocks = []
    for sdk, truths in expected.items():
        lines = [f"  {json.dumps(run_id)}: {json.dumps(truth, ensure_ascii=False)}" for run_id, truth in truths.items()]
        blocks.append(f" {json.dumps(sdk)}: {{\n" + ",\n".join(lines) + "\n }")
    EXPECTED.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def git(*arguments: str) -> None:
    names = {f"GIT_{role}_{what}": "researcher" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *arguments], cwd=LAB / "project", env=ENVIRONMENT | names, check=True)


def environment_of(version: str) -> Path:
    """The Python of a fresh environment with that SDK."""
    python, needs = SDKS[version]
    installed = sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python"))
    base = os.environ.get(f"PYTHON_{python.replace('.', '_')}") or (installed[-1] if installed else python)
    folder = LAB / f"env-{version}"
    subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", base, folder], check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", folder / "bin/python", f"wandb=={version}", *needs]
    subprocess.run(install, check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "sitecustomize.py").write_text(f"import platform\nplatform.platform = lambda *_, **__: {SYSTEM!r}\n")
    return folder / "bin/python"


def record(
    version: str, python: Path, kind: str, target: Path, *, name: str = "", settings: dict[str, str] | None = None
) -> dict:
    """Record one run into a folder in `target`; what the program says it logged."""
    run_id = f"{name or kind}{version.replace('.', '')}"
    scratch = LAB / "scratch" / run_id
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    is_early = version.startswith(("0.8.", "0.9."))
    wandb = {"WANDB_MODE": "dryrun" if is_early else "offline", "WANDB_DIR": str(scratch), **(settings or {})}
    program = [str(python), "train.py", kind, run_id, str(scratch / "truth.json")]
    script = 'hostname node && exec "$@"'
    command = ["unshare", "--map-root-user", "--uts", "sh", "-c", script, "sh", *program]
    with (scratch / "output").open("w") as output:
        subprocess.run(
            command,
            cwd=LAB / "project",
            env=ENVIRONMENT | wandb,
            stdout=output,
            stderr=output,
            start_new_session=True,
            timeout=300,
            check=False,
        )
    [folder] = (scratch / "wandb").glob(f"*run-*{run_id}")
    for pattern in REMOVED:
        for unwanted in folder.rglob(pattern):
            shutil.rmtree(unwanted) if unwanted.is_dir() else unwanted.unlink()
    shutil.copytree(folder, target / folder.name)
    return json.loads((scratch / "truth.json").read_text(encoding="utf-8"))


def damaged() -> dict[str, dict]:
    """What lies beside good runs: cut files, a copied `latest-run`, a git-LFS pointer, logs without a record."""
    target = RUNS / "damaged"
    shutil.rmtree(target, ignore_errors=True)
    early, late = [(sdk, LAB / f"env-{sdk}/bin/python") for sdk in DAMAGED_SDKS]
    truths = [record(*early, "failed", target, name="cut")]
    truths += [record(*late, "failed", target, name=name) for name in ("cut", "copied")]
    [history] = target.glob("*-cut*/wandb-history.jsonl")
    [log] = target.glob("*-cut*/run-cut*.wandb")
    for file in (history, log):
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 5])
    (history.parent / "wandb-summary.json").write_bytes(b"")
    [copied] = target.glob("*-copied*")
    shutil.copytree(copied, target / "latest-run")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 104857600\n".encode()
    contents = {"pointer1": pointer, "empty1": b"", "header1": b":W&B" + b"\xe1\xbe" + b"\0"}
    for run_id, content in contents.items():
        folder = target / f"offline-run-20220101_000000-{run_id}"
        folder.mkdir()
        (folder / f"run-{run_id}.wandb").write_bytes(content)
    return {truth["id"]: truth for truth in truths}


if __name__ == "__main__":
    main()
