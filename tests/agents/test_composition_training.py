"""The composition sampler learns, is guided by labels, and is the same for the same seed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
import torch

from matterloop.agents.generator.diffusion.composition import (
    ANYTHING,
    CompositionConstraint,
    CompositionExample,
    CompositionNetwork,
    CompositionProgress,
    CompositionSettings,
    CompositionTraining,
    SamplingOptions,
    draw_compositions,
    is_plausible,
    load_network,
    log_likelihood,
    sample_compositions,
    save_network,
    train_composition,
)
from matterloop.loop.errors import UsageError

OX, SU, FE, CU, ZN, AU = 8, 16, 26, 29, 30, 79
SETTINGS = CompositionSettings(width=32, depth=1, max_atoms=8, dropout=0.05)
TRAINING = CompositionTraining(
    steps=250, batch_size=40, warmup=10, learning_rate=5e-3, evaluate_every=50, ema_decay=0.97
)


def _examples() -> list[CompositionExample]:
    """Oxides and sulphides with a gap, alloys without."""
    ionic = [
        CompositionExample((metal,) * units + (anion,) * units, {"band_gap": 4.0})
        for metal in (FE, CU, ZN)
        for anion in (OX, SU)
        for units in (1, 2, 4)
    ]
    alloys = [
        CompositionExample((CU,) * a + (AU,) * b, {"band_gap": 0.0})
        for a, b in ((1, 1), (3, 1), (1, 3), (2, 2), (6, 2), (2, 6), (1, 5), (5, 1), (4, 4))
    ]
    return ionic + alloys * 2


@pytest.fixture(scope="module")
def network() -> CompositionNetwork:
    return train_composition(_examples(), SETTINGS, TRAINING, seed=1)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _share(compositions: list[tuple[int, ...]], *elements: int) -> float:
    return sum(bool(set(elements) & set(c)) for c in compositions) / len(compositions)


def test_it_learns_what_it_was_shown(network: CompositionNetwork) -> None:
    shown = {tuple(sorted(example.numbers)) for example in _examples()}
    drawn = sample_compositions(network, 300, generator=_generator())
    assert sum(composition in shown for composition in drawn) > 150
    assert set().union(*drawn) <= {OX, SU, FE, CU, ZN, AU}


def test_guidance_goes_where_the_label_points_and_further_with_scale(
    network: CompositionNetwork,
) -> None:
    def anions(labels: dict[str, float | str], scale: float) -> float:
        drawn = sample_compositions(
            network,
            400,
            labels=labels,
            generator=_generator(),
            options=SamplingOptions(guidance_scale=scale),
        )
        return _share(drawn, OX, SU)

    free = anions({}, 1)
    assert 0.3 < free < 0.7
    assert anions({"band_gap": 4.0}, 0) == free
    asked, pressed = anions({"band_gap": 4.0}, 0.5), anions({"band_gap": 4.0}, 1.5)
    assert free + 0.1 < asked < pressed
    assert anions({"band_gap": 0.0}, 1.0) < free - 0.2


def test_likelihood_knows_labels(network: CompositionNetwork) -> None:
    zinc_oxide, alloy = [ZN, OX], [CU, AU]
    wide = log_likelihood(network, [zinc_oxide, alloy], {"band_gap": 4.0})
    metal = log_likelihood(network, [zinc_oxide, alloy], {"band_gap": 0.0})
    assert wide[0] > metal[0] + 1
    assert metal[1] > wide[1] + 1


def test_labels_that_training_never_saw_are_passed_over(network: CompositionNetwork) -> None:
    hot = sample_compositions(
        network, 20, labels={"temperature": 900.0, "method": "cvd"}, generator=_generator()
    )
    assert hot == sample_compositions(network, 20, generator=_generator())


def test_probabilities_of_all_compositions_sum_to_one() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        small = CompositionNetwork(CompositionSettings(width=16, depth=1, max_atoms=2))
    everything = [
        composition
        for n in (1, 2)
        for composition in combinations_with_replacement(range(1, 101), n)
    ]
    total = log_likelihood(small, everything).double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-4)


def test_constrained_draws_keep_the_proportions_of_the_network(
    network: CompositionNetwork,
) -> None:
    """Masks alone overrate what the first moves favoured; importance weights repair it."""
    constraint = CompositionConstraint.system("Cu", "Au", "O", exact=False)
    possible = [
        composition
        for n in range(1, 9)
        for composition in combinations_with_replacement((OX, CU, AU), n)
    ]
    exact = log_likelihood(network, possible).double().softmax(0)

    def distance(oversampling: int) -> float:
        drawn = Counter(
            sample_compositions(
                network,
                3000,
                constraint,
                generator=_generator(2),
                options=SamplingOptions(oversampling=oversampling),
            )
        )
        shares = torch.tensor([drawn[c] / 3000 for c in possible], dtype=torch.float64)
        return float((shares - exact).abs().sum() / 2)

    assert distance(16) < 0.08
    assert distance(16) < distance(1)


def test_plausible_only_redraws_and_counts(network: CompositionNetwork) -> None:
    loose = SamplingOptions(temperature=3.0)
    free = draw_compositions(network, 60, generator=_generator(), options=loose)
    assert free.drawn == 60
    assert not all(map(is_plausible, free.compositions))
    strict = draw_compositions(
        network, 60, generator=_generator(), options=replace(loose, plausible_only=True)
    )
    assert len(strict.compositions) == 60
    assert strict.drawn > 60
    assert all(map(is_plausible, strict.compositions))
    # What was kept of the first round is what the loose draw holds of it.
    kept = [c for c in free.compositions if is_plausible(c)]
    assert strict.compositions[: len(kept)] == kept


def test_plausibility_that_cannot_be_had_is_told(network: CompositionNetwork) -> None:
    with pytest.raises(UsageError, match="plausible"):
        draw_compositions(
            network,
            2,
            CompositionConstraint.system("Zn", "O", exact=True).with_atoms(5),
            generator=_generator(),
            options=SamplingOptions(plausible_only=True),
        )


def test_low_temperature_repeats_the_likely(network: CompositionNetwork) -> None:
    cold = sample_compositions(
        network, 200, generator=_generator(), options=SamplingOptions(temperature=0.3)
    )
    warm = sample_compositions(network, 200, generator=_generator())
    assert len(set(cold)) < len(set(warm))


def test_the_same_seed_gives_the_same_whatever_else_is_random() -> None:
    training = TRAINING.model_copy(update={"steps": 12})

    def weights_and_draws() -> tuple[dict[str, torch.Tensor], list[tuple[int, ...]]]:
        trained = train_composition(_examples(), SETTINGS, training, seed=4)
        return trained.state_dict(), sample_compositions(trained, 30, generator=_generator(9))

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights_and_draws()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = weights_and_draws()
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert first[1] == second[1]
    other = train_composition(_examples(), SETTINGS, training, seed=5)
    assert not torch.equal(other.element.weight, first[0]["element.weight"])


def test_training_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"steps": 30, "evaluate_every": 10})
    examples = _examples()
    straight = train_composition(examples[3:], SETTINGS, training, seed=1, validation=examples[:3])

    class PowerCut(Exception):  # noqa: N818
        pass

    def cut(progress: CompositionProgress) -> None:
        if progress.step == 20:
            raise PowerCut

    file = tmp_path / "composition.safetensors"
    steps: list[int] = []
    with pytest.raises(PowerCut):
        train_composition(
            examples[3:],
            SETTINGS,
            training,
            seed=1,
            validation=examples[:3],
            checkpoint=file,
            callback=cut,
        )
    resumed = train_composition(
        examples[3:],
        SETTINGS,
        training,
        seed=1,
        validation=examples[:3],
        checkpoint=file,
        callback=lambda progress: steps.append(progress.step),
    )
    assert steps == [30]
    theirs = resumed.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in straight.state_dict().items())
    with pytest.raises(UsageError, match="another training"):
        train_composition(examples[3:], SETTINGS, training, seed=2, checkpoint=file)
    file.write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="no checkpoint"):
        train_composition(examples[3:], SETTINGS, training, seed=1, checkpoint=file)


def test_early_stopping_returns_the_best_weights() -> None:
    """With three examples to learn by heart, held-out ones soon get worse."""
    examples = _examples()
    told: list[CompositionProgress] = []
    network = train_composition(
        examples[:3],
        SETTINGS,
        TRAINING.model_copy(update={"steps": 2000, "evaluate_every": 10, "patience": 3}),
        seed=1,
        validation=examples[3:],
        callback=told.append,
    )
    assert told[-1].step < 2000
    best = min(told, key=lambda progress: progress.validation_nll)
    assert told[-1].best_step == best.step < told[-1].step
    free = -log_likelihood(network, [e.numbers for e in examples[3:]]).mean()
    assert float(free) == pytest.approx(best.unconditional_nll, rel=1e-4)


def test_weights_of_examples_count() -> None:
    examples = _examples()
    rich = [e._replace(weight=50.0) if OX in e.numbers else e for e in examples]
    training = TRAINING.model_copy(update={"steps": 150})
    plain = train_composition(examples, SETTINGS, training, seed=1)
    tilted = train_composition(rich, SETTINGS, training, seed=1)
    few = _share(sample_compositions(plain, 200, generator=_generator()), OX)
    many = _share(sample_compositions(tilted, 200, generator=_generator()), OX)
    assert many > few + 0.3


def test_a_weight_counts_the_same_whatever_else_is_in_the_batch() -> None:
    """While nothing is learned, the loss of an epoch does not depend on how it is divided."""
    examples = [e._replace(weight=9.0 if OX in e.numbers else 0.5) for e in _examples()]
    losses = []
    for size in (1, len(examples)):
        steps = len(examples) // size
        frozen = TRAINING.model_copy(
            update={"batch_size": size, "steps": steps, "evaluate_every": steps,
                    "learning_rate": 1e-12, "keep_any": 0.0}
        )  # fmt: skip
        train_composition(
            examples,
            SETTINGS.model_copy(update={"dropout": 0.0}),
            frozen,
            seed=1,
            callback=lambda progress: losses.append(progress.training_nll),
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_fine_tuning_starts_from_a_network_and_leaves_it_alone(
    network: CompositionNetwork,
) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sulphides = [e for e in _examples() if SU in e.numbers]
    tuned = train_composition(
        sulphides, training=TRAINING.model_copy(update={"steps": 40}), seed=2, start=network
    )
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert _share(sample_compositions(tuned, 200, generator=_generator()), SU) > 0.6
    assert bool(tuned.seen_elements[AU])  # what it knew it still may draw


def test_files_give_the_network_back(network: CompositionNetwork, tmp_path: Path) -> None:
    file = tmp_path / "weights" / "composition.safetensors"
    save_network(network, file)
    assert json.loads(file.with_suffix(".json").read_text())["width"] == 32
    again = load_network(file)
    assert sample_compositions(again, 40, generator=_generator()) == sample_compositions(
        network, 40, generator=_generator()
    )
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be read"):
        load_network(file)
    with pytest.raises(UsageError, match="cannot be read"):
        load_network(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "0 different compositions"),
        ([CompositionExample((ZN, OX), {}), CompositionExample((OX, ZN), {})], "1 different"),
        ([CompositionExample((ZN,) * 9, {}), CompositionExample((OX,), {})], "9 atoms"),
        ([CompositionExample((104,), {}), CompositionExample((OX,), {})], "atomic numbers 104"),
        ([CompositionExample((ZN,), {}, math.nan), CompositionExample((OX,), {})], "weights"),
        ([CompositionExample((ZN,), {}, -1.0), CompositionExample((OX,), {})], "weights"),
        ([CompositionExample((ZN,), {}, 0.0), CompositionExample((OX,), {}, 0.0)], "weights"),
        ([CompositionExample((ZN,), {"colour": 1.0}), CompositionExample((OX,), {})], "colour"),
    ],
)
def test_training_sets_that_make_no_sense_are_refused(
    examples: list[CompositionExample], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_composition(examples, SETTINGS, TRAINING, seed=1)


def test_draws_that_make_no_sense_are_refused(network: CompositionNetwork) -> None:
    for options in ({"guidance_scale": -1.0}, {"guidance_scale": math.nan}):
        with pytest.raises(UsageError, match="guidance scale"):
            sample_compositions(
                network, 1, generator=_generator(), options=SamplingOptions(**options)
            )
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="temperature"):
            SamplingOptions(temperature=temperature)
    with pytest.raises(UsageError, match="oversampling"):
        SamplingOptions(oversampling=0)
    with pytest.raises(UsageError, match="-1 compositions"):
        sample_compositions(network, -1, generator=_generator())
    with pytest.raises(UsageError, match="never trained"):
        sample_compositions(CompositionNetwork(SETTINGS), 1, generator=_generator())
    with pytest.raises(UsageError, match="9 atoms"):
        log_likelihood(network, [[ZN] * 9])
    assert sample_compositions(network, 0, ANYTHING, generator=_generator()) == []


def test_importing_the_sampler_imports_no_materials_library() -> None:
    code = (
        "import sys; import matterloop.agents.generator.diffusion.composition;"
        "print([m for m in ('pymatgen.core', 'smact', 'scipy', 'safetensors') if m in sys.modules])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert told.stdout.strip() == "[]"
