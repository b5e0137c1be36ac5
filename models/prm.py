"""Stage four: the process reward model, seven layers of which the lower four are the reasoner's.

What is wrong with a step the reasoner mostly knows: it would not have written it. So its own layers stay as they are,
and three layers above learn to compare what stands there with what they would have expected. Besides the labels of the
steps they learn, at every token of the thought, the probability the reasoner gave that token (and at each step tag the
lowest of the step and of all steps so far): dense targets where labels are scarce. The language-model loss is kept on
at the top, so the knowledge is carried up to where the score is read.

Layout: `Qwen2ForProcessRewardModel` (`model.*`, `score.0.*`, `score.2.*`), two labels, softmax, column 1 = good.
"""

from __future__ import annotations

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
from models.net import Net, config, export, optimizers, restore
from models.reasoner import DEVICE, pace
from models.task import MAX_STEPS, make

CHECKPOINT = words.WORK / "prm.pt"
DEMO = Path(__file__).parent / "demo-prm"

OWN_LAYERS = 3
TOKENS_A_STEP = 8192
SYNTHETIC = 0.3
MUON, ADAM = 0.02, 2e-3
UNKNOWN = -1


class RewardNet(nn.Module):
    """Qwen2 with a score head on every position, and two heads for the dense targets that are not exported."""

    def __init__(self, reasoner: Net) -> None:
        super().__init__()
        self.kept = reasoner.shape.layers
        self.net = Net(replace(reasoner.shape, layers=self.kept + OWN_LAYERS))
        self.net.load_state_dict(reasoner.state_dict(), strict=False)
        self.expected = reasoner.requires_grad_(False)
        self.net.embed_tokens.requires_grad_(False)
        self.net.layers[: self.kept].requires_grad_(False)
        width = reasoner.shape.width
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.likely = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [batch, length, width] of the reasoner's last layer (normed) and of the top."""
        with torch.no_grad():
            x = self.expected.run(ids)
            below = self.expected.norm(x)
        return below, self.above(x)

    def above(self, x: Tensor) -> Tensor:
        """The top's hidden states from those the reasoner's layers hand up."""
        turn = (self.net.cos[: x.shape[1]], self.net.sin[: x.shape[1]])
        for layer in self.net.layers[self.kept :]:
            x = layer(x, turn)
        return self.net.norm(x)

    def trained(self) -> dict[str, Tensor]:
        """What this stage learns: everything but the reasoner's part."""
        return {name: w for name, w in self.state_dict().items() if not name.startswith("expected.")}


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
    """score: the step labels. likely: the dense targets. language: the next token of thoughts still on the true way."""
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
    fine = (words_only & (targets[..., 2] > 0.05))[:, 1:].reshape(-1).nonzero()[:, 0]
    hidden = top[:, :-1].reshape(-1, top.shape[-1])[fine]
    language = F.cross_entropy(model.net.logits(hidden), ids[:, 1:].reshape(-1)[fine])
    return {"score": score, "likely": likely, "language": language}


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
    tools = optimizers(model, MUON, ADAM)
    full = [[group["lr"] for group in tool.param_groups] for tool in tools]
    done = 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, map_location=DEVICE, weights_only=True)
        model.load_state_dict(saved["model"], strict=False)
        for tool, state in zip(tools, saved["tools"], strict=True):
            tool.load_state_dict(state)
        done = saved["done"]
    chains = Chains(tokenizer, learned, seed + done)
    smooth: dict[str, float] = {}
    with tqdm(range(done, steps), desc="prm", unit="step", mininterval=5) as bar:
        for step in bar:
            for tool, rates in zip(tools, full, strict=True):
                for group, rate in zip(tool.param_groups, rates, strict=True):
                    group["lr"] = rate * pace(step, steps)
            parts = losses(model, *chains.batch())
            (parts["score"] + parts["likely"] + 0.2 * parts["language"]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for tool in tools:
                tool.step()
                tool.zero_grad(set_to_none=True)
            for name, part in parts.items():
                smooth[name] = 0.97 * smooth.get(name, part.item()) + 0.03 * part.item()
            bar.set_postfix({name: f"{value:.4f}" for name, value in smooth.items()}, refresh=False)
            if (step + 1) % 100 == 0 or step + 1 == steps:
                _save(model, tools, step + 1)
                told = " ".join(f"{name} {value:.4f}" for name, value in smooth.items())
                bar.write(
                    f"{time.strftime('%H:%M:%S')} step {step + 1} {told} held-out AUC "
                    f"{held_out(model, tokenizer, kept_aside):.4f}"
                )


def _save(model: RewardNet, tools: list[torch.optim.Optimizer], done: int) -> None:
    partial = CHECKPOINT.with_suffix(".partial")
    torch.save({"model": model.trained(), "tools": [tool.state_dict() for tool in tools], "done": done}, partial)
    partial.replace(CHECKPOINT)


def write(reasoner: Path, folder: Path = DEMO) -> None:
    """Exports the checkpoint with the reasoner's tokenizer, in the layout vLLM knows."""
    model = RewardNet(restore(reasoner))
    saved = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"], strict=False)
    weights = {f"model.{name}": weight for name, weight in model.net.state_dict().items()}
    weights |= {f"score.{name}": weight for name, weight in model.score.state_dict().items()}
    settings = config(model.net.shape, "Qwen2ForProcessRewardModel", words.END, words.PAD)
    export(weights, folder, settings | {"num_labels": 2, "tie_word_embeddings": False})
    words.wrap(words.load()).save_pretrained(folder)
