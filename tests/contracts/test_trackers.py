"""What the trackers rely on in transformers: the names of its callbacks and their events."""

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from alignment.settings.trackers import TRACKERS
from alignment.trackers.callback import TrackerCallback


def events(callback: type[TrainerCallback]) -> set[str]:
    return {name for name in vars(callback) if name.startswith("on_")}


def test_the_names_are_those_of_transformers() -> None:
    assert TRACKERS.keys() == INTEGRATION_TO_CALLBACK.keys()


def test_every_event_that_a_callback_listens_to_is_passed_on() -> None:
    listened = set().union(*map(events, INTEGRATION_TO_CALLBACK.values()))
    assert listened <= events(TrackerCallback)
