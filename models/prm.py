"""Stage five: the process reward model, six layers of which the lower four are the reasoner's.

What is wrong with a step the reasoner mostly knows: it would not have written it. Layers laid over it and left to find
that comparison by themselves did not find it in the time a CPU has (see the card), so it is built in. The net is twice
as wide as the reasoner. The lower half carries the reasoner's own state, exactly: its layers read nothing else and stay
as they are, so nothing is forgotten. The upper half carries each token's embedding, made so small that the reasoner's
norms do not feel it. The first layer of its own then brings every token together with the state before it and
multiplies the two: how much the reasoner expected this token. The second gathers the least expected token of the
thought. That is where training starts; it learns the rest from the labels of the steps and, at every token, the
probability the reasoner gave it (at line breaks the lowest of the line and of all so far): dense targets where labels
are scarce.

The thought is read as the reasoner writes it, and the verdict on a line stands at its line break: no tag that the
reasoner would have to be taught to overlook. The answer is judged as the last step, at its last token: a chain that
ends too soon has no wrong line.

Layout: `Qwen2ForProcessRewardModel` (`model.*`, `score.0.*`, `score.2.*`), two labels, softmax, column 1 = good.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ponder.models import rollouts
from ponder.models import tokenizer as words
from ponder.models.chains import laid_out
from ponder.models.evaluate import auc
from ponder.models.lessons import result, thought
from ponder.models.net import Attention, Layer, Net, config, export, restore
from ponder.models.reasoner import DEVICE, pace
from ponder.models.task import MAX_STEPS, judge_lines, make

CHECKPOINT = words.WORK / "prm.pt"
DEMO = Path(__file__).parent / "demo-prm"

OWN_LAYERS = 2
TOKENS_A_STEP = 8192
SYNTHETIC, CUT = 0.3, 0.2
LEARNING_RATE = 2e-3
UNKNOWN = -1

FAINT = 2.0**-6  # the size of the embeddings in the upper half
HEAD = 32
BIAS = 10.0  # of the queries of built-in heads
LOUD = 512.0  # how far the state before outweighs a token's own
CLEAR = 2.0  # the root mean square of a token's embedding where it is read
FLAG, NAT = 600.0, 125.0  # entries: "in the thought", and a token's log-probability


@dataclass(frozen=True)
class Row:
    """A chain to learn from: its ids, the places of verdicts, and a label for each (UNKNOWN: none)."""

    ids: list[int]
    places: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length: ids [batch, length], and of all verdicts their rows, places and labels [verdicts]."""

    ids: Tensor
    at: tuple[Tensor, Tensor]
    labels: Tensor


class RewardNet(nn.Module):
    """The layers above the reasoner, a score head on every position, and a head for the dense targets."""

    def __init__(self, reasoner: Net, tokenizer: Tokenizer) -> None:
        super().__init__()
        narrow = reasoner.shape
        self.expected = reasoner.requires_grad_(False)
        self.net = Net(replace(narrow, width=2 * narrow.width, heads=2 * narrow.heads, layers=OWN_LAYERS))
        self.net.embed_tokens.requires_grad_(False)
        width = self.net.shape.width
        self.score = nn.Sequential(nn.Linear(width, narrow.width * 2), nn.ReLU(), nn.Linear(narrow.width * 2, 2))
        self.likely = nn.Linear(width, 3)
        rng = random.Random(0)
        self._build_in(pad([made(tokenizer, rng) for _ in range(48)], "cpu"))

    @torch.no_grad()
    def _build_in(self, batch: Batch) -> None:
        """Writes the comparison and the gathering into the two layers; a batch shows how large their inputs are."""
        compare, gather = self.net.layers
        read = batch.ids != words.PAD
        turn = (self.net.cos[: batch.ids.shape[1]], self.net.sin[: batch.ids.shape[1]])
        x = self.wide(batch.ids)
        width = self.expected.shape.width
        _see(compare.input_layernorm, self.expected, rms(x[read], width))  # type: ignore[arg-type]
        seen = compare.input_layernorm(x)[..., width:]  # type: ignore[operator]
        think, start = (direction(seen[read], seen[batch.ids == token].mean(0)) for token in (words.THINK, words.START))
        _look_back(compare.self_attn, self.expected, think, start)  # type: ignore[arg-type]
        x = x + compare.self_attn(compare.input_layernorm(x), turn)  # type: ignore[operator]
        _multiply(compare, self.expected, rms(x[read], width))  # type: ignore[arg-type]
        x = x + compare.mlp(compare.post_attention_layernorm(x))  # type: ignore[operator]
        _gather_least(gather.self_attn, rms(x[read], 2 * width))  # type: ignore[arg-type]

    def wide(self, ids: Tensor) -> Tensor:
        """What the reasoner's layers leave in a net twice as wide [batch, length, 2 x width]."""
        return torch.cat((self.expected.run(ids), FAINT * self.expected.embed_tokens(ids)), -1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The reasoner's last states (normed) [batch, length, width] and the top's [batch, length, 2 x width]."""
        with torch.no_grad():
            x = self.wide(ids)
        return self.expected.norm(x[..., : self.expected.shape.width]), self.above(x)

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


def rms(states: Tensor, entries: int) -> float:
    """The root mean square of the first entries of typical states."""
    return float(states[:, :entries].pow(2).mean(-1).sqrt().mean())


def _see(norm: nn.Module, reasoner: Net, size: float) -> None:
    """The lower half as the reasoner's head reads it, the upper half brought up to CLEAR. `size`: of the lower half."""
    width = reasoner.shape.width
    embedding = float(reasoner.embed_tokens.weight.pow(2).mean().sqrt())
    norm.weight[:width] = reasoner.norm.weight / math.sqrt(2)
    norm.weight[width:] = CLEAR * size / (math.sqrt(2) * FAINT * embedding)


def direction(others: Tensor, one: Tensor) -> Tensor:
    """Along which one vector measures 1 and others next to nothing."""
    spread = others.T @ others / len(others)
    found = torch.linalg.solve(spread + 1e-3 * spread.trace() / len(spread) * torch.eye(len(spread)), one)
    return found / (found @ one)


def _look_back(attention: Attention, reasoner: Net, think: Tensor, start: Tensor) -> None:
    """Brings the state before each token into its lower half, and into the last entry but one "in the thought".

    `think` and `start`: the directions of <think> and <|im_start|> in the upper half.
    """
    width = reasoner.shape.width
    attention.o_proj.weight.zero_()
    for head in range(width // HEAD):  # each looks one token back, by rotary positions alone
        rows = slice(head * HEAD, (head + 1) * HEAD)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[rows] = 0
        for pair in range(HEAD // 4):
            angle = reasoner.shape.theta ** (-2 * pair / HEAD)
            attention.q_proj.bias[head * HEAD + pair] = BIAS * math.cos(angle)
            attention.q_proj.bias[head * HEAD + HEAD // 2 + pair] = -BIAS * math.sin(angle)
            attention.k_proj.bias[head * HEAD + pair] = BIAS
        attention.v_proj.weight[rows, rows] = torch.eye(HEAD)
    attention.o_proj.weight[:width, :width] = LOUD * torch.eye(width)
    # The head behind those looks for <think>, and until there is one for a turn's start; its rotary pair hardly turns.
    opening, slow = width, width + HEAD // 2 - 1
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[opening : opening + HEAD] = 0
    attention.q_proj.bias[slow] = BIAS
    attention.k_proj.weight[slow, width:] = math.sqrt(HEAD) / BIAS * (40 * think + 20 * start)
    attention.v_proj.weight[opening, width:] = think
    attention.o_proj.weight[-2, opening] = FLAG


def _multiply(layer: Layer, reasoner: Net, size: float) -> None:
    """Writes how much the reasoner expected a token into the last entry: the state before, times its embedding.

    a x b = silu(a) b - silu(-a) b, summed over the entries. `size`: of the lower half, the state before, LOUD.
    """
    feed, width = layer.mlp, reasoner.shape.width
    embedding = float(reasoner.embed_tokens.weight.pow(2).mean().sqrt())
    layer.post_attention_layernorm.weight[:width] = 1 / math.sqrt(2)
    layer.post_attention_layernorm.weight[width:] = size / (math.sqrt(2) * FAINT * embedding)
    layer.post_attention_layernorm.weight[-2:] = 0
    for matrix in (feed.gate_proj, feed.up_proj):
        matrix.weight[: 2 * width] = 0
    one = torch.eye(width)
    feed.gate_proj.weight[:width, width:] = one
    feed.gate_proj.weight[width : 2 * width, width:] = -one
    feed.up_proj.weight[:width, :width] = one
    feed.up_proj.weight[width : 2 * width, :width] = one
    feed.down_proj.weight[-1, :width] = NAT * embedding * size / LOUD
    feed.down_proj.weight[-1, width : 2 * width] = -NAT * embedding * size / LOUD


def _gather_least(attention: Attention, size: float) -> None:
    """One head that looks for the least expected token of the thought and brings its value up. `size`: of a state."""
    slow = HEAD // 2 - 1
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[:HEAD] = 0
    attention.v_proj.weight[0] = 0
    attention.q_proj.bias[slow] = BIAS
    attention.k_proj.weight[slow, -1] = -2 * math.sqrt(HEAD) / BIAS * size / NAT
    attention.k_proj.weight[slow, -2] = 90 * math.sqrt(HEAD) / BIAS * size / FLAG
    attention.v_proj.weight[0, -1] = 1
    attention.o_proj.weight[-3, 0] = size


def learnable(model: RewardNet) -> list[nn.Parameter]:
    """What is trained: all above the built-in comparison, and the units of its layer that it leaves free."""
    built = model.net.layers[0]
    built.self_attn.requires_grad_(False)
    built.input_layernorm.requires_grad_(False)
    built.post_attention_layernorm.requires_grad_(False)
    used = model.net.shape.width
    for matrix in (built.mlp.gate_proj, built.mlp.up_proj):
        matrix.weight.register_hook(lambda slope: slope.index_fill(0, torch.arange(used, device=slope.device), 0.0))
    return [weight for weight in model.parameters() if weight.requires_grad]


class Chains:
    """Chains to learn from: sampled ones with rollout labels, SYNTHETIC of them made, slips and all."""

    def __init__(self, tokenizer: Tokenizer, judged: list[rollouts.Judged], seed: int) -> None:
        self._tokenizer = tokenizer
        self._judged = judged
        self._rng = random.Random(seed)

    def batch(self) -> Batch:
        """About TOKENS_A_STEP tokens."""
        rows: list[Row] = []
        most = 0
        while (len(rows) + 1) * most < TOKENS_A_STEP:
            rows.append(made(self._tokenizer, self._rng) if self._rng.random() < SYNTHETIC else self._sampled())
            most = max(most, len(rows[-1].ids))
        return pad(rows)

    def _sampled(self) -> Row:
        return labelled(self._tokenizer, self._rng.choice(self._judged))


def made(tokenizer: Tokenizer, rng: random.Random) -> Row:
    """A chain of the generator's, with its verdicts; CUT of them end too soon."""
    problem = make(rng, "train", rng.randint(1, MAX_STEPS))
    written = thought(rng, problem, rng.choice((0.0, 0.06, 0.15)))
    if rng.random() < CUT:
        written = written[: rng.randint(1, len(written))]
    lines, answer = [line for line, _ in written], result(written)
    ids, places = laid_out(tokenizer, problem.question, lines, answer)
    goods = [*judge_lines(problem, lines), answer == problem.answer]
    return Row(ids, places, [int(good) for good in goods])


def labelled(tokenizer: Tokenizer, chain: rollouts.Judged) -> Row:
    ids, places = laid_out(tokenizer, chain.question, chain.lines, chain.answer)
    return Row(ids, places, [UNKNOWN if label is None else label for label in chain.labels])


def pad(rows: list[Row], device: str = DEVICE) -> Batch:
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [words.PAD] * (longest - len(row.ids)) for row in rows])
    which = torch.tensor([at for at, row in enumerate(rows) for _ in row.places])
    places = torch.tensor([place for row in rows for place in row.places])
    labels = torch.tensor([label for row in rows for label in row.labels])
    return Batch(ids.to(device), (which.to(device), places.to(device)), labels.to(device))


def expectation(model: RewardNet, batch: Batch, below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the reasoner expected of each token of the thought.

    Returns a mask [batch, length] of its tokens and the answer's, the probability of each token [batch, length], and at
    every verdict the lowest since the one before and the lowest so far [verdicts, 2].
    """
    ids = batch.ids
    rows, length = ids.shape
    thought = ((ids == words.THINK).cumsum(1) > 0) & (ids != words.PAD) & (ids != words.THINK)
    at = thought[:, 1:].reshape(-1).nonzero()[:, 0]
    before = below[:, :-1].reshape(-1, below.shape[-1])[at]
    likely = model.expected.logits(before).softmax(-1).gather(1, ids[:, 1:].reshape(-1, 1)[at])[:, 0]
    chance = torch.ones(rows * (length - 1), device=ids.device)
    chance[at] = likely
    chance = torch.cat((torch.ones(rows, 1, device=ids.device), chance.view(rows, length - 1)), 1)
    ends = torch.zeros_like(ids)
    ends[batch.at] = 1
    line = ends.cumsum(1) - ends
    lowest = torch.ones(rows, int(line.max()) + 1, device=ids.device).scatter_reduce(1, line, chance, "amin")
    targets = torch.stack((lowest.gather(1, line)[batch.at], chance.cummin(1).values[batch.at]), -1)
    return thought, chance, targets


def losses(model: RewardNet, batch: Batch) -> dict[str, Tensor]:
    """score: the step labels. likely: the dense targets."""
    below, top = model(batch.ids)
    with torch.no_grad():
        thought, chance, targets = expectation(model, batch, below)
    known = batch.labels.ne(UNKNOWN)
    ends = top[batch.at]
    score = F.cross_entropy(model.score(ends[known]), batch.labels[known])
    likely = F.binary_cross_entropy_with_logits(model.likely(top[thought])[:, 0], chance[thought])
    likely = likely + F.binary_cross_entropy_with_logits(model.likely(ends)[:, 1:], targets)
    return {"score": score, "likely": likely}


@torch.no_grad()
def held_out(model: RewardNet, tokenizer: Tokenizer, judged: list[rollouts.Judged]) -> float:
    """AUC of the step scores against the generator's truth."""
    scores: list[float] = []
    truths: list[bool] = []
    for at in range(0, len(judged), 64):
        group = judged[at : at + 64]
        batch = pad([labelled(tokenizer, chain) for chain in group])
        _, top = model(batch.ids)
        scores += model.score(top[batch.at]).softmax(-1)[:, 1].tolist()
        truths += [verdict for chain in group for verdict in chain.verdicts]
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
    model = RewardNet(restore(reasoner), tokenizer).to(DEVICE)
    model.above = torch.compile(model.above, dynamic=True)
    model.wide = torch.compile(model.wide, dynamic=True)
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
            parts = losses(model, chains.batch())
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
    model = RewardNet(restore(reasoner), words.load(reasoner))
    saved = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"], strict=False)
    shape = replace(model.net.shape, layers=model.expected.shape.layers + OWN_LAYERS)
    settings = config(shape, "Qwen2ForProcessRewardModel", words.END, words.PAD)
    export(model.whole(), folder, settings | {"num_labels": 2, "tie_word_embeddings": False})
    words.wrap(words.load()).save_pretrained(folder)
