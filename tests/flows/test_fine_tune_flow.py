"""The flow fine-tune-generator on a real Prefect server: its states, its messages, its schedule."""

import asyncio
import os
from unittest.mock import patch

import pytest
import yaml
from flows_processes import SALTS
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from sqlalchemy import select
from tiny_diffusion import tiny_generator, tiny_weights

from matterloop.flows.fine_tuning import fine_tune_generator
from matterloop.flows.server import FINE_TUNE_CRON, fine_tuning_deployment, serve
from matterloop.flows.settings import FlowSettings
from matterloop.loop.candidate import Conditions
from matterloop.loop.errors import UsageError
from matterloop.loop.ledger.engine import reading, writing
from matterloop.loop.ledger.models import (
    CandidateRow,
    Cycle,
    DecisionRow,
    JobRow,
    MeasurementRow,
    ModelVersion,
    RecipeRow,
    SampleRow,
)
from matterloop.loop.ledger.structures import put_structure
from matterloop.loop.open_campaign import enter
from matterloop.loop.spec import SearchSpace
from matterloop.loop.spec_file import parse_spec
from matterloop.loop.workplace import default_ledger, open_ledger


@pytest.fixture(scope="module")
def settings(tmp_path_factory, prefect_server):
    """A folder for campaigns, and everything set as in the process of a served flow."""
    folder = tmp_path_factory.mktemp("campaigns")
    chosen = FlowSettings(default_ledger(folder), folder, 1)
    with (
        patch.dict(os.environ),
        temporary_settings(
            {
                PREFECT_API_URL: prefect_server.api_url,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # its thread is joined for a second
                PREFECT_LOGGING_TO_API_ENABLED: False,  # its last lines come after the server
            }
        ),
    ):
        chosen.export()
        yield chosen


def enter_campaign(settings, weights, **changes):
    """Enter a campaign with the diffusion generator and return its id."""
    spec = {
        **yaml.safe_load(SALTS),
        "search_space": {"elements": ["Li", "Na", "K", "F", "Cl", "Br"], "max_atoms": 8},
        "generator": {
            "name": "diffusion",
            "settings": {
                "weights": str(weights),
                "fine_tuning": {"steps": 10, "composition_steps": 4, "replay_crystals": 8},
            },
        },
        **changes,
    }
    with open_ledger(settings.ledger) as engine:
        return enter(engine, parse_spec(yaml.safe_dump(spec)))


def enter_experiments(settings, campaign_id, weights):
    """Enter three crystals that were made, and weighed."""
    space = SearchSpace(elements=("Li", "Na", "K", "F", "Cl", "Br"), max_atoms=8)
    generator = tiny_generator(weights)
    made = generator.sample(6, Conditions(space), guidance_scale=0.0, seed=1)
    with open_ledger(settings.ledger) as engine, writing(engine) as session:

        def add(row):
            session.add(row)
            session.flush()
            return row

        ref = generator.describe()
        model = add(
            ModelVersion(
                campaign_id=campaign_id, kind="generator", name=ref.name, version=ref.version,
                sha256=ref.sha256,
            )
        )  # fmt: skip
        cycle = add(Cycle(campaign_id=campaign_id, number=1))
        for ordinal, proposal in enumerate(made):
            sha256 = put_structure(session, proposal.structure)
            candidate = add(
                CandidateRow(
                    campaign_id=campaign_id, cycle_id=cycle.id, ordinal=ordinal, state="relaxed",
                    model_version_id=model.id, seed=1, structure_sha256=sha256,
                    relaxed_sha256=sha256, origin={},
                )
            )  # fmt: skip
            add(
                DecisionRow(
                    campaign_id=campaign_id, cycle_id=cycle.id, candidate_id=candidate.id,
                    arm="main", selector="x", rank=ordinal + 1, acquisition_function="x",
                    posterior={}, seed=1, reason="x",
                )
            )  # fmt: skip
            recipe = add(
                RecipeRow(
                    candidate_id=candidate.id, cycle_id=cycle.id, planner="x",
                    method="solid-state", temperature_K=900.0, pressure_GPa=0.0, time_h=1.0,
                    atmosphere="argon", content={},
                )
            )  # fmt: skip
            sample = add(
                SampleRow(
                    candidate_id=candidate.id, recipe_id=recipe.id, success=True, phases=[],
                    yield_fraction=1.0, explanation="x", details={},
                )
            )  # fmt: skip
            job = add(
                JobRow(
                    key=f"{ordinal:064d}", campaign_id=campaign_id, cycle_id=cycle.id,
                    candidate_id=candidate.id, sample_id=sample.id, instrument="x",
                    purpose="characterize", request={}, state="succeeded", seed=1, cost=0.0,
                    duration_h=0.0,
                )
            )  # fmt: skip
            add(
                MeasurementRow(
                    campaign_id=campaign_id, candidate_id=candidate.id, sample_id=sample.id,
                    job_id=job.id, property="density", value=proposal.structure.density,
                    unit="g/cm^3", method="x", fidelity="experiment", flags=[], provenance={},
                )
            )  # fmt: skip


def test_generators_learn_what_is_new_and_only_once(settings, tmp_path):
    weights = tiny_weights(tmp_path / "parent")
    campaign_id = enter_campaign(settings, weights, fine_tuning={"every_cycles": 9})
    enter_campaign(settings, weights, name="idle")
    enter_experiments(settings, campaign_id, weights)

    state = fine_tune_generator(return_state=True)
    assert state.is_completed(), state.message
    first, second = state.message.split("; ")
    assert first.startswith("salts: challenger tiny-")
    assert second == "idle: wants no fine-tuning"
    with open_ledger(settings.ledger) as engine, reading(engine) as session:
        [challenger] = session.scalars(
            select(ModelVersion).where(ModelVersion.state == "challenger")
        )
        parent = session.get_one(ModelVersion, challenger.parent_id)
    assert (parent.name, parent.version) == ("diffusion", "tiny")
    assert len(challenger.data_snapshot["candidates"]) == 6
    assert challenger.metrics["after"]["learned"]["denoising"] > 0
    assert (settings.folder / "salts" / challenger.config["weights_folder"] / "card.json").exists()

    again = fine_tune_generator(campaign="salts", return_state=True)
    assert again.message == "salts: has 0 new measurements, and wants 1"


def test_a_campaign_that_nobody_knows_fails_the_run(settings):
    state = fine_tune_generator(campaign="unheard-of", return_state=True)
    assert state.is_failed()
    assert "holds no campaign 'unheard-of'" in state.message


def test_the_form_has_plain_fields_with_a_title():
    fields = fine_tune_generator.parameters.model_dump()["properties"]
    assert [(f["title"], f["type"]) for f in fields.values()] == [
        ("Campaign", "string"),
        ("Force", "boolean"),
    ]
    assert all(field["description"].endswith(".") for field in fields.values())


@pytest.mark.parametrize(("cron", "schedules"), [(FINE_TUNE_CRON, ["0 3 * * *"]), ("", [])])
def test_the_deployment_has_the_schedule_that_was_asked_for(settings, cron, schedules):
    async def apply():
        return await (await fine_tuning_deployment(cron)).aapply()

    deployment_id = asyncio.run(apply())
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment(deployment_id)
    assert deployment.name == "fine-tune-generator"
    assert [(each.schedule.cron, each.active) for each in deployment.schedules] == [
        (cron, True) for cron in schedules
    ]
    assert deployment.parameters == {}


@pytest.mark.parametrize("wrong", ["nightly", "61 3 * * *", "a b c d e"])
def test_a_wrong_cron_expression_is_refused(settings, wrong):
    with pytest.raises(UsageError, match="is no cron expression"):
        asyncio.run(fine_tuning_deployment(wrong))


def test_serving_refuses_a_wrong_cron_expression_before_it_starts(tmp_path):
    with pytest.raises(UsageError, match="'nightly' is no cron expression"):
        serve(
            ledger=default_ledger(tmp_path), folder=tmp_path, workers=1, host="127.0.0.1", port=1,
            announce=print, fine_tune_cron="nightly",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
