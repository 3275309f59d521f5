"""What every figure of an evaluation means and where the definition comes from."""

from __future__ import annotations

from collections.abc import Mapping

DEFINITIONS: Mapping[str, str] = {
    "denominator": "All samples, the unreadable and the undelivered among them: failures count"
    " against every rate.",
    "raw, relaxed": "The samples as they are; after relaxation with the potential that is named. A"
    " sample whose relaxation failed fails every question of the relaxed row.",
    "structurally_valid": "No two atoms closer than 0.5 Angstrom and a cell of at least 0.1 A^3"
    " (CDVAE: Xie et al., ICLR 2022, arXiv:2110.06197). Here an atom's own images count as well.",
    "compositionally_valid": "Charge-neutral under SMACT (Davies et al., JOSS 4, 1361 (2019)) with"
    " its older oxidation states (smact14) and cations less electronegative than anions; elements"
    " and compositions of metals alone pass, unknown electronegativities too (CDVAE's evaluation).",
    "valid": "Structurally and compositionally valid (CDVAE).",
    "physically_valid": "This project's stricter structural test: structurally valid, every"
    " distance at least 0.6 times the sum of covalent radii, volume and density within what known"
    " crystals span (matterloop.loop.chemistry.validity).",
    "neutral": "Charge-neutral under SMACT's present rule and states (icsd24), as campaigns ask.",
    "unique": "Structurally valid and matching no earlier sample (pymatgen's StructureMatcher, ltol"
    " 0.2, stol 0.3, angle 5 degrees, volumes scaled, primitive cells): the distinct crystals.",
    "novel": "Structurally valid and matching no crystal of the reference (same matcher; MatterGen:"
    " Zeni et al., Nature 639, 624 (2025)). By a formula index: no known crystal has this formula"
    " with as many atoms in its primitive cell, a lower bound. The rate falls as the reference"
    " grows: only rates against the same reference compare, and MatterGen's holds some 850,000"
    " crystals.",
    "novel_formula": "Structurally valid, and no known crystal has the reduced formula.",
    "unique_novel": "Unique and novel at once.",
    "stable_0, stable_0.1": "Structurally valid and at most 0 or 0.1 eV/atom above the convex hull"
    " of the reference phases, energies of the potential that is named (MatterGen's thresholds).",
    "sun_0, sun_0.1": "Stable, unique and novel (S.U.N., MatterGen).",
    "valid_sun_0, valid_sun_0.1": "S.U.N., compositionally valid and physically valid.",
    "thin_sun_0, thin_sun_0.1": "S.U.N. samples that are thin (below): the doubtful part of the"
    " S.U.N. rates, which hold them.",
    "coverage": "CDVAE's COV-R and COV-P: nearest fingerprints within 0.4 (structure: CrystalNN"
    " order parameters, mean over sites) and within 10 (composition: standardised Magpie"
    " statistics). Standardised with constants of this project, see"
    " matterloop.loop.evaluation.coverage; not CDVAE's own, which lie near.",
    "distributions": "First Wasserstein distance between samples and held-out crystals of density"
    " (g/cm^3), number of elements and number of atoms in the cell as given; for all readable"
    " samples and, as CDVAE does, for the valid ones.",
    "relaxation_displacement_A": "Root mean square displacement of the atoms of one crystal between"
    " sample and relaxed crystal: shifts of fractional coordinates to the nearest image, mean shift"
    " removed, measured in the relaxed cell; then mean and median over the relaxed samples. So the"
    " change of the cell itself is not in it; volume_change has that.",
    "match_rate, rmse": "Structure prediction: StructureMatcher with stol 0.5, ltol 0.3, angle 10"
    " degrees; RMSE over (V/N)^(1/3), mean over the matched (CDVAE; DiffCSP: Jiao et al., NeurIPS"
    " 2023, arXiv:2309.04475). At k: the best of k samples.",
    "with_energy_above_hull": "Samples to which the potential gives an energy and of which the hull"
    " has references of all elements; others count as not stable.",
    "thin": "Samples at whose composition the hull knows too little, so that their energy above"
    " hull is likely too low (matterloop.loop.hull.reference).",
}
