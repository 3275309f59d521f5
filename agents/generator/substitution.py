"""Generator of the time before diffusion: other elements on the sites of known crystals.

It is the baseline that a learned generator has to beat, and it needs neither weights nor training.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib.metadata import version

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from matterloop.agents.generator.cell_volume import (
    DLS_LIMITS,
    ELEMENT_VOLUME_A3,
    VolumeError,
    scale_to_predicted_volume,
)
from matterloop.agents.generator.decorations import (
    Decoration,
    Decorations,
    enumerate_decorations,
)
from matterloop.agents.generator.ranking import SubstitutionTable
from matterloop.agents.generator.templates import (
    Template,
    aflow_templates,
    library_sha256,
    read_templates,
)
from matterloop.loop.candidate import Candidate, Conditions, ModelRef
from matterloop.loop.elements import element_counts
from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash, derive_seed
from matterloop.loop.protocols import Workshop
from matterloop.loop.spec import SearchSpace

_SEARCH_SPACES_KEPT = 4


class SubstitutionSettings(BaseModel):
    """Settings of `SubstitutionGenerator`.

    Attributes
    ----------
    templates
        Files of further templates: CSV with a `cif` column (plain or ``.gz``), CIF files, folders.
    aflow
        Whether the 288 AFLOW prototypes are used.
    pure_elements
        Whether crystals of a single element are proposed where compounds are possible.
    metalloid_alloys
        Whether B, Si, Ge, As, Sb, Te and Po count as metals where no charge-neutral assignment
        exists (``Ni2B``, ``Ti5Si3``). A critic that requires neutrality refuses most of these.
    similarity_decay
        How many Mendeleev numbers apart two metals may be to replace each other (decay length);
        only for compounds of metals without a charge-neutral assignment.
    max_combinations
        Combinations tried per template; beyond it only the most probable ions of each site are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    templates: tuple[str, ...] = ()
    aflow: bool = True
    pure_elements: bool = False
    metalloid_alloys: bool = False
    similarity_decay: float = Field(default=5.0, gt=0, le=100)
    max_combinations: int = Field(default=200_000, ge=1000, le=10_000_000)


class SubstitutionGenerator:
    """Ionic substitution into known prototypes, ranked by probability (Hautier et al. 2011).

    See `matterloop.agents.generator.ranking` for the probabilities, `decorations` for the rules,
    `cell_volume` for the size of the cell. Behind `matterloop.loop.protocols.Generator`.
    """

    Settings = SubstitutionSettings

    def __init__(self, settings: SubstitutionSettings, workshop: Workshop | None = None) -> None:
        del workshop  # needs nothing of the campaign
        self._settings = settings
        self._templates: tuple[Template, ...] = (
            aflow_templates() if settings.aflow else ()
        ) + read_templates(settings.templates)
        if not self._templates:
            raise UsageError(
                "The substitution generator has no templates.",
                "`aflow: true` or at least one path under `templates`",
            )
        self._table = SubstitutionTable()
        self._enumerated: OrderedDict[str, Decorations] = OrderedDict()

    def describe(self) -> ModelRef:
        """Name the generator; the hash covers the templates and the table of substitutions."""
        config = self._settings.model_dump(mode="json", exclude={"templates"})
        volumes = content_hash([dict(ELEMENT_VOLUME_A3), list(DLS_LIMITS)])
        tables = [library_sha256(self._templates), self._table.sha256, volumes]
        return ModelRef(
            kind="generator",
            name="substitution",
            version="1",
            sha256=content_hash([*tables, config]),
            config={
                **config,
                "n_templates": len(self._templates),
                "templates_sha256": tables[0],
                "substitution_table_sha256": tables[1],
                "element_volumes_sha256": volumes,
                "pymatgen": version("pymatgen"),
            },
        )

    def decorations(self, search_space: SearchSpace) -> Decorations:
        """Return all that can be proposed in a search space, the most probable first."""
        key = content_hash(search_space.model_dump(mode="json"))
        if key not in self._enumerated:
            self._enumerated[key] = enumerate_decorations(
                self._templates,
                search_space,
                self._table,
                tau=self._settings.similarity_decay,
                max_combinations=self._settings.max_combinations,
                pure_elements=self._settings.pure_elements,
                metalloid_alloys=self._settings.metalloid_alloys,
            )
            if len(self._enumerated) > _SEARCH_SPACES_KEPT:
                self._enumerated.popitem(last=False)
        return self._enumerated[key]

    def sample(
        self, n: int, conditions: Conditions, *, guidance_scale: float, seed: int
    ) -> list[Candidate]:
        r"""Draw `n` crystals without replacement, each with weight probability ** `guidance_scale`.

        The draw is the Gumbel top-k trick: the `n` largest of
        :math:`\gamma \log p_i - \log(-\log u_i)`, with uniform :math:`u_i`, are a weighted sample
        without replacement (Efraimidis and Spirakis 2006; Kool et al., ICML 2019). They come in
        the order of the draw. A `guidance_scale` of 0 draws uniformly; large ones give the ranking.

        Raises
        ------
        UsageError
            If `n` or `guidance_scale` is negative.
        """
        if n < 0 or not guidance_scale >= 0:
            raise UsageError(
                f"sample was asked for n = {n} with guidance scale {guidance_scale}.",
                "neither below zero",
            )
        found = self.decorations(conditions.search_space)
        generator = np.random.default_rng(derive_seed(seed, "substitution"))
        score = guidance_scale * found.log_probabilities + generator.gumbel(size=len(found))
        candidates: list[Candidate] = []
        for index in np.argsort(-score, kind="stable"):
            if len(candidates) == n:
                break
            decoration = found[int(index)]
            structure = self._build(decoration, conditions.search_space)
            if structure is not None:
                candidates.append(Candidate(structure, _origin(decoration), seed))
        return candidates

    def _build(self, decoration: Decoration, search_space: SearchSpace) -> Structure | None:
        structure = decoration.template.decorate(decoration.elements)
        if search_space.why_outside(element_counts(structure)) is not None:
            return None
        try:
            return scale_to_predicted_volume(structure)
        except VolumeError:
            return None


def _origin(decoration: Decoration) -> dict[str, object]:
    template, states = decoration.template, decoration.oxidation_states
    ions = decoration.template_ions
    return {
        "method": "substitution",
        "ranking": decoration.ranking,
        "template": template.template_id,
        "mapping": dict(zip(template.elements, decoration.elements, strict=True)),
        "oxidation_states": dict(zip(decoration.elements, states, strict=True)) if states else None,
        "template_oxidation_states": dict(ions) if ions else None,
        "probability": decoration.probability,
        "rank": decoration.rank,
    }
