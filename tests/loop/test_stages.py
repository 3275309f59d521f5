"""Stages under several runners, bad plugins, tight budgets; a real ledger and a small crew."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from report_ledger import LedgerBuilder, antifluorite, rock_salt, spec
from sqlalchemy import select

from matterloop.agents.planner.solid_state import SolidStatePlanner
from matterloop.loop.candidate import Candidate, ModelRef, Verdict
from matterloop.loop.cli.status import print_campaign
from matterloop.loop.errors import (
    InstrumentFaultError,
    LedgerError,
    PluginFailedError,
    UsageError,
)
from matterloop.loop.experiment import CharacterizationResult, Measurement
from matterloop.loop.ledger import reading, writing
from matterloop.loop.ledger.columns import utc_now
from matterloop.loop.ledger.instruments import set_aside
from matterloop.loop.ledger.models import (
    CandidateRow,
    Cycle,
    DecisionRow,
    EventRow,
    RecipeRow,
    ReviewRow,
    VerdictRow,
)
from matterloop.loop.open_campaign import STAGE_ORDER, OpenCampaign
from matterloop.loop.ranking import best_candidates
from matterloop.loop.selection import Choice, Selection
from matterloop.loop.stages import STAGES
from matterloop.loop.stages.evidence import observations, pool
from matterloop.loop.stages.experiment import store
from matterloop.loop.stages.plan import plan
from matterloop.loop.stages.screen import enter_verdicts

SALT = rock_salt("Li", "Cl", 5.1)
SULFIDE = antifluorite("Li", "S", 5.7)


@pytest.fixture
def campaign(ledger_engine, tmp_path, monkeypatch):
    """An open campaign without candidates; its crew is a planner."""
    crew = SimpleNamespace(
        workshop=SimpleNamespace(hull=SimpleNamespace(sha256="0" * 64)),
        planner=SolidStatePlanner(SolidStatePlanner.Settings()),
        policy=SimpleNamespace(review=lambda choice: ("perhaps", "who knows")),
        close=lambda: None,
    )
    monkeypatch.setattr("matterloop.loop.open_campaign.assemble", lambda *_: crew)
    with writing(ledger_engine) as session:
        campaign_id = LedgerBuilder(session, spec()).id
    with OpenCampaign(ledger_engine, campaign_id, tmp_path) as opened:
        yield opened


def builder(campaign: OpenCampaign, session) -> LedgerBuilder:
    """Return a builder that adds to the open campaign."""
    built = LedgerBuilder.__new__(LedgerBuilder)
    built.session, built.spec, built.cycles, built.model = session, campaign.spec, {}, None
    built.campaign = SimpleNamespace(id=campaign.id)
    return built


def test_the_order_of_stages_is_written_once_more_and_agrees():
    assert ("started", *STAGES) == STAGE_ORDER


def test_a_slow_runner_does_not_set_a_cycle_back(campaign):
    campaign.begin_cycle(1)
    for stage in ("generate", "screen", "generate", "screen", "relax", "screen"):
        with campaign.transaction() as session:
            campaign.stage_done(session, 1, stage)
    with campaign.view() as session:
        assert campaign.cycle(session, 1).stage == "relax"
        moves = session.execute(
            select(EventRow.before, EventRow.after)
            .where(EventRow.kind == "cycle.stage")
            .order_by(EventRow.id)
        ).all()
    assert [tuple(move) for move in moves] == [
        ("started", "generate"),
        ("generate", "screen"),
        ("screen", "relax"),
    ]


def test_rows_of_a_faster_runner_are_no_error_and_impossible_rows_are_one(campaign):
    assert campaign.once(lambda session: session.add(Cycle(campaign_id=campaign.id, number=1)))
    assert not campaign.once(lambda session: session.add(Cycle(campaign_id=campaign.id, number=1)))
    with pytest.raises(LedgerError, match="refuses what was to be entered"):
        campaign.once(lambda session: session.add(Cycle(campaign_id=campaign.id, number=0)))


def test_a_critic_that_answers_twice_is_told_so(campaign):
    with campaign.transaction() as session, pytest.raises(UsageError, match="under valid on one"):
        enter_verdicts(session, "any", [Verdict("valid", True, "a"), Verdict("valid", False, "b")])


def test_a_policy_that_answers_nonsense_is_told_so(campaign):
    with campaign.transaction() as session:
        built = builder(campaign, session)
        built.choose(built.candidate(1, SALT), 1, 1, verdict=None)
    with pytest.raises(UsageError, match="answered 'perhaps'"):
        STAGES["approve"](campaign, 1)
    with campaign.view() as session:
        assert session.scalars(select(ReviewRow)).all() == []


def test_what_was_made_is_not_planned_again_and_what_the_budget_left_out_is(campaign):
    with campaign.transaction() as session:
        built = builder(campaign, session)
        made, left_out = built.candidate(1, SALT), built.candidate(1, SULFIDE)
        for rank, row in enumerate((made, left_out), start=1):
            built.choose(row, 1, rank)
            built.choose(row, 2, rank, arm="random")
        built.synthesize(made, 1)
        built.recipe(left_out, 1)
    plan(campaign, 2)
    plan(campaign, 2)
    with campaign.view() as session:
        cycle = campaign.cycle(session, 2)
        planned = session.scalars(
            select(RecipeRow.candidate_id).where(RecipeRow.cycle_id == cycle.id)
        ).all()
    assert planned == [left_out.id]


def test_of_two_figures_the_more_certain_counts_whichever_came_first(campaign):
    with campaign.transaction() as session:
        built = builder(campaign, session)
        row = built.made(
            SALT, 1, 1, {"bulk_modulus": (30.0, 1.0), "energy_above_hull": (0.02, 0.005)}
        )
        sample = built.synthesize(built.candidate(1, SULFIDE), 1, success=False)
        assert sample.success is False
        for number, value in enumerate(((99.0, 8.0), (77.0, None))):
            job = built.job(row, 1, purpose="characterize", instrument=f"press-{number}")
            built.measure(row, "bulk_modulus", value, job=job)
    with reading(campaign.engine) as session:
        (seen,) = observations(session, campaign.id, "main")
        (best,) = best_candidates(session, campaign.id, campaign.spec, 5)
        assert observations(session, campaign.id, "random") == []
        assert [item.candidate_id for item in pool(session, campaign.id, "main")] != []
    assert seen.values == {"bulk_modulus": 30.0, "energy_above_hull": 0.02}
    assert seen.uncertainties == {"bulk_modulus": 1.0, "energy_above_hull": 0.005}
    assert best.values == seen.values


def test_the_pool_is_read_with_few_queries(campaign):
    from sqlalchemy import event

    with campaign.transaction() as session:
        built = builder(campaign, session)
        for n in range(6):
            built.candidate(1, rock_salt("Li", "Cl", 5 + n / 10), screening={"density": 2.0 + n})
    asked = []
    with reading(campaign.engine) as session:
        event.listen(campaign.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
        items = pool(session, campaign.id, "main")
    assert [item.screening["density"] for item in items] == [2.0 + n for n in range(6)]
    assert sum("SELECT" in statement for statement in asked) == 2


def generator(*crystals):
    """Return a generator that proposes these crystals."""
    return SimpleNamespace(
        describe=lambda: ModelRef("generator", "fixed", "1", "0" * 64),
        sample=lambda n, conditions, **_: [Candidate(c, {}, 0) for c in crystals],
    )


def test_a_generator_that_finds_nothing_at_all_ends_the_campaign(campaign):
    campaign.begin_cycle(1)
    campaign.crew.generator = generator()
    with pytest.raises(UsageError, match="finds no crystal in the search space"):
        STAGES["generate"](campaign, 1)


def test_the_search_space_binds_every_generator(campaign):
    campaign.begin_cycle(1)
    campaign.crew.generator = generator(SALT, rock_salt("Mg", "O", 4.2))
    campaign.crew.critic = SimpleNamespace(
        judge=lambda crystals, known: [[Verdict("valid", True, "looks fine")] for _ in crystals]
    )
    STAGES["generate"](campaign, 1)
    assert STAGES["screen"](campaign, 1).counts == {"passed": 1, "refused": 1}
    with campaign.view() as session:
        rows = session.execute(
            select(CandidateRow.state, VerdictRow.reason)
            .join(VerdictRow)
            .where(VerdictRow.check_name == "inside")
            .order_by(CandidateRow.ordinal)
        ).all()
    assert [state for state, _ in rows] == ["accepted", "refused"]
    assert "holds Mg, O, not allowed" in rows[1].reason


def test_a_critic_that_leaves_crystals_out_is_told_so(campaign):
    campaign.begin_cycle(1)
    campaign.crew.generator = generator(SALT)
    campaign.crew.critic = SimpleNamespace(judge=lambda crystals, known: [])
    STAGES["generate"](campaign, 1)
    with pytest.raises(PluginFailedError, match="judged 0 crystals where 1 were asked for"):
        STAGES["screen"](campaign, 1)


def chosen(*ranks):
    """Return the answer of a selector that gives these ranks to the pool, in its order."""
    return lambda pool: Selection(
        tuple(
            Choice(item.candidate_id, rank, None, {}, "")
            for item, rank in zip(pool, ranks, strict=True)
        ),
        "any",
        None,
    )


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda pool: None, "AttributeError"),
        (lambda pool: 1 / 0, "ZeroDivisionError"),
        (chosen(1, 1), r"the ranks \[1, 1\]"),
        (chosen(2, None), r"the ranks \[2\]"),
        (lambda pool: chosen(1, 2)((pool[0], pool[0])), "names a candidate twice"),
        (lambda pool: chosen(1)([SimpleNamespace(candidate_id="x")]), "names x, not in the pool"),
    ],
)
def test_a_selector_that_breaks_its_promise_is_told_so(campaign, answer, complaint):
    with campaign.transaction() as session:
        built = builder(campaign, session)
        built.candidate(1, SALT)
        built.candidate(1, SULFIDE)
    campaign.crew.selectors = {"main": SimpleNamespace(select=lambda pool, _, **__: answer(pool))}
    with pytest.raises(PluginFailedError, match=complaint) as caught:
        STAGES["select"](campaign, 1)
    assert "'bayesian' of group 'matterloop.selectors'" in str(caught.value)
    with campaign.view() as session:
        assert session.scalars(select(DecisionRow)).all() == []


def test_a_planner_that_raises_is_named_and_nothing_is_planned(campaign):
    with campaign.transaction() as session:
        built = builder(campaign, session)
        built.choose(built.candidate(1, SALT), 1, 1)
    campaign.crew.planner = SimpleNamespace(plan=lambda structure, spec: {}["flux"])
    with pytest.raises(PluginFailedError, match=r"solid-state.*KeyError: 'flux'"):
        plan(campaign, 1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ([{}, {"value": 2.1}], "gave density by balance twice"),
        ([{"unit": "kg/m^3"}], "gave density in 'kg/m\\^3'"),
        ([{"property": "colour"}], "a property of the ledger"),
    ],
)
def test_figures_that_the_ledger_does_not_take_are_a_fault_of_the_instrument(
    campaign, changes, complaint
):
    figure = Measurement(
        property="density", value=2.0, unit="g/cm^3", method="balance", fidelity="experiment"
    )
    result = CharacterizationResult(
        measurements=tuple(figure.model_copy(update=change) for change in changes)
    )
    with campaign.transaction() as session:
        built = builder(campaign, session)
        job = built.job(built.candidate(1, SALT), 1, purpose="characterize", instrument="balance")
        with pytest.raises(InstrumentFaultError, match=complaint):
            store(session, job, result)
        session.rollback()


def test_status_names_an_instrument_that_is_set_aside(campaign, capsys):
    with campaign.transaction() as session:
        set_aside(session, campaign.id, "furnace", "the door is open", "driver", utc_now())
    print_campaign(campaign.engine, campaign.id)
    assert "furnace is set aside: the door is open" in capsys.readouterr().out


def test_status_tells_nothing_measured_from_nothing_good(campaign, capsys):
    print_campaign(campaign.engine, campaign.id)
    assert "no candidate was made and measured yet" in capsys.readouterr().out
    with campaign.transaction() as session:
        unstable = {"bulk_modulus": (30.0, 1.0), "energy_above_hull": (9.0, 0.005)}
        builder(campaign, session).made(SALT, 1, 1, unstable)
    print_campaign(campaign.engine, campaign.id)
    assert "none of the 1 measured candidates has all wanted" in capsys.readouterr().out
