"""Continuous batching for examples/serve.py: requests, the blocks of a paged cache, and what each step computes.

This file touches no tensor. Requests share a block if their tokens up to its end are the same. The block is not copied,
because nothing writes to a full block. A request that is preempted gives all of its blocks back and begins again.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_dsv32 import paging

Array = NDArray[Any]
BLOCK = paging.BLOCK_SIZE


@dataclass(eq=False)
class Request:
    """A prompt and what follows it. `blocks` hold the keys of the first `computed` tokens."""

    index: int
    arrival: float
    prompt: int
    new_tokens: int
    tokens: list[int]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # when each new token was there
    found: int = 0  # tokens whose keys another request had computed, or this one before it was preempted
    hidden: list[tuple[int, Array]] = field(default_factory=list)  # first position and hidden_out of each step
    _keys: list[bytes] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """Tokens that are known and not computed. It is 1 while the request decodes."""
        return len(self.tokens) - self.computed

    @property
    def longest(self) -> int:
        """The number of keys at the end. The last new token is not computed."""
        return self.prompt + self.new_tokens - 1

    @property
    def keys(self) -> list[bytes]:
        """A name for each full block of tokens: a hash of them and of all tokens before, on which their keys depend."""
        for i in range(len(self._keys), len(self.tokens) // BLOCK):
            own = np.array(self.tokens[i * BLOCK : (i + 1) * BLOCK], np.int64).tobytes()
            self._keys.append(hashlib.sha256((self._keys[-1] if i else b"") + own).digest())
        return self._keys


class BlockAllocator:
    """Blocks of the caches, with the number of requests that use each. A free block keeps its keys until it is taken.

    Args:
        count: block_num of the caches.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._users = [0] * count
        self._free = dict.fromkeys(range(count))  # in the order of return; the first one is taken first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.count - self.free

    def take(self) -> int | None:
        """Takes a block for one request alone. Its keys are forgotten. None if all blocks are in use."""
        block = next(iter(self._free), None)
        if block is not None:
            del self._free[block]
            self._users[block] = 1
            self._block_of.pop(self._key_of.pop(block, b""), None)
        return block

    def share(self, key: bytes) -> int | None:
        """The block that holds the keys of this name, for one more request. None if there is no such block."""
        block = self._block_of.get(key)
        if block is not None:
            self._free.pop(block, None)
            self._users[block] += 1
        return block

    def publish(self, block: int, key: bytes) -> None:
        """Lets others share a block. It is full, its keys are in the caches, and nothing writes to it again."""
        if key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def give_back(self, block: int) -> None:
        """Ends the use of a block by one request.

        Raises:
            ValueError: no request uses it.
        """
        if self._users[block] < 1:
            raise ValueError(f"BlockAllocator: block {block} is given back, and no request uses it")
        self._users[block] -= 1
        if not self._users[block]:
            self._free[block] = None


class Scheduler:
    """Plans what each step computes. Older requests go first: a younger one never takes a block or a token from them.

    Args:
        allocator: the allocator of the caches' blocks.
        tokens: tokens of a step, at least as many as sequences, so that every step has all sequences that decode.
        sequences: sequences that run at the same time.
    """

    def __init__(self, allocator: BlockAllocator, tokens: int, sequences: int) -> None:
        if tokens < sequences:
            raise ValueError(
                f"Scheduler: {tokens} tokens a step, expected at least one for each of {sequences} sequences"
            )
        self.allocator = allocator
        self._tokens, self._sequences = tokens, sequences
        self.waiting: deque[Request] = deque()  # both in the order of arrival; those that run are older
        self.running: list[Request] = []
        self.preemptions = 0
        self.given_up = 0  # computed tokens of requests that were preempted

    def add(self, request: Request) -> None:
        """Queues a request.

        Raises:
            ValueError: the request needs more blocks than there are.
        """
        need = paging.block_num_of([request.longest])
        if need > self.allocator.count:
            raise ValueError(
                f"Scheduler: request {request.index} needs {need} blocks, there are {self.allocator.count}"
            )
        self.waiting.append(request)

    def plan(self) -> list[tuple[Request, int]]:
        """The requests of the next step, and how many tokens of each. They have the blocks that they need."""
        plan, left, preemptions = [], self._tokens, self.preemptions
        decoding = sum(request.remaining == 1 for request in self.running)
        for request in tuple(self.running):
            if request not in self.running:
                break  # it was preempted, and so were all younger ones
            decoding -= request.remaining == 1
            count = min(request.remaining, left - decoding)
            if count > 0 and self._reserve(request, request.computed + count):
                plan.append((request, count))
                left -= count
        while self.waiting and left > 0 and len(self.running) < self._sequences and self.preemptions == preemptions:
            request = self.waiting[0]
            self._share(request)
            count = min(request.remaining, left)
            if paging.block_num_of([request.computed + count]) - len(request.blocks) > self.allocator.free:
                self._release(request)
                break
            self.running.append(self.waiting.popleft())
            self._reserve(request, request.computed + count)
            request.found += request.computed
            plan.append((request, count))
            left -= count
        return plan

    def advance(self, request: Request, count: int, token: int, now: float) -> None:
        """Tells that a step has computed `count` tokens of a request. `token` comes next if all are computed."""
        full = request.computed // BLOCK
        request.computed += count
        for i in range(full, request.computed // BLOCK):
            self.allocator.publish(request.blocks[i], request.keys[i])
        if request.remaining == 0:
            request.tokens.append(token)
            request.times.append(now)
            if len(request.times) == request.new_tokens:
                self.running.remove(request)
                self._release(request)

    def _reserve(self, request: Request, length: int) -> bool:
        """Takes blocks for so many tokens. The youngest requests give theirs. False if this one is the youngest."""
        while len(request.blocks) * BLOCK < length:
            block = self.allocator.take()
            if block is not None:
                request.blocks.append(block)
                continue
            youngest = self.running.pop()
            self.given_up += youngest.computed
            self._release(youngest)
            self.waiting.appendleft(youngest)
            self.preemptions += 1
            if youngest is request:
                return False
        return True

    def _share(self, request: Request) -> None:
        """Takes the blocks that hold its first tokens, but not the last token, whose result is needed."""
        for key in request.keys[: (len(request.tokens) - 1) // BLOCK]:
            block = self.allocator.share(key)
            if block is None:
                break
            request.blocks.append(block)
        request.computed = len(request.blocks) * BLOCK

    def _release(self, request: Request) -> None:
        for block in reversed(request.blocks):  # the first tokens stay longest, because others most likely share them
            self.allocator.give_back(block)
        request.blocks.clear()
        request.computed = 0
