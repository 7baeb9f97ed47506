"""The trial of threads, by a clock that work moves."""

import pytest
import torch

from recon import threads


class Clock:
    """Stands still except for work, which takes as long as told for the present number of threads."""

    def __init__(self, seconds):
        self.now, self.seconds, self.tried = 0.0, seconds, set()

    def work(self):
        self.tried.add(torch.get_num_threads())
        self.now += self.seconds[torch.get_num_threads()]

    def __call__(self):
        return self.now


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(("seconds", "best"), [({1: 0.1, 2: 0.15}, 1), ({1: 0.15, 2: 0.1}, 2)])
def test_the_faster_number_is_used_and_the_former_restored(two_threads, seconds, best):
    clock = Clock(seconds)
    with threads.fastest_threads(clock.work, clock=clock) as chosen:
        assert chosen == torch.get_num_threads() == best
    assert torch.get_num_threads() == 2
    assert clock.tried == {1, 2}


def test_the_former_number_is_restored_after_an_error(two_threads):
    clock = Clock({1: 0.1, 2: 0.2})
    with pytest.raises(ZeroDivisionError), threads.fastest_threads(clock.work, clock=clock):
        _ = 1 / 0
    assert torch.get_num_threads() == 2


def test_one_thread_needs_no_trial():
    clock = Clock({1: 0.1})
    with threads.fastest_threads(clock.work, clock=clock) as chosen:
        assert chosen == 1
    assert not clock.tried
