"""Every way to fill the templates with the elements of a search space, with its probability.

Nothing is built here: a decoration is a template and one element per site class, worked out on
arrays. Rules: different site classes get different elements (so that the primitive cell stays
primitive); an ionic decoration is charge-neutral with one oxidation state per element, cations less
electronegative than anions (Pauling); where no such assignment exists, decorations of metals only
(and of metalloids on demand), and pure elements, are ranked by elemental similarity instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, gcd
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from matterloop.agents.generator.ranking import (
    Ion,
    SubstitutionTable,
    electronegativity,
    is_metallic,
    log_similarity,
    mendeleev_numbers,
)
from matterloop.agents.generator.templates import Template, interchanges
from matterloop.loop.elements import parse_formula
from matterloop.loop.spec import SearchSpace

Ranking = Literal["ionic", "similarity"]


@dataclass(frozen=True)
class Decoration:
    """One way to fill a template.

    Attributes
    ----------
    elements
        Aligned with ``template.elements``.
    oxidation_states
        Aligned with `elements`; None where the ranking is by similarity.
    template_ions
        Ions of the template that the probability is conditional on; None where unknown.
    probability
        As `matterloop.agents.generator.ranking` defines it, 0 to 1.
    rank
        From 1, the most probable of the search space.
    """

    template: Template
    elements: tuple[str, ...]
    oxidation_states: tuple[int, ...] | None
    template_ions: tuple[Ion, ...] | None
    probability: float
    rank: int
    ranking: Ranking


@dataclass(frozen=True)
class _Block:
    """Decorations of one template: elements and charges of shape (n, k), log p of shape (n,)."""

    template: int
    elements: NDArray[np.str_]
    charges: NDArray[np.int64]
    log_p: NDArray[np.float64]
    ranking: Ranking


class Decorations(Sequence[Decoration]):
    """All decorations of a search space, the most probable first."""

    def __init__(
        self,
        templates: Sequence[Template],
        ions: Sequence[tuple[Ion, ...] | None],
        blocks: Sequence[_Block],
    ) -> None:
        self._templates, self._ions, self._blocks = templates, ions, blocks
        sizes = [len(block.log_p) for block in blocks]
        log_p = np.concatenate([np.empty(0), *(block.log_p for block in blocks)])
        # Rounded, so that the order does not hang on the last bit of a sum of logarithms.
        self._order = np.argsort(-np.round(log_p, 9), kind="stable")
        self._block_of = np.repeat(np.arange(len(blocks)), sizes)[self._order]
        within = np.concatenate([np.empty(0, int), *(np.arange(size) for size in sizes)])
        self._row_of = within[self._order].astype(int)
        self.log_probabilities: NDArray[np.float64] = log_p[self._order]
        """Natural logarithms, descending, shape (n,)."""

    def __len__(self) -> int:
        return len(self.log_probabilities)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # one index or a slice
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        block = self._blocks[self._block_of[index]]
        row = self._row_of[index]
        ionic = block.ranking == "ionic"
        return Decoration(
            self._templates[block.template],
            tuple(str(e) for e in block.elements[row]),
            tuple(int(q) for q in block.charges[row]) if ionic else None,
            self._ions[block.template] if ionic else None,
            exp(self.log_probabilities[index]),
            index + 1,
            block.ranking,
        )


def template_ions(template: Template, table: SubstitutionTable) -> tuple[Ion, ...] | None:
    """Return the oxidation states of a template's own elements, or None for intermetallics.

    Among the charge-neutral assignments of one oxidation state per element (cations less
    electronegative than anions), the one with the largest product of the ions' frequencies.
    """
    choices = [table.ions(element) for element in template.elements]
    if not all(choices) or len(template.elements) < 2:
        return None
    scores = [np.array([table.log_marginal(ion) for ion in ions]) for ions in choices]
    picked, log_p = _neutral(template.counts, choices, scores)
    if not len(log_p):
        return None
    best = picked[np.argmax(np.round(log_p, 9))]
    return tuple(ions[i] for ions, i in zip(choices, best, strict=True))


def enumerate_decorations(
    templates: Sequence[Template],
    search_space: SearchSpace,
    table: SubstitutionTable,
    *,
    tau: float,
    max_combinations: int,
    pure_elements: bool = False,
    metalloid_alloys: bool = False,
) -> Decorations:
    """List all decorations inside a search space.

    Parameters
    ----------
    tau
        Decay length of `log_similarity`.
    max_combinations
        Bound on the combinations tried per template. Where it bites (many allowed elements), each
        site class is offered only its most probable ions, as many as the bound admits.
    pure_elements
        Whether crystals of one element are listed too. They are in any case where the search space
        names one as a formula or admits nothing else.
    metalloid_alloys
        Whether metalloids count as metals where no charge-neutral assignment exists.
    """
    pure_elements |= bool(search_space.formulas) or search_space.max_elements == 1
    ions: list[tuple[Ion, ...] | None] = [None] * len(templates)
    blocks: list[_Block] = []
    for index, template in enumerate(templates):
        k = len(template.elements)
        if (k == 1 and not pure_elements) or not (
            search_space.min_atoms <= template.n_atoms <= search_space.max_atoms
            and search_space.min_elements <= k <= search_space.max_elements
        ):
            continue
        ions[index] = template_ions(template, table)
        for elements, formula in _element_sets(template, search_space):
            ionic = _ionic(template, ions[index], elements, table, max_combinations)
            metallic = _metallic(template, elements, tau, max_combinations, metalloid_alloys)
            taken = {tuple(row) for row in ionic[0]} if len(metallic[0]) else set()
            free = np.array([tuple(row) not in taken for row in metallic[0]], dtype=bool)
            metallic = (metallic[0][free], metallic[1][free])
            for chosen, charges, log_p, ranking in (
                (*ionic, "ionic"),
                (metallic[0], np.zeros(metallic[0].shape, int), metallic[1], "similarity"),
            ):
                keep = _inside(chosen, template, search_space, formula)
                keep &= _first_of_equals(chosen, log_p, template)
                if keep.any():
                    blocks.append(
                        _Block(index, chosen[keep], charges[keep], log_p[keep], ranking)  # type: ignore[arg-type]
                    )
    return Decorations(templates, ions, blocks)


def _element_sets(
    template: Template, search_space: SearchSpace
) -> list[tuple[tuple[str, ...], dict[str, int] | None]]:
    """Return the elements to draw from, per formula where formulas are prescribed."""
    allowed = search_space.allowed_elements
    if not search_space.formulas:
        return [(allowed, None)] if len(allowed) >= len(template.elements) else []
    wanted = _reduced(template.counts)
    unique = {tuple(sorted(parse_formula(f).items())): None for f in search_space.formulas}
    parsed = [dict(formula) for formula in unique]
    return [
        (tuple(formula), formula)
        for formula in parsed
        if _reduced(tuple(formula.values())) == wanted and set(formula) <= set(allowed)
    ]


def _reduced(counts: tuple[int, ...]) -> list[int]:
    divisor = gcd(*counts)
    return sorted(count // divisor for count in counts)


def _ionic(
    template: Template,
    fixed: tuple[Ion, ...] | None,
    elements: tuple[str, ...],
    table: SubstitutionTable,
    max_combinations: int,
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.float64]]:
    k = len(template.elements)
    offered = [ion for element in elements for ion in table.ions(element)]
    choices, scores = [], []
    for site in range(k if k > 1 and len(offered) else 0):
        known = fixed[site] if fixed else None
        log_p = np.array([table.log_conditional(ion, known) for ion in offered])
        best = _most_probable(log_p, k, max_combinations)
        choices.append(tuple(offered[i] for i in best))
        scores.append(log_p[best])
    if not choices:
        return np.empty((0, k), "U2"), np.empty((0, k), int), np.empty(0)
    picked, log_p = _neutral(template.counts, choices, scores)
    symbols = np.stack(
        [np.array([i[0] for i in c], "U2")[picked[:, s]] for s, c in enumerate(choices)], axis=1
    )
    charges = np.stack(
        [np.array([i[1] for i in c], int)[picked[:, s]] for s, c in enumerate(choices)], axis=1
    )
    # Of several assignments of charges to the same elements, the most probable counts.
    order = np.lexsort((*symbols.T[::-1], -np.round(log_p, 9)))
    order = order[np.argsort(-np.round(log_p[order], 9), kind="stable")]
    _, first = np.unique(symbols[order], axis=0, return_index=True)
    kept = order[first]
    return symbols[kept], charges[kept], log_p[kept]


def _metallic(
    template: Template,
    elements: tuple[str, ...],
    tau: float,
    max_combinations: int,
    metalloids: bool,
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    k = len(template.elements)
    numbered = mendeleev_numbers()
    offered = [
        e for e in elements if e in numbered and (k == 1 or is_metallic(e, metalloids=metalloids))
    ]
    if len(offered) < k or any(e not in numbered for e in template.elements):
        return np.empty((0, k), "U2"), np.empty(0)
    symbols, total = [], np.zeros(())
    for site, element in enumerate(template.elements):
        log_p = np.array([log_similarity(new, element, tau) for new in offered])
        best = _most_probable(log_p, k, max_combinations)
        symbols.append(np.array(offered, "U2")[best])
        total = np.add.outer(total, log_p[best]) if site else log_p[best]
    grid = np.indices(total.shape).reshape(k, -1).T
    chosen = np.stack([s[grid[:, i]] for i, s in enumerate(symbols)], axis=1)
    distinct = _distinct(chosen)
    return chosen[distinct], total.reshape(-1)[distinct]


def _most_probable(
    log_p: NDArray[np.float64], n_sites: int, max_combinations: int
) -> NDArray[np.intp]:
    room = max(2, int(max_combinations ** (1 / n_sites) + 1e-9))
    return np.sort(np.argsort(-np.round(log_p, 9), kind="stable")[:room])


def _neutral(
    counts: tuple[int, ...],
    choices: Sequence[tuple[Ion, ...]],
    scores: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return index rows (n, k) into `choices` that are neutral and ordered, and their log p."""
    total: NDArray[np.int64] = np.zeros((), int)
    for count, ions in zip(counts, choices, strict=True):
        total = np.add.outer(total, count * np.array([charge for _, charge in ions]))
    picked = np.argwhere(total == 0)
    symbols, charges, chi = [], [], []
    for site, ions in enumerate(choices):
        column = picked[:, site]
        symbols.append(np.array([symbol for symbol, _ in ions], "U2")[column])
        charges.append(np.array([charge for _, charge in ions])[column])
        chi.append(np.array([electronegativity(symbol) for symbol, _ in ions])[column])
    positive, negativity = np.stack(charges, 1) > 0, np.stack(chi, 1)
    highest_cation = np.where(positive, negativity, -np.inf).max(axis=1)
    lowest_anion = np.where(positive, np.inf, negativity).min(axis=1)
    keep = (highest_cation < lowest_anion) & _distinct(np.stack(symbols, 1))
    picked = picked[keep]
    log_p = np.zeros(len(picked))
    for site, score in enumerate(scores):
        log_p += score[picked[:, site]]
    return picked, log_p


def _distinct(rows: NDArray[np.str_]) -> NDArray[np.bool_]:
    keep = np.ones(len(rows), dtype=bool)
    for i in range(rows.shape[1]):
        for j in range(i):
            keep &= rows[:, i] != rows[:, j]
    return keep


def _inside(
    chosen: NDArray[np.str_],
    template: Template,
    search_space: SearchSpace,
    formula: dict[str, int] | None,
) -> NDArray[np.bool_]:
    keep = np.ones(len(chosen), dtype=bool)
    for element in search_space.required_elements:
        keep &= (chosen == element).any(axis=1)
    if formula and len(chosen):
        wanted = np.vectorize(formula.__getitem__, otypes=[int])(chosen)
        counts = np.array(template.counts)
        keep &= (wanted * counts[0] == wanted[:, :1] * counts).all(axis=1)
    return keep


def _first_of_equals(
    chosen: NDArray[np.str_], log_p: NDArray[np.float64], template: Template
) -> NDArray[np.bool_]:
    """Keep the most probable of the decorations that are the same crystal (`interchanges`)."""
    keep = np.ones(len(chosen), dtype=bool)
    if not len(chosen):
        return keep
    score = {tuple(row): (-round(float(p), 9), *row) for row, p in zip(chosen, log_p, strict=True)}
    orders = interchanges(template)[1:]
    for i, row in enumerate(map(tuple, chosen)) if orders else ():
        keep[i] = all(score[row] <= score.get(tuple(row[j] for j in o), (1e9,)) for o in orders)
    return keep
