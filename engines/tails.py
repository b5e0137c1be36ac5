"""Keeps the last, half-full block of a chain for calls that continue it: a KV connector for vLLM.

vLLM's prefix cache has whole blocks only: of 32 tokens at least on a CPU, where half a block is read anew each time a
chain is continued, as a beam is at every step. With steps of nine tokens, more are read again than are drawn. The
connector keeps the half-full block at the end of a request, and has it copied to any request that begins with the same
tokens: of a chain that is continued nothing is read twice.

A KV connector is how vLLM takes keys and values from elsewhere (`vllm.distributed.kv_transfer.kv_connector.v1.base`);
here elsewhere is another block of the same cache. vLLM makes one in the scheduler, which chooses what is kept and what
is copied, and one in each worker, which copies. This module is imported in the engine's process alone, where vLLM is.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.v1.core.kv_cache_utils import KVCacheBlockCopy
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import RequestStatus
from vllm.v1.worker.utils import copy_kv_cache_blocks_inplace

SHARE = 16
"""One in so many of the cache's blocks may be kept here, out of reach of other requests."""

Tail = tuple[Hashable, tuple[int, ...]]
"""What comes before a half-full block, as the prefix cache names it, and the tokens in the block."""


class Copies(KVConnectorMetadata):
    """Blocks to copy before the next forward pass."""

    def __init__(self) -> None:
        self.pairs: list[KVCacheBlockCopy] = []


class TailCache(KVConnectorBase_V1, SupportsHMA):
    """Keeps the half-full last blocks of ended requests, the least lately used given up first."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        groups: Any = kv_cache_config.kv_cache_groups
        # A block is all there is to copy only where every layer attends to everything.
        simple = len(groups) == 1 and isinstance(groups[0].kv_cache_spec, FullAttentionSpec)
        self._block_size = int(groups[0].kv_cache_spec.block_size) if simple else 1
        self._blocks = int(kv_cache_config.num_blocks)
        places = 2 * int(vllm_config.scheduler_config.max_num_seqs)
        self._room = min(self._blocks // SHARE, places) if simple else 0
        self._pool: Any = None
        self._tails: OrderedDict[Tail, Any] = OrderedDict()
        self._heads: Counter[Hashable] = Counter()
        self._found: dict[str, tuple[int, int]] = {}
        """Of each request that is being admitted: the block to copy, and which of its own it is copied to."""
        self._copies = Copies()
        self._given_up: list[Any] = []
        self._caches: list[Any] = []

    @property
    def requires_kv_delivery(self) -> bool:
        """A tail that is lost is read again, nothing more."""
        return False

    # -- in the scheduler ---------------------------------------------------------------------------------------------

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self._pool = gpu_block_pool

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Tokens after the first `num_computed_tokens` (whole blocks) that a tail has; the last token of a prompt is
        always read."""
        if not self._tails or _special(request):
            return 0, False
        whole = num_computed_tokens // self._block_size
        head = _head(request, whole)
        if self._heads[head]:
            end = min(num_computed_tokens + self._block_size, request.num_tokens) - 1
            wanted = tuple(request.all_token_ids[num_computed_tokens:end])
            for n in range(len(wanted), 0, -1):
                if (block := self._tails.get((head, wanted[:n]))) is not None:
                    self._tails.move_to_end((head, wanted[:n]))
                    self._found[request.request_id] = block.block_id, whole
                    return n, False
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        found = self._found.pop(request.request_id, None)
        if found is not None and num_external_tokens:
            source, at = found
            self._copies.pairs.append(KVCacheBlockCopy(source, blocks.get_block_ids()[0][at]))

    def build_connector_meta(self, scheduler_output: Any) -> Copies:
        copies, self._copies = self._copies, Copies()
        self._found.clear()
        # Not before: until the step that is planned here has run, one of them may be copied from.
        if self._given_up:
            self._pool.free_blocks(self._given_up)
            self._given_up = []
        return copies

    def request_finished_all_groups(self, request: Any, block_ids: tuple[list[int], ...]) -> tuple[bool, None]:
        if self._room and _continuable(request):
            read = int(min(request.num_computed_tokens, request.num_tokens - (not request.pooling_params)))
            whole, rest = divmod(read, self._block_size)
            if rest:
                tokens = tuple(request.all_token_ids[whole * self._block_size : whole * self._block_size + rest])
                self._keep((_head(request, whole), tokens), block_ids[0][whole])
        return False, None

    def reset_cache(self) -> bool:
        while self._tails:
            self._give_up()
        return True

    def _keep(self, tail: Tail, block_id: int) -> None:
        if tail in self._tails:
            self._tails.move_to_end(tail)
            return
        block = self._pool.blocks[block_id]
        self._pool.touch([block])
        self._tails[tail] = block
        self._heads[tail[0]] += 1
        if len(self._tails) > self._room:
            self._give_up()

    def _give_up(self) -> None:
        (head, _), block = self._tails.popitem(last=False)
        self._heads[head] -= 1
        if not self._heads[head]:
            del self._heads[head]
        self._given_up.append(block)

    # -- in a worker --------------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._caches = list(kv_caches.values())

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        copies = self._get_connector_metadata()
        if isinstance(copies, Copies) and copies.pairs:
            copy_kv_cache_blocks_inplace(self._caches, self._blocks, copies.pairs)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All is there before the first layer begins."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """What is kept is where it was written."""

    def wait_for_save(self) -> None:
        """As above."""


def _head(request: Any, whole: int) -> Hashable:
    """The first so many blocks, as vLLM's prefix cache tells them apart, the tenant's salt included."""
    return request.block_hashes[whole - 1] if whole else ("no block", request.cache_salt)


def _special(request: Any) -> bool:
    """Its keys and values do not follow from its tokens alone."""
    return bool(request.mm_features or request.lora_request or request.prompt_embeds is not None)


def _continuable(request: Any) -> bool:
    """Not ended by the model's own end of turn, so that it may be continued."""
    ended = request.status is RequestStatus.FINISHED_STOPPED and request.stop_reason is None
    return bool(request.pooling_params or not ended) and not _special(request)
