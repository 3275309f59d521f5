"""MatterGen behind our protocol, in its own environment.

Zeni et al., Nature 639, 624 (2025), doi:10.1038/s41586-025-08628-5; github.com/microsoft/mattergen
(MIT licence). It needs numpy < 2 and a torch of its own, so it can't live beside Matterloop; it is
called as its command line, whose options and output files are those of its README and of
``mattergen/scripts/generate.py``, releases 1.0.3 and later.

This adapter was written and tested against those documented options and files with a stand-in
program; it has not been run against MatterGen itself, whose wheel 1.0.3 on PyPI asks for a CUDA
build of torch that is not there and lacks its configuration files. Its checkpoints are pickles that
MatterGen loads with all that they hold: name only those whose source you trust.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from matterloop.adapters.generators import mattergen_launcher
from matterloop.adapters.generators.foreign import run_foreign
from matterloop.adapters.generators.mattergen_conditions import (
    PRETRAINED,
    Errand,
    errands,
    fire_value,
)
from matterloop.adapters.generators.mattergen_output import read_crystals
from matterloop.adapters.generators.rejection import Draft, check_request, gather
from matterloop.loop.candidate import Candidate, Conditions, ModelRef
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash, derive_seed


class MattergenSettings(BaseModel):
    """Settings of `MattergenGenerator`.

    Attributes
    ----------
    weights
        Name of a published model (MatterGen fetches it from Hugging Face: ``mattergen_base``,
        ``chemical_system``, ``dft_band_gap``, ...), or the folder of a checkpoint with its
        ``config.yaml``. There is no default.
    interpreter
        Python of MatterGen's environment. The launcher then seeds it and ends it when this process
        dies; prefer it to `command`.
    command
        What to call where `interpreter` is not given: a program and its first arguments, for
        instance a container that runs ``mattergen-generate``. Files are exchanged through an
        absolute path of a temporary folder.
    command_takes_seed
        Whether `command` knows ``--seed`` (MatterGen after 1.0.3); without it such runs are not
        repeatable, and `describe` says so.
    conditions_on
        Properties that the model was trained to be conditioned on, by MatterGen's names; None for
        those of the published model of that name, none for other folders.
    properties
        Further conditions under MatterGen's names, for instance ``dft_mag_density: 0.15``. They
        overrule those taken from the campaign's targets.
    structure_prediction
        The model was trained with fixed compositions (``csp``): it is given the search space's
        formulas with their numbers of atoms.
    batch_size
        Crystals per pass.
    systems_per_round
        Chemical systems (or compositions) among which one round divides its draws; each costs one
        start of MatterGen.
    rounds
        How often it is asked for what was outside the search space.
    arguments
        Further options for MatterGen's command line, as they stand.
    timeout_s
        Seconds that one call may take.
    threads
        Of torch on a CPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str | None = None
    interpreter: Path | None = None
    command: tuple[str, ...] = Field(default=("mattergen-generate",), min_length=1)
    command_takes_seed: bool = False
    conditions_on: tuple[str, ...] | None = None
    properties: dict[str, float | int | str] = Field(default_factory=dict)
    structure_prediction: bool = False
    batch_size: int = Field(default=16, ge=1, le=4096)
    systems_per_round: int = Field(default=4, ge=1, le=1000)
    rounds: int = Field(default=3, ge=1, le=100)
    arguments: tuple[str, ...] = ()
    timeout_s: float = Field(default=12 * 3600.0, gt=0)
    threads: int = Field(default=1, ge=1, le=256)


class MattergenGenerator:
    """MatterGen behind `matterloop.loop.protocols.Generator`.

    Raises
    ------
    UsageError
        If no weights are named, or a condition is asked that the model does not know.
    """

    Settings = MattergenSettings

    def __init__(self, settings: MattergenSettings, workshop: object = None) -> None:
        del workshop  # needs nothing of the campaign
        self._settings = settings
        if settings.weights is None:
            raise UsageError(
                "The generator 'mattergen' has no weights; none come with Matterloop.",
                f"the setting `weights`: the folder of a checkpoint, or one of {_NAMES}",
                "name one in the generator's settings, and MatterGen's Python in `interpreter`"
                " (installation: github.com/microsoft/mattergen)",
            )
        if settings.weights not in PRETRAINED and not (self._folder / "config.yaml").is_file():
            raise UsageError(
                f"There is no checkpoint of MatterGen at {self._folder} (no config.yaml).",
                f"a folder as MatterGen's training writes it, or one of {_NAMES}",
                "correct the generator's setting `weights`",
            )
        unknown = set(settings.properties) - set(self._conditions_on)
        if unknown:
            raise UsageError(
                f"MatterGen's model {settings.weights!r} cannot be conditioned on"
                f" {', '.join(sorted(unknown))}.",
                f"one of {', '.join(self._conditions_on) or 'none'}",
                "take another model, or name in `conditions_on` what this one was trained with",
            )

    @property
    def repeatable(self) -> bool:
        """Whether a seed reaches MatterGen."""
        return self._settings.interpreter is not None or self._settings.command_takes_seed

    def describe(self) -> ModelRef:
        """Name the model; the hash covers local checkpoints, or the published model's name."""
        places = {"interpreter", "command", "command_takes_seed", "timeout_s", "weights"}
        config = {
            **self._settings.model_dump(mode="json", exclude=places),
            "weights": self._settings.weights
            if self._settings.weights in PRETRAINED
            else dict(self._hashes),
            "conditions_on": list(self._conditions_on),
            "repeatable": self.repeatable,
        }
        return ModelRef("generator", "mattergen", self._model_name, content_hash(config), config)

    def sample(
        self, n: int, conditions: Conditions, *, guidance_scale: float, seed: int
    ) -> list[Candidate]:
        """Draw crystals; fewer than `n` only where `rounds` did not yield enough.

        Targets become conditions where the model knows them (`mattergen_conditions`), the search
        space becomes chemical systems or compositions; the origin names the targets passed over.
        `guidance_scale` is MatterGen's ``diffusion_guidance_factor``.

        Raises
        ------
        UsageError
            If the request does not fit the model, or the program does not exist.
        GeneratorTimeoutError, PluginFailedError
            If MatterGen takes too long, fails or leaves output that cannot be read.
        """
        check_request(n, guidance_scale)
        origin: dict[str, Any] = {"method": "mattergen", "weights": self._model_name}
        if not self.repeatable:
            origin["repeatable"] = False

        def draw(round_: int, count: int) -> list[Draft]:
            drafts = []
            for index, errand in enumerate(
                errands(
                    conditions,
                    count,
                    conditions_on=self._conditions_on,
                    fixed=self._settings.properties,
                    structure_prediction=self._settings.structure_prediction,
                    most=self._settings.systems_per_round,
                    seed=derive_seed(seed, "mattergen", "errands", round_),
                )
            ):
                call_seed = derive_seed(seed, "mattergen", round_, index)
                drafts += self._run(errand, guidance_scale, call_seed, round_)
            return drafts

        return gather(
            n,
            conditions.search_space,
            draw,
            rounds=self._settings.rounds,
            seed=seed,
            origin=origin,
        )

    def _run(self, errand: Errand, guidance: float, seed: int, round_: int) -> list[Draft]:
        """Call MatterGen once."""
        settings = self._settings
        with tempfile.TemporaryDirectory(prefix="matterloop-mattergen-") as name:
            output = Path(name) / "results"
            run_foreign(
                self._command(errand, output, guidance, seed),
                name="mattergen",
                folder=Path(name),
                timeout_s=settings.timeout_s,
                threads=settings.threads,
            )
            crystals = read_crystals(output)
        account: dict[str, Any] = {"round": round_, "conditions": dict(errand.properties)}
        if errand.properties:
            account["guidance_factor"] = guidance
        if errand.passed_over:
            account["targets_passed_over"] = list(errand.passed_over)
        return [Draft(each, account) for each in crystals]

    def _command(self, errand: Errand, output: Path, guidance: float, seed: int) -> list[str]:
        settings = self._settings
        batch = min(settings.batch_size, errand.count)
        arguments = [
            str(output),
            f"--pretrained_name={settings.weights}"
            if settings.weights in PRETRAINED
            else f"--model_path={self._folder}",
            f"--batch_size={batch}",
            f"--num_batches={math.ceil(errand.count / batch)}",
            "--record_trajectories=False",
        ]
        if errand.properties:
            arguments.append(f"--properties_to_condition_on={fire_value(errand.properties)}")
            arguments.append(f"--diffusion_guidance_factor={guidance}")
        if errand.composition:
            arguments.append(f"--target_compositions=[{fire_value(errand.composition)}]")
            arguments.append("--sampling_config_name=csp")
        arguments += settings.arguments
        if settings.interpreter is not None:
            launcher = str(Path(mattergen_launcher.__file__).absolute())
            return [str(settings.interpreter), launcher, str(seed), *arguments]
        if settings.command_takes_seed:
            arguments.append(f"--seed={seed % 2**32}")
        return [*settings.command, *arguments]

    @property
    def _folder(self) -> Path:
        return Path(str(self._settings.weights)).expanduser().absolute()

    @property
    def _model_name(self) -> str:
        return (
            self._folder.name
            if self._settings.weights not in PRETRAINED
            else str(self._settings.weights)
        )

    @property
    def _conditions_on(self) -> tuple[str, ...]:
        if self._settings.conditions_on is not None:
            return self._settings.conditions_on
        return PRETRAINED.get(self._model_name, ())

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Path of each file that makes up a local checkpoint, in its folder, to its SHA-256."""
        hashes = {}
        for file in sorted([self._folder / "config.yaml", *self._folder.rglob("*.ckpt")]):
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            hashes[file.relative_to(self._folder).as_posix()] = digest
        return hashes


_NAMES = ", ".join(PRETRAINED)
