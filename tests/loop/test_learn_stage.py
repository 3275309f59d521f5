"""The learn stage and the schedule outside of it, on a real ledger with a toy that learns."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from learning_crew import BASE_EDGE_A, SALT, SULFIDE, Learner, Stubborn, crew
from report_ledger import LedgerBuilder, spec
from sqlalchemy import select

from matterloop.loop.campaign_lock import alone_in, driven
from matterloop.loop.errors import CampaignNotFoundError, LedgerError
from matterloop.loop.fine_tuning import fine_tune_campaigns
from matterloop.loop.ledger import reading, writing
from matterloop.loop.ledger.models import Campaign, CandidateRow, EventRow, ModelVersion
from matterloop.loop.open_campaign import OpenCampaign
from matterloop.loop.selection import evidence_sha256
from matterloop.loop.stages import STAGES
from matterloop.loop.stages.challenger import evidence_of_all_arms, new_measurements
from matterloop.loop.workplace import campaign_folder

FIGURES = {"energy_above_hull": (0.02, 0.005), "bulk_modulus": (30.0, 1.0)}


@pytest.fixture
def start(ledger_engine, tmp_path, monkeypatch):
    """Open a campaign with two measured crystals and a failed synthesis in cycle 1."""
    generator = Learner()
    monkeypatch.setattr("matterloop.loop.open_campaign.assemble", lambda *_: crew(generator))

    @contextmanager
    def opened(campaign_id):
        with OpenCampaign(
            ledger_engine, campaign_id, campaign_folder(tmp_path, "li-p-s-cl")
        ) as campaign:
            yield campaign

    def begin(measured=(SALT, SULFIDE), **fine_tuning):
        with writing(ledger_engine) as session:
            built = LedgerBuilder(session, spec(fine_tuning=fine_tuning))
            for rank, structure in enumerate(measured, start=1):
                built.made(structure, 1, rank, FIGURES)
            spoiled = built.candidate(1, SALT.copy().scale_lattice(40.0) or SALT)
            built.choose(spoiled, 1, 9, arm="random")
            built.synthesize(spoiled, 1, success=False)
            return built.id

    return begin, opened, generator


def models(campaign):
    with campaign.view() as session:
        return session.scalars(
            select(ModelVersion)
            .where(ModelVersion.kind == "generator", ModelVersion.name == "learner")
            .order_by(ModelVersion.version)
        ).all()


def events(campaign, kind):
    with campaign.view() as session:
        return session.scalars(select(EventRow).where(EventRow.kind == kind)).all()


def test_the_trainer_learns_how_a_crystal_was_made_and_what_it_is_worth(start):
    begin, opened, _ = start
    with opened(begin()) as campaign, campaign.view() as session:
        salt, sulfide, spoiled = evidence_of_all_arms(campaign, session)
    recipe = {"temperature": 800.0, "pressure": 1e-4, "method": "solid-state"}
    assert salt.conditions == spoiled.conditions == recipe
    assert (salt.feasible, spoiled.feasible) == (True, False)
    assert salt.merit == sulfide.merit == 0.0  # both figures are equal
    assert spoiled.merit is None


def test_a_challenger_enters_with_parent_data_and_weights(start):
    begin, opened, generator = start
    with opened(begin(every_cycles=1)) as campaign:
        report = STAGES["learn"](campaign, 1)
        base, challenger = models(campaign)
        with campaign.view() as session:
            dataset = evidence_of_all_arms(campaign, session)
            assert new_measurements(session, campaign.id) == 0
            assert campaign.cycle(session, 1).finished_at is not None
        assert report.summary == "challenger v1 trained on 3 experiments"
        assert (base.state, challenger.state) == ("champion", "challenger")
        assert challenger.parent_id == base.id
        assert challenger.metrics == {"loss": 0.5}
        assert challenger.data_snapshot == {
            "cycle": 1,
            "measurements": 4,
            "candidates": [o.item.candidate_id for o in dataset],
            "sha256": evidence_sha256(dataset),
        }
        folder = campaign.folder / challenger.config["weights_folder"]
        assert folder.parent == campaign.folder / "models"
        assert folder.name.startswith("cycle-1-")
        assert list(challenger.config["weights_files"]) == ["lessons.txt"]
        STAGES["learn"](campaign, 1)
        assert len(models(campaign)) == 2
    assert len(generator.calls) == 1


def test_a_runner_that_died_before_the_entry_trains_the_same_again(start):
    begin, opened, generator = start
    campaign_id = begin(every_cycles=1)
    with opened(campaign_id) as campaign:
        campaign.once = lambda work: None  # dies before anything is entered
        STAGES["learn"](campaign, 1)
    with opened(campaign_id) as campaign:
        STAGES["learn"](campaign, 1)
        assert len(models(campaign)) == 2
    first, second = generator.calls
    assert first == second


def test_a_refusal_is_recorded_and_the_cycle_closed(start):
    begin, opened, _ = start

    with opened(begin(measured=(), every_cycles=1)) as campaign:
        campaign.crew.trainer.train = lambda generator, dataset, **how: generator.fine_tune(
            dataset, **how
        )
        report = STAGES["learn"](campaign, 1)
        assert report.summary == "fine-tuning refused: One crystal teaches nothing."
        assert models(campaign) == [] or [m.state for m in models(campaign)] == ["champion"]
        [refusal] = events(campaign, "learn.refused")
        assert "One crystal teaches nothing" in refusal.detail["reason"]
        with campaign.view() as session:
            assert campaign.cycle(session, 1).finished_at is not None


def generated(campaign, cycle):
    campaign.begin_cycle(cycle)
    STAGES["generate"](campaign, cycle)
    with campaign.view() as session:
        [row] = session.scalars(
            select(CandidateRow).where(CandidateRow.cycle_id == campaign.cycle(session, cycle).id)
        )
        model = session.get_one(ModelVersion, row.model_version_id)
        return row.structure.volume_A3, model


@pytest.mark.parametrize(("promote", "lessons"), [("never", 0), ("always", 1)])
def test_a_promoted_champion_generates_also_after_a_restart(start, promote, lessons):
    begin, opened, _ = start
    campaign_id = begin(every_cycles=1, promote=promote)
    with opened(campaign_id) as campaign:
        STAGES["learn"](campaign, 1)
    with opened(campaign_id) as campaign:
        volume, model = generated(campaign, 2)
        assert volume == pytest.approx((BASE_EDGE_A + lessons) ** 3 / 4)
        assert model.version == f"v{lessons}"
        states = {row.version: row.state for row in models(campaign)}
        promoted = {"v0": "retired", "v1": "champion"}
        assert states == (promoted if lessons else {"v0": "champion", "v1": "challenger"})


def test_the_next_challenger_descends_from_the_champion(start):
    begin, opened, _ = start
    with opened(begin(every_cycles=1, promote="always")) as campaign:
        STAGES["learn"](campaign, 1)
        campaign.begin_cycle(2)
        STAGES["learn"](campaign, 2)
        base, first, second = models(campaign)
    assert second.parent_id == first.id
    assert [row.state for row in (base, first, second)] == ["retired", "retired", "champion"]


@pytest.mark.parametrize("damage", ["change", "lose", "add"])
def test_damaged_weights_of_the_champion_end_the_stage(start, damage):
    begin, opened, _ = start
    campaign_id = begin(every_cycles=1, promote="always")
    with opened(campaign_id) as campaign:
        STAGES["learn"](campaign, 1)
        [file] = (campaign.folder / "models").rglob("lessons.txt")
    if damage == "change":
        file.write_text("7")
    elif damage == "lose":
        file.unlink()
    else:
        (file.parent / "more.txt").write_text("1")
    name = "more.txt" if damage == "add" else "lessons.txt"
    with opened(campaign_id) as campaign:
        campaign.begin_cycle(2)
        with pytest.raises(LedgerError, match=f"missing or changed in .*{name}"):
            STAGES["generate"](campaign, 2)


def tune(engine, tmp_path, **options):
    [outcome] = fine_tune_campaigns(engine, tmp_path, **options)
    return outcome


def test_the_schedule_trains_once_for_the_same_measurements(start, ledger_engine, tmp_path):
    begin, opened, generator = start
    campaign_id = begin(every_cycles=5)
    outcome = tune(ledger_engine, tmp_path)
    assert (outcome.done, outcome.failed) == (True, False)
    assert outcome.summary == "challenger v1 trained on 3 experiments"
    assert tune(ledger_engine, tmp_path).summary == "has 0 new measurements, and wants 1"
    assert len(generator.calls) == 1
    with opened(campaign_id) as campaign:
        assert len(models(campaign)) == 2
        [told] = events(campaign, "learn")
        with campaign.view() as session:
            assert campaign.cycle(session, 1).finished_at is None  # cycles are not its business
    assert told.detail == {"summary": outcome.summary}
    assert tune(ledger_engine, tmp_path, force=True).done
    assert len(generator.calls) == 2
    with opened(campaign_id) as campaign:
        assert len(models(campaign)) == 2  # the same data give the same challenger


@pytest.mark.parametrize(
    ("fine_tuning", "summary"),
    [({}, "wants no fine-tuning"), ({"after_measurements": 9}, "has 4 new .* wants 9")],
)
def test_the_schedule_asks_the_campaign(start, ledger_engine, tmp_path, fine_tuning, summary):
    import re

    begin, _, generator = start
    begin(**fine_tuning)
    outcome = tune(ledger_engine, tmp_path)
    assert not outcome.done
    assert re.match(summary, outcome.summary)
    assert generator.calls == []
    assert tune(ledger_engine, tmp_path, name="li-p-s-cl", force=True).done


def test_a_refusal_is_not_asked_for_every_night(start, ledger_engine, tmp_path, monkeypatch):
    begin, _, generator = start
    begin(measured=(SALT,), every_cycles=1)
    monkeypatch.setattr(
        generator, "fine_tune", lambda *_, **__: Learner().fine_tune([], seed=0, folder=tmp_path)
    )
    assert tune(ledger_engine, tmp_path).summary.startswith("fine-tuning refused: One crystal")
    assert tune(ledger_engine, tmp_path).summary == "was refused with the same measurements before"


def test_a_campaign_that_is_being_run_is_left_alone(start, ledger_engine, tmp_path):
    begin, _, generator = start
    begin(every_cycles=1)
    folder = campaign_folder(tmp_path, "li-p-s-cl")
    with driven(folder, lambda: None), driven(folder, lambda: pytest.fail("runners share")):
        assert tune(ledger_engine, tmp_path).summary.startswith("is being run")
    assert generator.calls == []
    with alone_in(folder) as alone, alone_in(folder) as twice:
        assert (alone, twice) == (True, False)
    assert tune(ledger_engine, tmp_path).done


def test_one_campaign_that_fails_does_not_stop_the_others(start, ledger_engine, tmp_path):
    begin, _, _ = start
    campaign_id = begin(every_cycles=1)
    with writing(ledger_engine) as session:
        row = session.get_one(Campaign, campaign_id)
        row.hull_sha256 = "1" * 64
        other = LedgerBuilder(session, spec(name="other", fine_tuning={"every_cycles": 1}))
        for rank, structure in enumerate((SALT, SULFIDE), start=1):
            other.made(structure, 1, rank, FIGURES)
    first, second = fine_tune_campaigns(ledger_engine, tmp_path)
    assert (first.failed, first.campaign) == (True, "li-p-s-cl")
    assert "one hull for all" in first.summary
    assert second.done
    with pytest.raises(CampaignNotFoundError, match="'gold'"):
        fine_tune_campaigns(ledger_engine, tmp_path, name="gold")


def test_a_generator_that_cannot_learn_says_so(start, ledger_engine, tmp_path, monkeypatch):
    begin, _, _ = start
    begin(every_cycles=1)
    monkeypatch.setattr("matterloop.loop.open_campaign.assemble", lambda *_: crew(Stubborn()))
    assert tune(ledger_engine, tmp_path).summary.endswith("has nothing to train")


def test_the_snapshot_is_json_that_the_ledger_gives_back(start, ledger_engine):
    begin, opened, _ = start
    with opened(begin(every_cycles=1)) as campaign:
        STAGES["learn"](campaign, 1)
    with reading(ledger_engine) as session:
        row = session.scalars(select(ModelVersion).where(ModelVersion.version == "v1")).one()
        assert json.loads(json.dumps(row.data_snapshot)) == row.data_snapshot
