"""Cell volume of a crystal whose atoms were replaced.

Data-mined lattice scaling (Chu, Roy, Zhang et al., Comput. Mater. Sci. 146, 184 (2018),
doi:10.1016/j.commatsci.2018.01.040), as in pymatgen's `DLSVolumePredictor`: the cell is scaled
uniformly until its shortest bond, relative to the bond length that the two elements have in known
crystals, has the length ratio one. Over 200 Materials Project crystals of at most 20 atoms the
predicted volume deviates by 9 % on average, by 40 % at the most.
"""

from __future__ import annotations

import warnings

from matterloop.loop.errors import MatterloopError
from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor
from pymatgen.core import Structure

VOLUME_PER_ATOM_A3 = (2.0, 120.0)
"""Range outside which a predicted cell is refused: diamond has 5.7, caesium 115 A^3 per atom."""


class VolumeError(MatterloopError):
    """No sensible cell volume can be predicted for a crystal."""


def scale_to_predicted_volume(structure: Structure) -> Structure:
    """Return a copy whose cell has the predicted volume; fractional coordinates are unchanged.

    Raises
    ------
    VolumeError
        If an element has neither a data-mined nor an atomic radius, or the volume per atom falls
        outside `VOLUME_PER_ATOM_A3`.
    """
    # The template's own volume says nothing about the new compound: no limits on the scaling.
    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="VolumePredictor: ", category=UserWarning)
            volume = float(predictor.predict(structure))
    except (ValueError, ZeroDivisionError) as error:
        raise VolumeError(
            f"No cell volume can be predicted for {structure.composition.formula}: {error}."
        ) from error
    low, high = VOLUME_PER_ATOM_A3
    if not low <= volume / len(structure) <= high:
        raise VolumeError(
            f"The volume predicted for {structure.composition.formula} is"
            f" {volume / len(structure):.1f} A^3 per atom.",
            f"{low:g} to {high:g} A^3 per atom",
        )
    scaled = structure.copy()
    scaled.scale_lattice(volume)
    return scaled
