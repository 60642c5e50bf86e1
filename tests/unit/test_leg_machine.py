import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.leg.chance import Chance
from tests.unit.leg.program import PROGRAMS
from tests.unit.leg.world import KINDS, Setting, World

SETTINGS = st.builds(
    Setting,
    program=st.sampled_from(list(PROGRAMS)),
    workers=st.integers(2, 3),
    retry=st.sampled_from(["nak", "pause", "step"]),
    limit=st.sampled_from([9, 2, 1]),
    faults=st.integers(0, 5),
    kinds=st.frozensets(st.sampled_from(sorted(KINDS)), min_size=1),
    cancel=st.booleans(),
    deadline=st.booleans(),
)


def test_whatever_happens_each_turn_has_one_carrier_and_each_task_ends(
    pytestconfig: pytest.Config,
) -> None:
    @settings(
        max_examples=20_000 if pytestconfig.getoption("--bars") else 2_000,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
    )
    @given(SETTINGS, st.binary(min_size=100, max_size=100))
    def holds(setting: Setting, choices: bytes) -> None:
        chance = Chance(World(setting))
        chance.walk(choices)
        chance.finish()

    holds()
