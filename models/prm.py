"""Stage four: the process reward model, six layers of which the lower four are the reasoner's.

What is wrong with a step the reasoner mostly knows: it would not have written it. Layers laid over it and left to find
that comparison by themselves did not find it in the time a CPU has (see the card), so it is built in. The net is twice
as wide as the reasoner. The lower half carries the reasoner's own state, exactly: its layers read nothing else and stay
as they are, so nothing is forgotten. The upper half carries each token's embedding, made so small that the reasoner's
norms do not feel it. The first layer of its own then brings every token together with the state before it and
multiplies the two: how much the reasoner expected this token. The second gathers the least expected token of the
thought. That is where training starts; it learns the rest from the labels of the steps and, at every token, the
probability the reasoner gave it (at step tags the lowest of the step and of all so far): dense targets where labels are
scarce.

Layout: `Qwen2ForProcessRewardModel` (`model.*`, `score.0.*`, `score.2.*`), two labels, softmax, column 1 = good.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models import rollouts
from models import tokenizer as words
from models.chains import tagged
from models.evaluate import auc
from models.lessons import attempt
from models.net import Layer, Net, config, export, restore
from models.reasoner import DEVICE, pace
from models.task import MAX_STEPS, make

CHECKPOINT = words.WORK / "prm.pt"
DEMO = Path(__file__).parent / "demo-prm"

OWN_LAYERS = 2
TOKENS_A_STEP = 8192
SYNTHETIC = 0.3
LEARNING_RATE = 2e-3
UNKNOWN = -1

FAINT = 2.0**-6  # the size of the embeddings in the upper half
HEAD = 32
LOUD = 512.0  # how far the state before outweighs a token's own


class RewardNet(nn.Module):
    """The layers above the reasoner, a score head on every position, and a head for the dense targets."""

    def __init__(self, reasoner: Net) -> None:
        super().__init__()
        narrow = reasoner.shape
        self.expected = reasoner.requires_grad_(False)
        self.net = Net(replace(narrow, width=2 * narrow.width, heads=2 * narrow.heads, layers=OWN_LAYERS))
        self.net.embed_tokens.requires_grad_(False)
        width = self.net.shape.width
        self.score = nn.Sequential(nn.Linear(width, narrow.width * 2), nn.ReLU(), nn.Linear(narrow.width * 2, 2))
        self.likely = nn.Linear(width, 3)
        _bring_together(self.net.layers[0], reasoner)  # type: ignore[arg-type]
        _gather_least(self.net.layers[1])  # type: ignore[arg-type]

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The reasoner's last states (normed) [batch, length, width] and the top's [batch, length, 2 x width]."""
        with torch.no_grad():
            x = self.expected.run(ids)
            wide = torch.cat((x, FAINT * self.expected.embed_tokens(ids)), -1)
        return self.expected.norm(x), self.above(wide)

    def above(self, x: Tensor) -> Tensor:
        turn = (self.net.cos[: x.shape[1]], self.net.sin[: x.shape[1]])
        for layer in self.net.layers:
            x = layer(x, turn)
        return self.net.norm(x)

    def trained(self) -> dict[str, Tensor]:
        """What this stage learns: everything but the reasoner's part."""
        return {name: w for name, w in self.state_dict().items() if not name.startswith(("expected.", "net.embed"))}

    def whole(self) -> dict[str, Tensor]:
        """All weights under their final names: the reasoner's layers widened, then the layers above."""
        embedding = self.expected.embed_tokens.weight
        weights = {"model.embed_tokens.weight": torch.cat((embedding, FAINT * embedding), 1)}
        for name, weight in self.expected.layers.state_dict().items():
            weights[f"model.layers.{name}"] = widened(name, weight)
        kept = self.expected.shape.layers
        for at, layer in enumerate(self.net.layers):
            for name, weight in layer.state_dict().items():
                weights[f"model.layers.{kept + at}.{name}"] = weight
        weights["model.norm.weight"] = self.net.norm.weight
        return weights | {f"score.{name}": weight for name, weight in self.score.state_dict().items()}


def widened(name: str, weight: Tensor) -> Tensor:
    """A weight of the reasoner's layers in a net twice as wide: the lower half as it was, the upper half untouched."""
    if "layernorm" in name:  # a mean over twice the entries, half of them next to nothing
        return torch.cat((weight / math.sqrt(2), torch.zeros_like(weight)))
    if weight.dim() == 1:
        return torch.cat((weight, torch.zeros_like(weight)))
    rows, columns = weight.shape
    grown = torch.zeros(
        rows if "gate" in name or "up" in name else 2 * rows, columns if "down" in name else 2 * columns
    )
    grown[:rows, :columns] = weight
    return grown


@torch.no_grad()
def _bring_together(layer: Layer, reasoner: Net) -> None:
    """Writes how much the reasoner expected a token into the last entry, and "in the thought" into the one before."""
    embedding = reasoner.embed_tokens.weight
    width, size = embedding.shape[1], float(embedding.pow(2).mean().sqrt())
    attention, feed = layer.self_attn, layer.mlp
    # The lower half as the reasoner's head reads it; the upper half brought to the size of one (norms met in training).
    layer.input_layernorm.weight[:width] = reasoner.norm.weight / math.sqrt(2)
    layer.input_layernorm.weight[width:] = 32 / (FAINT * size)
    layer.post_attention_layernorm.weight[:width] = 1 / math.sqrt(2)
    layer.post_attention_layernorm.weight[width:] = 470 / (FAINT * size)
    layer.post_attention_layernorm.weight[-2] = 1  # "in the thought" stands there by then, in place of an embedding
    attention.o_proj.weight.zero_()
    for head in range(width // HEAD):  # each looks one token back, by rotary positions alone
        rows = slice(head * HEAD, (head + 1) * HEAD)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[rows] = 0
        for pair in range(HEAD // 4):
            angle = reasoner.shape.theta ** (-2 * pair / HEAD)
            attention.q_proj.bias[head * HEAD + pair] = 10 * math.cos(angle)
            attention.q_proj.bias[head * HEAD + HEAD // 2 + pair] = -10 * math.sin(angle)
            attention.k_proj.bias[head * HEAD + pair] = 10
        attention.v_proj.weight[rows, rows] = torch.eye(HEAD)
    attention.o_proj.weight[:width, :width] = LOUD * torch.eye(width)
    opening = width  # the head behind those looks for <think>
    rows = slice(opening, opening + HEAD)
    mark = embedding[words.THINK] / embedding[words.THINK].norm()
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[rows] = 0
    slow = opening + HEAD // 2 - 1  # the rotary pair that hardly turns
    attention.q_proj.bias[slow] = 10
    attention.k_proj.weight[slow, width:] = mark
    attention.v_proj.weight[opening, width:] = mark
    attention.o_proj.weight[-2, opening] = 100
    # a x b = silu(a) b - silu(-a) b, summed over the entries of embedding and state
    for matrix in (feed.gate_proj, feed.up_proj):
        matrix.weight[: 2 * width] = 0
    one = torch.eye(width)
    one[-2] = 0
    feed.gate_proj.weight[:width, width:] = one
    feed.gate_proj.weight[width : 2 * width, width:] = -one
    feed.up_proj.weight[:width, :width] = one
    feed.up_proj.weight[width : 2 * width, :width] = one
    feed.down_proj.weight[-1, :width] = 26
    feed.down_proj.weight[-1, width : 2 * width] = -26
    # The step tag is nothing the reasoner ever expects: one unit knows it and lifts it out of the comparison.
    tag, unit = embedding[words.TAG], 2 * width
    feed.gate_proj.weight[unit, width:-2] = 8 * (tag * size / tag.pow(2).sum())[:-2]
    feed.gate_proj.weight[unit, -2] = -2
    feed.up_proj.weight[unit] = 0
    feed.up_proj.weight[unit, -2] = 1
    feed.down_proj.weight[-1, unit] = 450


@torch.no_grad()
def _gather_least(layer: Layer) -> None:
    """One head that looks for the least expected token of the thought and brings its value up."""
    attention, slow = layer.self_attn, HEAD // 2 - 1
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[:HEAD] = 0
    attention.v_proj.weight[0] = 0
    attention.q_proj.bias[slow] = 10
    attention.k_proj.weight[slow, -1] = -2.3
    attention.k_proj.weight[slow, -2] = 11
    attention.v_proj.weight[0, -1] = 1
    attention.o_proj.weight[-3, 0] = 470


def learnable(model: RewardNet) -> list[nn.Parameter]:
    """What is trained: all above the built-in comparison, and the units of its layer that it leaves free."""
    built = model.net.layers[0]
    built.self_attn.requires_grad_(False)
    built.input_layernorm.requires_grad_(False)
    built.post_attention_layernorm.requires_grad_(False)
    used = model.net.shape.width + 1
    built.mlp.gate_proj.weight.register_hook(lambda slope: slope.index_fill(0, torch.arange(used), 0.0))
    built.mlp.up_proj.weight.register_hook(lambda slope: slope.index_fill(0, torch.arange(used), 0.0))
    return [weight for weight in model.parameters() if weight.requires_grad]


class Chains:
    """Chains to learn from, as padded batches of ids and labels ([batch, length]; UNKNOWN off the tags)."""

    def __init__(self, tokenizer: Tokenizer, judged: list[rollouts.Judged], seed: int) -> None:
        self._tokenizer = tokenizer
        self._judged = judged
        self._rng = random.Random(seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        """About TOKENS_A_STEP tokens: sampled chains with rollout labels, SYNTHETIC of them made slips."""
        rows: list[tuple[list[int], list[int]]] = []
        most = 0
        while (len(rows) + 1) * most < TOKENS_A_STEP:
            rows.append(self._made() if self._rng.random() < SYNTHETIC else self._sampled())
            most = max(most, len(rows[-1][0]))
        return pad(rows)

    def _sampled(self) -> tuple[list[int], list[int]]:
        chain = self._rng.choice(self._judged)
        return labelled(self._tokenizer, chain.question, chain.lines, chain.labels)

    def _made(self) -> tuple[list[int], list[int]]:
        problem = make(self._rng, "train", self._rng.randint(1, MAX_STEPS))
        lines = [line for line, _ in attempt(self._rng, problem, self._rng.choice((0.0, 0.06, 0.15)))]
        truths = [line == true for line, true in zip(lines, problem.lines, strict=True)]
        sound = [all(truths[: at + 1]) for at in range(len(truths))]
        return labelled(self._tokenizer, problem.question, lines, [int(good) for good in sound])


def labelled(
    tokenizer: Tokenizer, question: str, lines: list[str], labels: list[int | None] | list[int]
) -> tuple[list[int], list[int]]:
    """Ids of a tagged chain and a label per token."""
    ids = tagged(tokenizer, question, lines)
    marks = iter(labels)
    told = [UNKNOWN if token != words.TAG else next(marks) for token in ids]
    return ids, [UNKNOWN if label is None else label for label in told]


def pad(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [words.PAD] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [UNKNOWN] * (longest - len(row)) for _, row in rows])
    return ids.to(DEVICE), labels.to(DEVICE)


def expectation(model: RewardNet, ids: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """What the reasoner expected of each token of the thought.

    Returns a mask [batch, length] of the thought's tokens and targets [batch, length, 3]: the probability of the token,
    and, at tags, the lowest in the step and in all steps so far.
    """
    batch, length = ids.shape
    thought = ((ids == words.THINK).cumsum(1) > 0) & (ids != words.PAD) & (ids != words.THINK)
    at = thought[:, 1:].reshape(-1).nonzero()[:, 0]
    before = below[:, :-1].reshape(-1, below.shape[-1])[at]
    likely = model.expected.logits(before).softmax(-1).gather(1, ids[:, 1:].reshape(-1, 1)[at])[:, 0]
    chance = torch.ones(batch * (length - 1), device=ids.device)
    chance[at] = likely
    chance = torch.cat((torch.ones(batch, 1, device=ids.device), chance.view(batch, length - 1)), 1)
    tags = ids == words.TAG
    chance = chance.masked_fill(tags, 1.0)
    running = chance.cummin(1).values
    step = tags.cumsum(1) - tags.long()
    lowest = torch.ones(batch, int(step.max()) + 1, device=ids.device).scatter_reduce(1, step, chance, "amin")
    return thought, torch.stack((chance, lowest.gather(1, step), running), -1)


def losses(model: RewardNet, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """score: the step labels. likely: the dense targets."""
    below, top = model(ids)
    with torch.no_grad():
        thought, targets = expectation(model, ids, below)
    known = labels.reshape(-1).ne(UNKNOWN).nonzero()[:, 0]
    flat = top.reshape(-1, top.shape[-1])
    score = F.cross_entropy(model.score(flat[known]), labels.reshape(-1)[known])
    guesses = model.likely(top)
    tags = ids == words.TAG
    words_only = thought & ~tags
    likely = F.binary_cross_entropy_with_logits(guesses[..., 0][words_only], targets[..., 0][words_only])
    likely = likely + F.binary_cross_entropy_with_logits(guesses[..., 1:][tags], targets[..., 1:][tags])
    return {"score": score, "likely": likely}


@torch.no_grad()
def held_out(model: RewardNet, tokenizer: Tokenizer, judged: list[rollouts.Judged]) -> float:
    """AUC of the step scores against the generator's truth."""
    scores: list[float] = []
    truths: list[bool] = []
    for at in range(0, len(judged), 64):
        group = judged[at : at + 64]
        ids, _ = pad([labelled(tokenizer, c.question, c.lines, c.labels) for c in group])
        _, top = model(ids)
        scores += model.score(top[ids == words.TAG]).softmax(-1)[:, 1].tolist()
        truths += [truth for chain in group for truth in chain.truths]
    return auc(scores, truths)


def build(reasoner: Path, steps: int, seed: int = 13) -> None:
    """Trains for `steps` steps of TOKENS_A_STEP tokens, from the last checkpoint if there is one."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    tokenizer = words.load()
    judged = rollouts.load()
    aside = len(judged) // 20 // rollouts.SAMPLES * rollouts.SAMPLES
    learned, kept_aside = judged[aside:], judged[:aside]
    print(f"{len(learned)} chains; rollouts and truth agree on {rollouts.agreement(judged):.3f} of the steps")
    model = RewardNet(restore(reasoner)).to(DEVICE)
    model.above = torch.compile(model.above, dynamic=True)
    model.expected.run = torch.compile(model.expected.run, dynamic=True)
    tool = torch.optim.AdamW(learnable(model), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    done = 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, map_location=DEVICE, weights_only=True)
        model.load_state_dict(saved["model"], strict=False)
        tool.load_state_dict(saved["tool"])
        done = saved["done"]
    chains = Chains(tokenizer, learned, seed + done)
    smooth: dict[str, float] = {}
    with tqdm(range(done, steps), desc="prm", unit="step", mininterval=5) as bar:
        for step in bar:
            tool.param_groups[0]["lr"] = LEARNING_RATE * pace(step, steps)
            parts = losses(model, *chains.batch())
            (parts["score"] + parts["likely"]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            tool.step()
            tool.zero_grad(set_to_none=True)
            for name, part in parts.items():
                smooth[name] = 0.97 * smooth.get(name, part.item()) + 0.03 * part.item()
            bar.set_postfix({name: f"{value:.4f}" for name, value in smooth.items()}, refresh=False)
            if (step + 1) % 50 == 0 or step + 1 == steps:
                _save(model, tool, step + 1)
                told = " ".join(f"{name} {value:.4f}" for name, value in smooth.items())
                bar.write(
                    f"{time.strftime('%H:%M:%S')} step {step + 1} {told} held-out AUC "
                    f"{held_out(model, tokenizer, kept_aside):.4f}"
                )


def _save(model: RewardNet, tool: torch.optim.Optimizer, done: int) -> None:
    partial = CHECKPOINT.with_suffix(".partial")
    torch.save({"model": model.trained(), "tool": tool.state_dict(), "done": done}, partial)
    partial.replace(CHECKPOINT)


def write(reasoner: Path, folder: Path = DEMO) -> None:
    """Exports the checkpoint with the reasoner's tokenizer, in the layout vLLM knows."""
    model = RewardNet(restore(reasoner))
    saved = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"], strict=False)
    shape = replace(model.net.shape, layers=model.expected.shape.layers + OWN_LAYERS)
    settings = config(shape, "Qwen2ForProcessRewardModel", words.END, words.PAD)
    export(model.whole(), folder, settings | {"num_labels": 2, "tie_word_embeddings": False})
    words.wrap(words.load()).save_pretrained(folder)
