"""Everything that decides how the generator is trained from nothing."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from matterloop.agents.generator.diffusion.augmentation.augment import AugmentationSettings
from matterloop.agents.generator.diffusion.composition.network import CompositionSettings
from matterloop.agents.generator.diffusion.composition.training import CompositionTraining
from matterloop.agents.generator.diffusion.network import NetworkSettings
from matterloop.agents.generator.diffusion.training_settings import TrainingSettings
from matterloop.loop.dataset import SplitFractions


class DataSettings(BaseModel):
    """What becomes of the data.

    Attributes
    ----------
    test, validation, split_seed
        Shares of the compositions that are held out; see `matterloop.loop.dataset.part_of`. The
        composition network stops by the validation part; the test part is not touched.
    geometry_labels
        Whether density, space group and crystal system are found where the source gives none.
    augmentation
        Crystals made from those of the training part; its own split is overruled by this one.
    augmented_weight
        How often such a crystal is drawn, relative to a crystal of the data.
    licence, attribution
        Of the data, for the card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test: float = Field(default=0.05, ge=0, lt=1)
    validation: float = Field(default=0.05, ge=0, lt=1)
    split_seed: int | None = None
    geometry_labels: bool = True
    augmentation: AugmentationSettings = AugmentationSettings()
    augmented_weight: float = Field(default=1.0, gt=0)
    licence: str = ""
    attribution: str = ""

    @property
    def fractions(self) -> SplitFractions:
        """Shares of the split."""
        return SplitFractions(self.test, self.validation)

    @property
    def changes(self) -> AugmentationSettings:
        """Augmentation that keeps to this split and gives the crystals themselves, too."""
        return self.augmentation.model_copy(
            update={
                "keep_originals": True,
                "test": self.test,
                "validation": self.validation,
                "split_seed": self.split_seed,
            }
        )

    @model_validator(mode="after")
    def _something_is_left(self) -> DataSettings:
        if self.test + self.validation >= 1:
            raise ValueError("test and validation together must be below 1")
        return self


class SelectionSettings(BaseModel):
    """How the shipped weights are chosen among checkpoints.

    A loss falls on when a generator begins to repeat what it was shown; so candidates are compared
    by how many of a fixed set of samples are valid, unique, novel and stable at once.

    Attributes
    ----------
    candidates
        Checkpoints kept of each phase of the geometry's training; the last step is one of them.
    after
        Share of a phase's steps before which none is kept.
    samples
        Crystals drawn from every candidate: the same compositions, the same noise.
    steps, annealing
        See `SamplerSettings`.
    guidance_scale, energy_above_hull
        The samples are asked for this energy above hull (eV/atom), so strongly.
    stable_eV_per_atom
        Largest energy above hull of what counts as stable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int = Field(default=4, ge=1, le=100)
    after: float = Field(default=0.5, ge=0, lt=1)
    samples: int = Field(default=256, ge=1)
    steps: int = Field(default=25, ge=1, le=1000)
    annealing: float = Field(default=5.0, ge=0, le=50)
    guidance_scale: float = Field(default=1.0, ge=0, le=100)
    energy_above_hull: float = Field(default=0.0, ge=0)
    stable_eV_per_atom: float = Field(default=0.1, ge=0)


class PretrainingSettings(BaseModel):
    """Settings of ``matterloop train generator`` for the generator ``diffusion``.

    Attributes
    ----------
    version
        Name of the model, for its card.
    data
        Split, augmentation, licence.
    composition_network, composition
        The composition sampler and its training.
    network, geometry
        The geometry network and its training.
    finishing
        A second, short training of the geometry network that starts from the averaged weights of
        the first, which also are its frozen critic: the place for physical penalties. None: none.
    selection
        Choice among checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(default="unnamed", min_length=1)
    data: DataSettings = DataSettings()
    composition_network: CompositionSettings = CompositionSettings()
    composition: CompositionTraining = CompositionTraining()
    network: NetworkSettings = NetworkSettings()
    geometry: TrainingSettings = TrainingSettings()
    finishing: TrainingSettings | None = None
    selection: SelectionSettings = SelectionSettings()

    @model_validator(mode="after")
    def _critic_exists(self) -> PretrainingSettings:
        if self.geometry.penalties.critical:
            raise ValueError(
                "the penalties stability and properties need a trained network as critic; they"
                " belong into the finishing phase"
            )
        return self
