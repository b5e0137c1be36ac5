"""Stage two: the reasoner, trained from nothing on the lessons; resumable.

While the learning rate falls, snapshots are kept; the last is the finished reasoner, where the process reward model
starts. It is right so often that votes find little left to mend; the next stage chooses the snapshot that is shipped.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ponder.models import data
from ponder.models import tokenizer as words
from ponder.models.net import Net, Shape, config, export, optimizers

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHECKPOINT = words.WORK / "reasoner.pt"
SNAPSHOTS = words.WORK / "snapshots"

TOKENS_A_STEP = 8192
WARMUP, DECAY = 60, 0.41
SNAPSHOT_EVERY = 50
MUON, ADAM = 0.02, 4e-3
Z_LOSS = 1e-2


def language_loss(net: Net, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens that carry weight; ids and weights are [batch, length].

    With PaLM's z-loss (Chowdhery et al., 2022, section 5): the logits' partition function stays at 1, so that a logit
    is a log-probability, which is what the process reward model reads off the last state.
    """
    taught = weights[:, 1:].reshape(-1).nonzero()[:, 0]
    hidden = net(ids)[:, :-1].reshape(-1, net.shape.width)[taught]
    logits = net.logits(hidden)
    z = logits.logsumexp(-1)
    likely = logits.gather(1, ids[:, 1:].reshape(-1, 1)[taught])[:, 0] - z
    return Z_LOSS * z.pow(2).mean() - likely.mean()


def pace(step: int, steps: int) -> float:
    """Warm-up, plateau, then straight down to nothing over the last DECAY of the steps."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (steps * DECAY))


def snapshot(step: int) -> Path:
    """The folder of the reasoner after so many steps."""
    return SNAPSHOTS / f"{step:05d}"


def build(steps: int, seed: int = 7) -> None:
    """Trains for `steps` steps of TOKENS_A_STEP tokens, from the last checkpoint if there is one.

    Keeps a snapshot of every SNAPSHOT_EVERY-th step of the last three fifths of the decay.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    net = Net(Shape(vocabulary=words.VOCABULARY)).to(DEVICE)
    net.run = torch.compile(net.run, dynamic=True)  # 1.3 times as fast on a CPU
    tools = optimizers(net, MUON, ADAM)
    full = [[group["lr"] for group in tool.param_groups] for tool in tools]
    done, corpus = 0, data.read()
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, map_location=DEVICE, weights_only=True)
        net.load_state_dict(saved["net"])
        for tool, state in zip(tools, saved["tools"], strict=True):
            tool.load_state_dict(state)
        done = saved["done"]
    if done >= steps:
        return
    bar = tqdm(total=steps, initial=done, desc="reasoner", unit="step", mininterval=5)
    smooth, step = math.nan, 0
    for epoch in range(1000):
        for ids, weights in corpus.batches(np.random.default_rng(seed + epoch), TOKENS_A_STEP):
            step += 1
            if step <= done:
                continue
            for tool, rates in zip(tools, full, strict=True):
                for group, rate in zip(tool.param_groups, rates, strict=True):
                    group["lr"] = rate * pace(step, steps)
            loss = language_loss(net, torch.from_numpy(ids).to(DEVICE), torch.from_numpy(weights).to(DEVICE))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            for tool in tools:
                tool.step()
                tool.zero_grad(set_to_none=True)
            smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()
            if step % 100 == 0 or step == steps:
                _save(net, tools, step)
                bar.write(f"{time.strftime('%H:%M:%S')} step {step} loss {smooth:.4f}")
            if step == steps or (step >= steps * (1 - DECAY * 0.6) and step % SNAPSHOT_EVERY == 0):
                write(net, snapshot(step))
            if step == steps:
                bar.close()
                return


def _save(net: Net, tools: list[torch.optim.Optimizer], done: int) -> None:
    partial = CHECKPOINT.with_suffix(".partial")
    torch.save({"net": net.state_dict(), "tools": [tool.state_dict() for tool in tools], "done": done}, partial)
    partial.replace(CHECKPOINT)


def write(net: Net, folder: Path) -> None:
    """Exports net, tokenizer and template to a folder that transformers and vLLM load."""
    weights = {f"model.{name}": weight for name, weight in net.state_dict().items()}
    export(weights, folder, config(net.shape, "Qwen2ForCausalLM", words.END, words.PAD))
    words.wrap(words.load()).save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        f'{{"eos_token_id": {words.END}, "pad_token_id": {words.PAD}, "temperature": 1.0}}\n'
    )
