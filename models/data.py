"""Stage one: the tokenizer and the reasoner's lessons, written once as flat arrays."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ponder.models import tokenizer as words
from ponder.models.lessons import lesson

LESSONS = 220_000
SHARD = 5_000


@dataclass(frozen=True)
class Corpus:
    """Sequences end to end: `ids` and `weights` (both [tokens]), sequence i from `starts[i]` to `starts[i + 1]`."""

    ids: np.ndarray
    weights: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batches(self, rng: np.random.Generator, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One pass in random order: (ids, weights), both [sequences, longest], about `tokens` tokens a batch.

        Sequences of like length share a batch, so little of it is padding.
        """
        lengths = np.diff(self.starts)
        order = np.argsort(lengths + rng.uniform(0, 8, len(lengths)))
        groups: list[np.ndarray] = []
        at = 0
        while at < len(order):
            size = max(1, tokens // int(lengths[order[at]] + 8))
            groups.append(order[at : at + size])
            at += size
        for group in rng.permutation(len(groups)):
            yield self.gather(groups[group])

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        longest = max(int(self.starts[row + 1] - self.starts[row]) for row in rows)
        ids = np.full((len(rows), longest), words.PAD, dtype=np.int64)
        weights = np.zeros((len(rows), longest), dtype=np.float32)
        for place, row in enumerate(rows):
            here = slice(self.starts[row], self.starts[row + 1])
            ids[place, : here.stop - here.start] = self.ids[here]
            weights[place, : here.stop - here.start] = self.weights[here]
        return ids, weights


def _shard(seed: int) -> tuple[list[int], list[int], list[int]]:
    rng = random.Random(seed)
    tokenizer = words.load()
    ids: list[int] = []
    weights: list[int] = []
    lengths: list[int] = []
    for _ in range(SHARD):
        written = lesson(rng, tokenizer)
        ids += written.ids
        weights += written.weights
        lengths.append(len(written.ids))
    return ids, weights, lengths


def build(seed: int = 1000) -> None:
    """Writes `work/tokenizer/` and `work/lessons.npz`; done already is done."""
    words.WORK.mkdir(exist_ok=True)
    if not (words.WORK / "tokenizer").exists():
        words.wrap(words.train()).save_pretrained(words.WORK / "tokenizer")
    if (words.WORK / "lessons.npz").exists():
        return
    shards = range(LESSONS // SHARD)
    with ProcessPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        made = list(tqdm(pool.map(_shard, (seed + i for i in shards)), total=len(shards), desc="lessons"))
    np.savez(
        words.WORK / "lessons.npz",
        ids=np.concatenate([np.array(ids, dtype=np.uint16) for ids, _, _ in made]),
        weights=np.concatenate([np.array(weights, dtype=np.uint8) for _, weights, _ in made]),
        starts=np.cumsum([0, *(length for _, _, lengths in made for length in lengths)]),
    )


def read() -> Corpus:
    with np.load(words.WORK / "lessons.npz") as stored:
        return Corpus(stored["ids"], stored["weights"], stored["starts"])
