"""Hard constraints on compositions: which ones are allowed at all.

A constraint is a statement about finished compositions; `legal_moves.LegalMoves` turns it into
masks that look ahead, so that every sequence of allowed moves ends in an allowed composition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from matterloop.agents.generator.diffusion.composition.descriptors import MAX_ATOMIC_NUMBER
from matterloop.agents.generator.diffusion.composition.moves import Composition
from matterloop.loop.elements import parse_formula, reduced_counts
from matterloop.loop.errors import UsageError
from matterloop.loop.spec import SearchSpace

_EVERYTHING = 1_000_000


@dataclass(frozen=True)
class CompositionConstraint:
    """What every drawn composition obeys.

    Attributes
    ----------
    elements
        Atomic numbers that may occur; None for all.
    required
        Atomic numbers that must occur.
    min_elements, max_elements
        Bounds on the number of different elements.
    min_atoms, max_atoms
        Bounds on the number of atoms in the cell.
    formulas
        Exactly these ratios, if given: reduced counts by atomic number.
    """

    elements: frozenset[int] | None = None
    required: frozenset[int] = frozenset()
    min_elements: int = 1
    max_elements: int = _EVERYTHING
    min_atoms: int = 1
    max_atoms: int = _EVERYTHING
    formulas: tuple[Composition, ...] | None = None

    def __post_init__(self) -> None:
        named = (self.elements or frozenset()) | self.required
        strange = sorted(z for z in named if not 1 <= z <= MAX_ATOMIC_NUMBER)
        if strange:
            raise UsageError(
                f"The generator knows no element with atomic number {strange[0]}.",
                f"hydrogen (1) to fermium ({MAX_ATOMIC_NUMBER})",
            )
        if self.elements is not None and not self.required <= self.elements:
            raise UsageError("A required element is not among the allowed ones.")

    @classmethod
    def from_search_space(
        cls, space: SearchSpace, *, exact_system: bool = False, atoms: int | None = None
    ) -> CompositionConstraint:
        """Read the search space of a campaign.

        Parameters
        ----------
        exact_system
            Demand all allowed elements at once: Ba-Ti-O then means BaTiO3, not TiO2. As many as
            `space.max_elements` allows must be enough for them.
        atoms
            Demand exactly this number of atoms.

        Raises
        ------
        UsageError
            If no composition can obey all of it.
        """
        if exact_system and space.formulas:
            raise UsageError(
                "An exact chemical system and formulas exclude each other: a formula names its"
                " elements already.",
                "one of them",
            )
        if atoms is not None and not space.min_atoms <= atoms <= space.max_atoms:
            raise UsageError(
                f"Exactly {atoms} atoms were asked for.",
                f"{space.min_atoms} to {space.max_atoms}, as the search space says",
            )
        known = [symbol for symbol in space.allowed_elements if symbol in _table()]
        # Allowed elements that nobody has crystals of are no mistake; demanded ones are.
        allowed = frozenset(map(_number, known or space.allowed_elements))
        constraint = cls(
            elements=allowed,
            required=allowed if exact_system else frozenset(map(_number, space.required_elements)),
            min_elements=space.min_elements,
            max_elements=space.max_elements,
            min_atoms=atoms or space.min_atoms,
            max_atoms=atoms or space.max_atoms,
            formulas=tuple(_unit(parse_formula(formula)) for formula in space.formulas)
            if space.formulas
            else None,
        )
        if len(constraint.required) > constraint.max_elements:
            raise UsageError(
                f"All {len(constraint.required)} elements at once were asked for, and at most"
                f" {constraint.max_elements} are allowed (max_elements).",
                "a larger max_elements, or fewer elements",
            )
        return constraint

    @classmethod
    def system(cls, *symbols: str, exact: bool = False) -> CompositionConstraint:
        """Allow these elements only; with `exact`, all of them at once."""
        numbers = frozenset(map(_number, symbols))
        return cls(elements=numbers, required=numbers if exact else frozenset())

    @classmethod
    def formula(cls, *formulas: str) -> CompositionConstraint:
        """Allow exactly these formulas, with any number of formula units."""
        units = tuple(_unit(parse_formula(formula)) for formula in formulas)
        return cls(elements=frozenset(z for unit in units for z in unit), formulas=units)

    def with_atoms(self, atoms: int) -> CompositionConstraint:
        """Demand exactly this number of atoms on top."""
        return replace(self, min_atoms=atoms, max_atoms=atoms)

    def holds(self, numbers: Sequence[int]) -> bool:
        """Whether a finished composition obeys."""
        elements = set(numbers)
        return (
            (self.elements is None or elements <= self.elements)
            and self.required <= elements
            and self.min_elements <= len(elements) <= self.max_elements
            and self.min_atoms <= len(numbers) <= self.max_atoms
            and (self.formulas is None or _reduced(numbers) in self.formulas)
        )

    def cells(self, max_atoms: int, known: frozenset[int]) -> dict[Composition, list[Composition]]:
        """List what `formulas` allow: formula unit to its multiples of at most `max_atoms`.

        Formulas that no cell of that size holds, or with other than `known` elements, are left out.

        Raises
        ------
        UsageError
            If none is left.
        """
        cells: dict[Composition, list[Composition]] = {}
        for unit in self.formulas or ():
            multiples = (tuple(sorted(unit * n)) for n in range(1, max_atoms // len(unit) + 1))
            allowed = [cell for cell in multiples if self.holds(cell)]
            if allowed and known.issuperset(unit):
                cells[unit] = allowed
        if not cells:
            raise UsageError(
                f"None of the formulas fits: {self.described(max_atoms)}.",
                f"a cell of at most {max_atoms} atoms that holds whole formula units, of elements"
                " that occur in the generator's training data",
                "allow other numbers of atoms or smaller formulas",
            )
        return cells

    def described(self, max_atoms: int) -> str:
        """Say in words what is asked for, for messages."""
        parts = []
        if self.formulas:
            parts.append(", ".join(_text(unit) for unit in self.formulas[:10]))
        elif self.elements is not None:
            parts.append(f"elements {_symbols(self.elements)}")
        if self.required:
            parts.append(f"required {_symbols(self.required)}")
        if self.min_elements > 1 or self.max_elements < _EVERYTHING:
            most = min(self.max_elements, MAX_ATOMIC_NUMBER)
            parts.append(f"{self.min_elements} to {most} elements")
        most = max(self.min_atoms, min(self.max_atoms, max_atoms))
        parts.append(f"{self.min_atoms} to {most} atoms")
        return "; ".join(parts)


ANYTHING = CompositionConstraint()
"""No constraint."""


def _unit(counts: Mapping[str, int]) -> Composition:
    reduced = reduced_counts(counts)
    return tuple(sorted(_number(e) for e, n in reduced.items() for _ in range(n)))


def _reduced(numbers: Sequence[int]) -> Composition:
    reduced = reduced_counts({str(z): n for z, n in Counter(numbers).items()})
    return tuple(sorted(int(z) for z, n in reduced.items() for _ in range(n)))


def _text(unit: Composition) -> str:
    return "".join(f"{_symbol(z)}{n if n > 1 else ''}" for z, n in Counter(unit).items())


def _symbols(numbers: frozenset[int]) -> str:
    named = [_symbol(number) for number in sorted(numbers)]
    return ", ".join(named[:12]) + (f" and {len(named) - 12} more" if len(named) > 12 else "")


@lru_cache(maxsize=1)
def _table() -> tuple[str, ...]:
    from matterloop.agents.generator.diffusion.composition.element_supply import element_supply

    return tuple(element_supply())


def _symbol(number: int) -> str:
    return _table()[number - 1]


def _number(symbol: str) -> int:
    if symbol not in _table():
        raise UsageError(
            f"The generator knows no element {symbol!r}.",
            f"hydrogen to fermium ({MAX_ATOMIC_NUMBER})",
        )
    return _table().index(symbol) + 1
