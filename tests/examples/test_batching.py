"""The scheduler and the allocator of the serving example, without tensors: a dict stands for the caches."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from batching import BLOCK, BlockAllocator, Request, Scheduler

T, B = 40, 4


def request_of(index: int, tokens: list[int], new_tokens: int = 3) -> Request:
    return Request(index, float(index), len(tokens), new_tokens, list(tokens))


def prompts(seed: int) -> list[list[int]]:
    """Prompts that begin alike, in part; the lengths of some are whole blocks."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(1000, size=2 * BLOCK).tolist()
    lengths = [*rng.integers(1, 3 * BLOCK, 9).tolist(), BLOCK, 2 * BLOCK]
    return [
        [*prefix[: int(rng.integers(3)) * BLOCK], *rng.integers(1000, size=length).tolist()] for length in lengths
    ] + [prefix, prefix]


class Caches:
    """Steps of a scheduler in which each token's key is written to a slot, and all keys of a request are read."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.slots: dict[tuple[int, int], int] = {}
        self.computed = 0

    @staticmethod
    def keys_of(request: Request) -> list[int]:
        """A number for each token, which depends on all tokens before it too."""
        return list(accumulate(request.tokens, lambda key, token: hash((key, token)), initial=0))[1:]

    def step(self) -> None:
        plan = self.scheduler.plan()
        assert plan
        assert sum(count for _, count in plan) <= T
        assert len({id(request) for request, _ in plan}) == len(plan) <= B
        assert len(self.scheduler.running) <= B
        self.check_users()
        keys = {id(request): self.keys_of(request) for request, _ in plan}
        for request, count in plan:
            assert count > 0
            for position in range(request.computed, request.computed + count):
                block = request.blocks[position // BLOCK]
                assert sum(block in other.blocks for other in self.scheduler.running) == 1, "a shared block is written"
                self.slots[block, position % BLOCK] = keys[id(request)][position]
        for request, count in plan:
            length = request.computed + count
            read = [self.slots[request.blocks[position // BLOCK], position % BLOCK] for position in range(length)]
            assert read == keys[id(request)][:length]
            self.computed += count
            self.scheduler.advance(request, count, keys[id(request)][-1] % 1000, 0.0)
        self.check_users()

    def check_users(self) -> None:
        """No block is lost, and none is free that a request uses."""
        used = {block for request in self.scheduler.running for block in request.blocks}
        assert self.scheduler.allocator.used == len(used)
        assert not any(request.blocks for request in self.scheduler.waiting)


def serve(requests: list[Request], block_num: int) -> Caches:
    caches = Caches(Scheduler(BlockAllocator(block_num), T, B))
    for request in requests:
        caches.scheduler.add(request)
    while caches.scheduler.running or caches.scheduler.waiting:
        caches.step()
    assert caches.scheduler.allocator.free == block_num
    return caches


@pytest.mark.parametrize("seed", range(4))
def test_every_request_reads_its_own_keys(seed: int) -> None:
    """With few blocks and with many. The numbers of tokens computed, found and given up add up."""
    texts = []
    for block_num in (6, 8, 100):
        requests = [request_of(i, tokens, new_tokens=1 + i * 13) for i, tokens in enumerate(prompts(seed))]
        caches = serve(requests, block_num)
        scheduler = caches.scheduler
        assert (scheduler.preemptions > 0) == (block_num < 100)
        found = sum(request.found for request in requests)
        assert caches.computed + found == sum(request.longest for request in requests) + scheduler.given_up
        assert found > 0
        assert all(len(request.tokens) == request.prompt + request.new_tokens for request in requests)
        texts.append([request.tokens for request in requests])
    assert texts[0] == texts[1] == texts[2]


def test_what_decodes_is_in_every_step_beside_a_long_prompt() -> None:
    requests = [request_of(0, [1] * 2, 30), request_of(1, [2] * 1000), request_of(2, [3], 10)]
    caches = Caches(Scheduler(BlockAllocator(20), T, B))
    for request in requests[:2]:
        caches.scheduler.add(request)
    caches.step()
    assert [request.computed for request in requests] == [2, T - 2, 0]
    caches.scheduler.add(requests[2])
    caches.step()
    assert [request.computed for request in requests] == [3, 2 * T - 3, 0]  # the older prompt has all other tokens
    while requests[1].remaining > 1:
        caches.step()
    assert requests[0].remaining == 1
    assert len(requests[0].times) == 26  # one in each of the steps


def test_equal_prompts_share_full_blocks() -> None:
    prompt = list(range(2 * BLOCK))
    requests = [request_of(0, prompt), request_of(1, prompt), request_of(2, [-1, *prompt[1:]])]
    caches = serve(requests[:1], 10)
    for request in requests[1:]:
        caches.scheduler.add(request)
    caches.step()
    # The last token is computed in any case, and so is the block that it is in. Another first token is another block.
    assert [request.found for request in requests] == [0, BLOCK, 0]


def test_the_youngest_gives_its_blocks() -> None:
    old, young = request_of(0, [1] * BLOCK, 2), request_of(1, [2] * (BLOCK - 1), 2)
    caches = Caches(Scheduler(BlockAllocator(2), 2 * BLOCK, 2))
    caches.scheduler.add(old)
    caches.scheduler.add(young)
    plan = caches.scheduler.plan()
    assert [count for _, count in plan] == [BLOCK, BLOCK - 1]
    for request, count in plan:
        caches.scheduler.advance(request, count, 5, 0.0)
    assert caches.scheduler.plan() == [(old, 1)]
    assert list(caches.scheduler.waiting) == [young]
    assert (young.blocks, young.computed, caches.scheduler.given_up) == ([], 0, BLOCK - 1)


def test_what_can_never_run_is_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens a step, expected at least one for each of 4 sequences"):
        Scheduler(BlockAllocator(2), 3, 4)
    scheduler = Scheduler(BlockAllocator(2), 4, 4)
    scheduler.add(request_of(0, [0] * 2 * BLOCK, 1))  # the last new token needs no key
    with pytest.raises(ValueError, match="request 1 needs 3 blocks, there are 2"):
        scheduler.add(request_of(1, [0] * 2 * BLOCK, 2))


def test_blocks() -> None:
    allocator = BlockAllocator(2)
    assert [allocator.take(), allocator.take(), allocator.take()] == [0, 1, None]
    allocator.publish(0, b"a")
    allocator.publish(1, b"a")  # the first one counts
    assert allocator.share(b"a") == 0
    allocator.give_back(0)
    assert allocator.used == 2
    allocator.give_back(1)
    allocator.give_back(0)
    assert allocator.free == 2
    assert allocator.share(b"a") == 0  # keys outlive their last request
    allocator.give_back(0)
    assert [allocator.take(), allocator.take()] == [1, 0]  # the one that has been free for longest comes first
    assert allocator.share(b"a") is None
    allocator.give_back(0)
    with pytest.raises(ValueError, match="block 0 is given back, and no request uses it"):
        allocator.give_back(0)
