"""Seeds: one that would not do is refused wherever one is taken."""

import pytest
import torch

from deepviz import catalog
from deepviz.probe.randomise import randomised
from deepviz.probe.seeds import generator_of

SEEDED = [
    cls
    for cls in (*catalog.METHODS.values(), *catalog.METRICS.values())
    if "seed" in {option.name for option in catalog.options(cls)}
]


def test_there_are_some():
    assert len(SEEDED) >= 8


@pytest.mark.parametrize("cls", SEEDED, ids=lambda cls: cls.__name__)
def test_seeds_that_would_not_do(cls):
    assert cls(seed=2**32 - 1).seed == 2**32 - 1
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="seed must be from 0"):
            cls(seed=seed)
    with pytest.raises(TypeError, match="seed must be a whole number"):
        cls(seed=0.5)


def test_of_a_network():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="seed must be from 0"):
        next(randomised(model, torch.rand(1, 2), seed=-1))


def test_draws_differ_by_seed_and_by_number():
    draws = {float(torch.rand(1, generator=generator_of(*key))) for key in [(0, 0), (0, 1), (1, 0), (2**32 - 1, 0)]}
    assert len(draws) == 4
    before = torch.get_rng_state()
    generator_of(3)
    assert torch.equal(torch.get_rng_state(), before)
