"""The advantages that config/paper.yaml gives the policy gradients, in the embedded world."""

import pytest

from benchmarks.advantages import REWARDS, correlations, paper_settings


@pytest.mark.parametrize("method", ["rlcm", pytest.param("ddpo", marks=pytest.mark.faults)])
def test_an_advantage_tells_an_images_own_merit(method):
    """Over four iterations. Their batches are merged, which changes no image."""
    settings = paper_settings(method, batch_size=16, accumulation_steps=1, updates_per_iteration=1)
    found = correlations(settings, 4)
    assert set(found) == set(REWARDS)
    assert min(found.values()) >= 0.8, found
