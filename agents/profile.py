"""The profile stage: `events` -> `profiles`, `outcomes`."""

from agents.app import run_worker
from agents.runtime import StageRunner
from pipeline.core.outcome import MICROS, OutcomeRules
from pipeline.core.profile import ProfileRules
from pipeline.core.profile_stage import Profiles, ProfilesRules
from pipeline.core.stage import Applied
from pipeline.edge import metrics
from pipeline.edge.local_store import stores
from pipeline.settings import Settings


def rules(settings: Settings) -> ProfilesRules:
    """Return the stage's rules."""
    return ProfilesRules(
        ProfileRules(
            gap_ms=settings.session_gap_ms,
            interest_half_life_ms=settings.interest_half_life_ms,
            interests_max=settings.interests_max,
        ),
        OutcomeRules(
            click_window_ms=settings.click_window_ms,
            conversion_window_ms=settings.conversion_window_ms,
            open_decisions_max=settings.open_decisions_max,
            reward_click_micros=round(settings.reward_click * MICROS),
            reward_conversion_micros=round(settings.reward_conversion * MICROS),
        ),
    )


def count(applied: Applied) -> None:
    """Tell the metrics what a block led to."""
    for (what, _), many in applied.counts.items():
        if what == "unknown_decision":
            metrics.UNKNOWN_DECISIONS.inc(many)
        elif what == "bad_decision":
            metrics.BAD_DECISIONS.inc(many)


def run(settings: Settings) -> int:
    """Run the stage until told to stop."""
    made = rules(settings)
    runner = StageRunner(Profiles, lambda view: Profiles(view, made), settings, count, stores(settings))
    return run_worker(runner.app, settings)
