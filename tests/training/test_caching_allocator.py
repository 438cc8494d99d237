"""The simulated allocator keeps torch's rules and its own books."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criteria_cli.training.caching_allocator import MIB, CachingAllocator, CardFull

INF = float("inf")


def test_sizes_of_segments() -> None:
    """Small requests share 2 MiB, medium ones 20 MiB, large ones take their own size."""
    small = CachingAllocator(expandable=False)
    small.malloc(100, INF)
    assert (small.requested, small.allocated, small.reserved) == (100, 512, 2 * MIB)
    medium = CachingAllocator(expandable=False)
    medium.malloc(3 * MIB, INF)
    medium.malloc(3 * MIB, INF)
    assert medium.reserved == 20 * MIB
    large = CachingAllocator(expandable=False)
    large.malloc(31 * MIB, INF)
    assert large.reserved == 32 * MIB


def test_freed_neighbours_merge_and_are_used_again() -> None:
    memory = CachingAllocator(expandable=False)
    parts = [memory.malloc(5 * MIB, INF) for _ in range(4)]
    for block in (parts[0], parts[2], parts[1]):
        memory.release(block)
    memory.malloc(15 * MIB, INF)
    assert memory.reserved == 20 * MIB


def test_fixed_segments_fragment_and_expandable_ones_do_not() -> None:
    def largest_then_more(expandable: bool) -> int:
        memory = CachingAllocator(expandable=expandable)
        for size in (30, 40, 50, 60):
            memory.release(memory.malloc(size * MIB, INF))
        return memory.reserved

    assert largest_then_more(expandable=False) == 180 * MIB
    assert largest_then_more(expandable=True) == 60 * MIB


def test_a_full_card_is_tried_again_without_the_cache() -> None:
    memory = CachingAllocator(expandable=False)
    memory.release(memory.malloc(60 * MIB, 100 * MIB))
    memory.malloc(70 * MIB, 100 * MIB)
    assert (memory.retries, memory.ooms, memory.reserved) == (1, 0, 70 * MIB)
    with pytest.raises(CardFull):
        memory.malloc(40 * MIB, 100 * MIB)
    assert (memory.retries, memory.ooms) == (2, 1)


@pytest.mark.parametrize("expandable", [False, True])
@given(st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), max_size=80))
@settings(max_examples=40, deadline=None)
def test_books_are_kept(expandable: bool, wishes: list[tuple[int, bool]]) -> None:
    memory = CachingAllocator(expandable=expandable)
    held = []
    for size, give_back in wishes:
        try:
            held.append(memory.malloc(size, 300 * MIB))
        except CardFull:
            memory.empty_cache()
        if give_back and held:
            memory.release(held.pop(len(held) // 2))
        assert memory.requested == sum(block.requested for block in held)
        assert memory.requested <= memory.allocated <= memory.reserved <= 300 * MIB
    for block in held:
        memory.release(block)
    assert (memory.requested, memory.allocated) == (0, 0)
    memory.empty_cache()
    assert memory.reserved < 22 * MIB if expandable else memory.reserved == 0
