"""What the report reads from the ledger, against counts done by hand."""

import report_ledger as ledger
from sqlalchemy.orm import Session

from matterloop.loop.report.query import read_campaign

YES, NO = (True, "yes"), (False, "no")


def campaign(session, novel=True):
    """Six candidates; the first alone is valid, unique, novel and stable."""
    built = ledger.LedgerBuilder(session, ledger.spec())
    verdicts = [
        {"valid": YES, "unique": YES, "novel": YES, "relaxed-valid": YES, "relaxed-unique": YES},
        {"valid": YES, "unique": YES, "novel": YES, "relaxed-unique": NO},
        {"valid": YES, "unique": YES, "novel": NO},
        {"valid": YES, "unique": YES, "novel": YES},
        {"valid": YES, "unique": NO, "novel": YES},
        {"valid": NO},
    ]
    energies = [0.05, 0.05, 0.05, 0.25, None, None]
    for place, (given, energy) in enumerate(zip(verdicts, energies, strict=True)):
        built.candidate(
            1,
            ledger.rock_salt("Li", "Cl", 5.0 + place / 10),
            state="refused" if energy is None else "relaxed",
            verdicts={k: v for k, v in given.items() if novel or k != "novel"},
            screening={} if energy is None else {"energy_above_hull": energy},
        )
    return read_campaign(session, built.id)


def test_sun_counts_among_all_candidates_the_refused_too():
    engine = ledger.memory_engine()
    with Session(engine) as session:
        record = campaign(session)
    engine.dispose()
    assert record.sun is not None
    assert str(record.sun.sun[0.1]) == "1/6 (16.7%)"
    assert str(record.sun.stable[0.1]) == "3/6 (50.0%)"
    assert record.sun.valid.count == 5
    assert record.passed["unique"] == (4, 5)


def test_without_known_crystals_nothing_is_called_novel():
    engine = ledger.memory_engine()
    with Session(engine) as session:
        assert campaign(session, novel=False).sun is None
    engine.dispose()
