"""Table and plot of `generator_guidance.py`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNITS = {
    "band_gap": "eV",
    "density": "g/cm^3",
    "energy_above_hull": "eV/atom",
    "crystal_system": "share",
}


def print_guidance(result: Mapping[str, Any]) -> None:
    """Print one table per series, and the regressors' errors."""
    judges = ("own_head", "independent", "exact", "chgnet_unrelaxed")
    for name in dict.fromkeys(point["series"] for point in result["points"]):
        print(f"\n{name}")
        print(f"{'scale':>6} {'judge':<18}{'mean':>8}{'median':>8}{'|dev|':>8}   "
              "valid  physical  composition  unique  first try")  # fmt: skip
        for point in result["points"]:
            if point["series"] != name:
                continue
            cost = (f"{point['structurally_valid']:>8.1%}{point['physically_valid']:>10.1%}"
                    f"{point['compositionally_valid']:>13.1%}{point['unique']:>8.1%}"
                    f"{point['kept_at_first_try']:>11.1%}")  # fmt: skip
            if "found" in point:
                print(f"{point['scale']:>6g} {'spglib':<18}{point['found']:>8.1%}{'':>16}{cost}")
            for judge in judges:
                if point.get(judge, {}).get("n"):
                    found = point[judge]
                    print(
                        f"{point['scale']:>6g} {judge:<18}{found['mean']:>8.3f}"
                        f"{found['median']:>8.3f}{found['mean_absolute_deviation']:>8.3f}{cost}"
                    )
                    cost = ""
    for label, error in result["regressors"].items():
        if "test_mae" in error:
            print(
                f"\nindependent {label}: MAE {error['test_mae']:.3f} {error['unit']} on"
                f" {error['test']} held-out crystals (guessing the mean: "
                f"{error['mean_guess_mae']:.3f}), R2 {error['test_r2']:.2f}"
            )


def plot_guidance(result: Mapping[str, Any], path: Path) -> None:
    """Draw median and quartiles against the scale, one pane per series, and what guidance costs."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(point["series"] for point in result["points"]))
    columns = min(4, len(names) + 1)
    rows = -(-(len(names) + 1) // columns)
    figure, panes = pyplot.subplots(
        rows, columns, figsize=(3.4 * columns, 3 * rows), layout="constrained", squeeze=False
    )
    for pane, name in zip(panes.flat, names, strict=False):
        points = [point for point in result["points"] if point["series"] == name]
        at = [point["scale"] for point in points]
        for judge, style in (("own_head", "o--"), ("independent", "s-"), ("exact", "o-"),
                             ("chgnet_unrelaxed", "^-")):  # fmt: skip
            known = [(p["scale"], p[judge]) for p in points if p.get(judge, {}).get("n")]
            if known:
                x = [scale for scale, _ in known]
                [line] = pane.plot(
                    x, [found["median"] for _, found in known], style, label=judge.replace("_", " ")
                )
                pane.fill_between(x, *zip(*(found["quartiles"] for _, found in known), strict=True),
                                  alpha=0.15, color=line.get_color())  # fmt: skip
        if "found" in points[0]:
            pane.plot(at, [point["found"] for point in points], "o-", label="found by spglib")
            pane.set_ylim(0, 1)
        else:
            pane.axhline(points[0]["target"], color="black", linewidth=0.8, linestyle=":")
            pane.set_ylabel(f"median and quartiles, {UNITS.get(points[0]['label'], '')}")
        pane.set_title(name, fontsize="medium")
        pane.set_xlabel("guidance scale")
        pane.legend(frameon=False, fontsize="small")
    cost = panes.flat[len(names)]
    for what in ("physically_valid", "compositionally_valid", "unique", "kept_at_first_try"):
        means = [
            statistics.fmean(
                p[what] for p in result["points"] if p["scale"] == scale and not p["formula"]
            )
            for scale in result["scales"]
            if any(p["scale"] == scale and not p["formula"] for p in result["points"])
        ]
        if means:
            cost.plot(result["scales"], means, "o-", label=what.replace("_", " "))
    cost.set_title("cost, mean of free formulas", fontsize="medium")
    cost.set_ylim(0, 1.02)
    cost.set_xlabel("guidance scale")
    cost.legend(frameon=False, fontsize="small")
    for pane in list(panes.flat)[len(names) + 1 :]:
        pane.set_visible(False)
    figure.savefig(path, dpi=150)
