"""``StopSignals``: what a launcher repeats is one request, and a later signal acts as usual."""

import signal

import pytest

from voice_cloning.training import stop_signals
from voice_cloning.training.stop_signals import StopSignals


@pytest.mark.parametrize(("first", "repeated"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_signal_that_torchrun_passes_on_is_the_same_request(first: signal.Signals, repeated: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals() as stop:
        assert stop.received is None
        signal.raise_signal(first)
        signal.raise_signal(repeated)
        assert stop.received == first
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_later_signal_acts_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signals, "SECONDS_OF_ONE_STOP", 0.0)
    # A shell starts programs in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before)
