"""A stand-in for ``mattergen-generate``: its options, its output files, no physics.

Options as in ``mattergen/scripts/generate.py`` (which reads them with ``fire``), files as
``save_structures`` in ``mattergen/common/utils/eval_utils.py`` writes them. It keeps the arguments
in a file named by ``STAND_IN_LOG``; ``STAND_IN_MODE`` makes it misbehave.
"""

import ast
import io
import json
import os
import sys
import threading
from pathlib import Path
from zipfile import ZipFile

import ase.io
import numpy as np
from ase import Atoms

PROPERTIES = {
    "chemical_system": {"chemical_system"},
    "dft_band_gap": {"dft_band_gap"},
    "chemical_system_energy_above_hull": {"chemical_system", "energy_above_hull"},
    "space_group": {"space_group"},
}


def main():
    output, *given = sys.argv[1:]
    options = {}
    for argument in given:
        assert argument.startswith("--")
        assert " " not in argument
        name, _, text = argument[2:].partition("=")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    with Path(os.environ["STAND_IN_LOG"]).open("a") as log:
        log.write(json.dumps({**options, "pid": os.getpid()}) + "\n")
    mode = os.environ.get("STAND_IN_MODE", "")
    if mode == "hang":
        threading.Event().wait(600)
    if mode == "crash":
        sys.exit("torch.OutOfMemoryError: CUDA out of memory.")
    assert ("pretrained_name" in options) != ("model_path" in options)
    condition = options.get("properties_to_condition_on", {})
    known = PROPERTIES.get(options.get("pretrained_name"), set(condition))
    assert set(condition) <= known, "not trained to be conditioned on this"
    assert options["record_trajectories"] is False

    # Without a seed MatterGen does not reset the random state.
    seed = options.get("seed", int.from_bytes(os.urandom(4)))
    if "SEEDED" in os.environ:  # the launcher did, as it must, in the global state
        seed = np.random.randint(2**31)  # noqa: NPY002
    random = np.random.RandomState(seed)
    everything = ["Li", "O", "Na", "Cl", "Fe", "S"]
    elements = condition.get("chemical_system", "-".join(everything)).split("-")
    frames = []
    for _ in range(options["batch_size"] * options["num_batches"]):
        if "target_compositions" in options:
            (composition,) = options["target_compositions"]
            assert options["sampling_config_name"] == "csp"
            symbols = [e for e, n in composition.items() for _ in range(n)]
        else:
            symbols = list(random.choice(elements, size=random.randint(2, 9)))
        edge = (20.0 * len(symbols)) ** (1 / 3)
        places = random.uniform(size=(len(symbols), 3))
        frames.append(Atoms(symbols, scaled_positions=places, cell=[edge] * 3, pbc=True))

    folder = Path(output)
    folder.mkdir(exist_ok=True)
    if mode == "nothing":
        return
    if mode == "garbage":
        (folder / "generated_crystals.extxyz").write_text("no crystal\n")
        return
    if mode != "zip only":
        ase.io.write(folder / "generated_crystals.extxyz", frames)
    with ZipFile(folder / "generated_crystals_cif.zip", "w") as archive:
        for index, atoms in enumerate(frames):
            cif = io.BytesIO()
            ase.io.write(cif, atoms, format="cif")
            archive.writestr(f"gen_{index}.cif", cif.getvalue())


def _main():
    os.environ["SEEDED"] = "by the launcher"
    main()


if __name__ == "__main__":
    main()
