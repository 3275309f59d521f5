"""Tables and plot of `generator_physics.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_physics(result: Mapping[str, Any]) -> None:
    """Print the size of the penalties, the arms, and what follows the network."""
    sizes, weights = result["mean_of_penalty_at_weight_1"], result["weights"]
    print(f"\nrest of the loss {sizes['rest']:.4f}; pairs closer than {result['closest_allowed']}")
    print(f"{'penalty':<12}{'at weight 1':>12}{'weight':>10}{'share of loss':>15}")
    for name, weight in weights.items():
        part = weight * sizes[name]
        print(
            f"{name:<12}{sizes[name]:>12.3g}{weight:>10.3g}{part / (part + sizes['rest']):>15.1%}"
        )
    head = f"{'':<15}{'close':>8}{'valid':>8}{'strict':>8}{'match':>8}{'RMSE':>8}{'|ln V|':>8}"
    gaps = f"{'MAE Ef':>8}{'MAE gap':>9}"
    print(f"\nheld-out compositions, one try\n{head}{gaps}")
    named = {**result["arms"], **{k: v for k, v in result["after"].items() if "held-out" in v}}
    for arm, found in named.items():
        one = found["held-out"]
        errors = one["property_mae_own_head"]
        print(
            f"{arm:<15}{_share(one['close'])}{_share(one['structurally_valid'])}"
            f"{_share(one['physically_valid'])}{_share(one['match_rate'])}{_number(one['rmse'])}"
            f"{_number(one['median_volume_error'])}{_number(errors['formation_energy'])}"
            f"{_number(errors['band_gap'], 9)}"
        )
    print(
        f"\nde novo, one try; energies above hull in eV/atom, medians\n{'':<15}{'close':>8}"
        f"{'valid':>8}{'strict':>8}{'own head':>10}{'start head':>12}{'CHGNet':>8}{'n':>5}"
    )
    for arm, found in named.items():
        one = found["de-novo"]
        chgnet = one["above_hull_chgnet_unrelaxed"]
        print(
            f"{arm:<15}{_share(one['close'])}{_share(one['structurally_valid'])}"
            f"{_share(one['physically_valid'])}{_number(one['above_hull_own_head'], 10)}"
            f"{_number(one['above_hull_base_head'], 12)}{_number(chgnet['median'])}{chgnet['n']:>5}"
        )
    if any(found.get("against_none") for found in result["arms"].values()):
        print("\nagainst the arm `none`, same noise: mean difference +- standard error")
        for arm, found in result["arms"].items():
            for what, gap in (found.get("against_none") or {}).items():
                if gap and arm not in ("none", "start"):
                    print(
                        f"{arm:<15}{what:<30}{gap['mean']:>+9.4f} +-{gap['standard_error']:>7.4f}"
                    )
    _print_after(result["after"])


def _print_after(after: Mapping[str, Any]) -> None:
    turned = after["symmetrisation"]
    print(
        f"\nsymmetrisation of {turned['n']}: more than P1 {_share(turned['more_than_P1'])} within"
        f" {turned['symprec_A']} A, {_share(turned['more_than_P1_within_0.01_A'])} within 0.01 A;"
        f" match {_share(turned['before']['match_rate'])} ->"
        f" {_share(turned['after']['match_rate'])}"
    )
    if "short relaxation" in after:
        relaxed = after["short relaxation"]
        before, then = relaxed["before"], relaxed["after"]
        print(
            f"short relaxation of {relaxed['n']}: match {_share(before['match_rate'])} ->"
            f" {_share(then['match_rate'])}, RMSE {_number(before['rmse'])} ->"
            f" {_number(then['rmse'])}, above hull {_number(before['above_hull']['median'])} ->"
            f" {_number(then['above_hull']['median'])} eV/atom, median steps"
            f" {relaxed['median_steps']}"
        )


def plot_physics(result: Mapping[str, Any], path: Path) -> None:
    """Draw what each arm and each step after it gives, the start as a dotted line."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    named = {**result["arms"], **{k: v for k, v in result["after"].items() if "held-out" in v}}
    panes = {
        "too close pairs, held-out": lambda v: v["held-out"]["close"],
        "physically valid, de novo": lambda v: v["de-novo"]["physically_valid"],
        "match rate, held-out": lambda v: v["held-out"]["match_rate"],
        "RMSE of the matched": lambda v: v["held-out"]["rmse"],
        "median |ln V/V0|, held-out": lambda v: v["held-out"]["median_volume_error"],
        "CHGNet above hull, unrelaxed, eV/atom": lambda v: v["de-novo"][
            "above_hull_chgnet_unrelaxed"
        ]["median"],
    }
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.5), layout="constrained")
    for pane, (title, of) in zip(axes.flat, panes.items(), strict=True):
        for place, (name, found) in enumerate(named.items()):
            if (value := of(found)) is not None:
                colour = "tab:blue" if name in result["arms"] else "tab:orange"
                pane.plot(place, value, "o", color=colour)
                if place == 0:
                    pane.axhline(value, color="black", linewidth=0.8, linestyle=":")
        pane.set_xticks(range(len(named)), list(named), rotation=60, ha="right")
        pane.set_title(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def _share(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.1%}':>8}"


def _number(value: float | None, width: int = 8) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>{width}}"
