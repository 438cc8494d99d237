"""The rules by which torch's CUDA allocator takes and keeps memory, without a card.

A re-telling of `c10/cuda/CUDACachingAllocator.cpp` for one stream: sizes are rounded to 512 bytes,
small and large requests have pools of their own, the best-fitting free block is split where enough
is left over, neighbours merge when freed, and whole free segments are returned only when the card
has no more. With `expandable` segments one segment per pool grows by pages, and free pages can be
taken back.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

MIB = 2**20
SMALL = MIB
"""Requests up to this live in the small pool."""
_ROUNDING = 512
_SMALL_SEGMENT = 2 * MIB
_LARGE_SEGMENT = 20 * MIB
_OWN_SEGMENT = 10 * MIB
"""Requests from this on get a segment of their own size, rounded to 2 MiB."""


class CardFull(Exception):
    """The card has no memory for a request."""


@dataclass(eq=False)
class Block:
    """A piece of a segment, in use or free, chained to its neighbours in the segment."""

    address: int
    size: int
    pool: int
    requested: int = 0
    free: bool = True
    before: Block | None = None
    after: Block | None = None


@dataclass
class Pool:
    """Free blocks by size, and in expandable mode where the growing segment ends."""

    page: int
    blocks: list[tuple[int, int, Block]] = field(default_factory=list)
    last: Block | None = None

    def add(self, block: Block) -> None:
        insort(self.blocks, (block.size, block.address, block))

    def take(self, block: Block) -> None:
        del self.blocks[bisect_left(self.blocks, (block.size, block.address))]

    def best_fit(self, size: int) -> Block | None:
        at = bisect_left(self.blocks, (size,))
        return self.blocks[at][2] if at < len(self.blocks) else None


class CachingAllocator:
    """Counts what a process would hold on a card. Sizes in bytes."""

    def __init__(self, *, expandable: bool) -> None:
        self.expandable = expandable
        self.requested = self.allocated = self.reserved = 0
        self.peak_requested = self.peak_allocated = self.peak_reserved = 0
        self.retries = self.ooms = 0
        self._pools = (Pool(_SMALL_SEGMENT), Pool(_LARGE_SEGMENT))
        self._next_address = 0

    def reset_peak(self) -> None:
        self.peak_requested, self.peak_allocated = self.requested, self.allocated
        self.peak_reserved = self.reserved
        self.retries = self.ooms = 0

    def malloc(self, requested: int, room: float) -> Block:
        """Hand out a block.

        Args:
            requested: bytes asked for.
            room: the most that may be reserved in all.

        Raises:
            CardFull: there is no room even after every free segment was returned.
        """
        size = max(_ROUNDING, -(-requested // _ROUNDING) * _ROUNDING)
        which = 0 if size <= SMALL else 1
        pool = self._pools[which]
        block = pool.best_fit(size)
        if block is not None:
            pool.take(block)
        else:
            block = self._grow(which, size, room)
            if block is None:
                self.retries += 1
                self.empty_cache()
                block = self._grow(which, size, room)
            if block is None:
                self.ooms += 1
                raise CardFull
        self._split(block, size)
        block.free = False
        block.requested = requested
        self.requested += requested
        self.allocated += block.size
        self.peak_requested = max(self.peak_requested, self.requested)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def release(self, block: Block) -> None:
        """Take a block back and merge it with free neighbours."""
        pool = self._pools[block.pool]
        self.requested -= block.requested
        self.allocated -= block.size
        block.free = True
        before, after = block.before, block.after
        if before is not None and before.free:
            pool.take(before)
            block.address = before.address
            block.size += before.size
            block.before = before.before
            if block.before is not None:
                block.before.after = block
        if after is not None and after.free:
            pool.take(after)
            block.size += after.size
            block.after = after.after
            if block.after is not None:
                block.after.before = block
            if pool.last is after:
                pool.last = block
        pool.add(block)

    def empty_cache(self) -> None:
        """Return free segments, or in expandable mode free pages, to the card."""
        for pool in self._pools:
            for _, _, block in list(pool.blocks):
                if self.expandable:
                    self._unmap(pool, block)
                elif block.before is None and block.after is None:
                    pool.take(block)
                    self.reserved -= block.size

    def _grow(self, which: int, size: int, room: float) -> Block | None:
        pool = self._pools[which]
        tail = pool.last if self.expandable and pool.last is not None and pool.last.free else None
        if self.expandable:
            missing = size - (tail.size if tail is not None else 0)
            wanted = -(-missing // pool.page) * pool.page
        elif which == 0:
            wanted = _SMALL_SEGMENT
        else:
            wanted = _LARGE_SEGMENT if size < _OWN_SEGMENT else -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved + wanted > room:
            return None
        self.reserved += wanted
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        if tail is not None:
            pool.take(tail)
            tail.size += wanted
            self._next_address += wanted
            return tail
        block = Block(self._next_address, wanted, which, before=pool.last)
        self._next_address += wanted
        if self.expandable:
            if pool.last is not None:
                pool.last.after = block
            pool.last = block
        return block

    def _split(self, block: Block, size: int) -> None:
        left = block.size - size
        always = block.pool == 0 or self.expandable
        if left < (_ROUNDING if always else SMALL + 1):
            return
        rest = Block(block.address + size, left, block.pool, before=block, after=block.after)
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        pool = self._pools[block.pool]
        if pool.last is block:
            pool.last = rest
        pool.add(rest)

    def _unmap(self, pool: Pool, block: Block) -> None:
        """Give back the whole pages of a free block; what is left of it stays free."""
        pages = block.size // pool.page
        if pages == 0:
            return
        pool.take(block)
        block.size -= pages * pool.page
        self.reserved -= pages * pool.page
        if block.size > 0:
            pool.add(block)
            return
        if block.before is not None:
            block.before.after = block.after
        if block.after is not None:
            block.after.before = block.before
        if pool.last is block:
            pool.last = block.before
