"""The process that runs Chemeleon-DNG: ``python chemeleon_worker.py REQUEST.json RESPONSE.json``.

It may run in an interpreter that knows nothing of Matterloop, so it imports nothing of it. The
response holds ``result``, or ``refused`` where the user can do something about it; every other
failure is an exit code. Facts about the library are those of chemeleon-dng 0.1.5.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
import tempfile
import threading
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PUBLISHED_CONFIG: dict[str, Any] = {
    "model": {
        "hidden_dim": 512,
        "time_dim": 256,
        "num_layers": 6,
        "max_atoms": 100,
        "act_fn": "silu",
        "dis_emb": "sin",
        "num_freqs": 128,
        "ln": True,
        "ip": True,
        "smooth": False,
        "cond_dim": 0,
    },
    "optimizer": {
        "optimizer": "adam",
        "lr": 0.001,
        "weight_decay": 0,
        "scheduler": "reduce_on_plateau",
        "patience": 30,
        "early_stopping": 500,
        "warmup_steps": 0,
    },
    "diffusion": {
        "beta_schedule_ddpm": "cosine",
        "beta_schedule_d3pm": "reciprocal",
        "max_atoms": 100,
        "d3pm_hybrid_coeff": 0.1,
        "sigma_begin": 0.005,
        "sigma_end": 0.5,
    },
}
"""Sizes and schedules of the published models, from ``configs/base.yaml`` and
``configs/train_diffusion.yaml`` of github.com/hspark1212/chemeleon-dng (MIT licence), where
``num_timesteps`` is 256."""


class RefusedError(Exception):
    """The user can do something about it: what came, what was expected, what to do."""


def answer(request: dict[str, Any]) -> Any:
    """Do what a request asks: ``version``, ``download`` or ``sample``."""
    if request["what"] == "version":
        return installed_version()
    installed_version()
    if request["what"] == "download":
        return download(Path(request["folder"]))
    return sample(request)


def installed_version() -> str:
    """Return the version of chemeleon-dng, without importing it."""
    try:
        return version("chemeleon-dng")
    except PackageNotFoundError:
        raise RefusedError(
            f"Chemeleon-DNG is not installed in {sys.executable}.",
            "an interpreter that has the package `chemeleon-dng`",
            "install it with `pip install 'matterloop[chemeleon]'`, or name another interpreter in"
            " the generator's setting `interpreter`",
        ) from None


def download(folder: Path) -> None:
    """Let the library fetch its published checkpoints into `folder` / ``ckpts``."""
    fetch = import_module("chemeleon_dng.download_util").ensure_checkpoints_downloaded
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "ckpts"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        os.chdir(scratch)
        try:
            fetch("ckpts")
        except OSError as error:  # what `requests` raises derives from it
            raise RefusedError(
                f"Chemeleon's published weights cannot be downloaded: {error}.",
                "a network that reaches ndownloader.figshare.com",
                "try again, or fetch https://ndownloader.figshare.com/files/54966305 elsewhere,"
                " unpack it, and name the folder `ckpts` in the generator's setting `weights`",
            ) from error
        finally:
            os.chdir(folder)
        # In one step, so that a download that broke off leaves no half of a checkpoint.
        if not target.exists():
            Path(scratch, "ckpts").rename(target)


def sample(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one mapping with `numbers`, `cell`, `fractional` per crystal, batch by batch."""
    import numpy as np
    import torch

    torch.set_num_threads(request["threads"])
    task = request["task"]
    module = load(request["checkpoint"], request["trust"]) if request["checkpoint"] else None
    if module is None:
        module = random_weights(task, request["timesteps"], request["weights_seed"])
    elif module.model.task.name.lower() != task:
        raise RefusedError(
            f"{request['checkpoint']} was trained for {module.model.task.name.lower()!r}.",
            f"a checkpoint for {task!r}, which this search space needs",
            "csp predicts structures of given formulas, dng invents compositions too; name a"
            " fitting checkpoint, or the folder that holds both, in `weights`",
        )
    module = module.to(request["device"]).eval()
    if request["elements"] is not None:
        _allow_only(module, request["elements"])
    crystals = []
    for batch in request["batches"]:
        seed = batch["seed"]
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # what the library draws from
        random.seed(seed)
        for atoms in module.sample(
            task=task, num_atoms=batch["num_atoms"], atom_types=batch["numbers"], verbose=False
        ):
            try:
                places = atoms.get_scaled_positions(wrap=False)
            except np.linalg.LinAlgError:  # a flat cell
                places = np.full((len(atoms), 3), np.nan)
            crystals.append(
                {
                    "numbers": atoms.numbers.tolist(),
                    "cell": atoms.cell.array.tolist(),
                    "fractional": places.tolist(),
                }
            )
    return crystals


def random_weights(task: str, timesteps: int, seed: int) -> Any:
    """Build the published architecture without training: for tests and timing, not for crystals."""
    import torch

    torch.manual_seed(seed)
    build = import_module("chemeleon_dng.script_util").create_diffusion_module
    return build(
        task=task,
        model_configs={**PUBLISHED_CONFIG["model"], "pred_atom_types": task == "dng"},
        optimizer_configs=PUBLISHED_CONFIG["optimizer"],
        num_timesteps=timesteps,
        **PUBLISHED_CONFIG["diffusion"],
    )


def load(path: str, trust: bool) -> Any:
    """Load a checkpoint, by default without running the code that a pickle may hold."""
    import torch

    kind = import_module("chemeleon_dng.diffusion.diffusion_module").DiffusionModule
    try:
        with torch.serialization.safe_globals(_known_classes()):
            return kind.load_from_checkpoint(path, map_location="cpu", weights_only=not trust)
    except (pickle.UnpicklingError, EOFError) as error:
        raise RefusedError(
            f"The checkpoint {path} cannot be loaded safely:"
            f" {str(error).strip().splitlines()[0] if str(error) else 'it is cut off'}",
            "a whole checkpoint that holds only tensors, numbers and Chemeleon's own classes",
            "if you trust where it comes from, set the generator's `trust_checkpoint: true`;"
            " loading may then run code that the file holds",
        ) from error


def _known_classes() -> list[Any]:
    """Return what a checkpoint may hold besides tensors; the library was once `chemeleon_rl`."""
    places = {
        "diffusion.diffusion_module": "DiffusionModuleTask",
        "diffusion.models.d3pm": "D3PM",
        "diffusion.models.ddpm": "DDPM",
        "diffusion.models.dsm": "DSM",
    }
    known: list[Any] = [import_module("pytorch_lightning.utilities.parsing").AttributeDict]
    for place, name in places.items():
        member = getattr(import_module(f"chemeleon_dng.{place}"), name)
        known += [(member, f"{package}.{place}.{name}") for package in _PACKAGES]
    return known


_PACKAGES = ("chemeleon_dng", "chemeleon_rl")


def _allow_only(module: Any, elements: list[int]) -> None:
    """Mask the logits of all other elements, whose index is the atomic number; 0 is the mask."""
    import torch

    def mask(_network: object, _inputs: object, output: Any) -> Any:
        forbidden = torch.ones(output.atom_types.shape[-1], dtype=torch.bool)
        forbidden[[number for number in elements if number < len(forbidden)]] = False
        logits = output.atom_types.masked_fill(forbidden.to(output.atom_types.device), -1e9)
        return output._replace(atom_types=logits)

    module.model.register_forward_hook(mask)


def _end_with_parent() -> None:
    """Wait for the end of standard input, which comes when the parent is gone.

    Not through `sys.stdin`, whose lock would make the interpreter's own end fail.
    """
    while os.read(0, 1):
        pass
    os._exit(1)


def main(request: str, response: str) -> None:
    """Read a request, write a response."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = {"result": answer(json.loads(Path(request).read_text(encoding="utf-8")))}
    except RefusedError as refused:
        outcome = {"refused": refused.args}
    Path(response).write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    # Our own folder comes first in the path and must not answer to the names of libraries.
    del sys.path[0]
    main(sys.argv[1], sys.argv[2])
