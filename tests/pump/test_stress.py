"""The stress of the pump, a little of it. ``FASTWS_STRESS_SECONDS`` makes it longer."""

from __future__ import annotations

import gc
import os
import random

import pytest

from fastws import core

if core.Pump.__module__ != "fastws._pump":
    pytest.skip("the compiled core has pumps", allow_module_level=True)

from fastws._segment import live_segments

from .stress import Stress, switching

SECONDS = float(os.environ.get("FASTWS_STRESS_SECONDS", "1"))


@pytest.mark.parametrize(("connections", "most_messages"), [(1, 4000), (24, 300)], ids=["one", "many"])
def test_accounts_add_up_whatever_threads_do(connections: int, most_messages: int) -> None:
    gc.collect()
    before = live_segments()
    stress = Stress(random.SystemRandom().randrange(2**32), connections, most_messages)
    with switching(1e-4):
        stress.run(SECONDS)
    assert stress.trials >= connections
    del stress
    gc.collect()
    assert live_segments() <= before
