# pyright: basic, reportMissingImports=false
"""Ten steps of TRL's trainers over files of `ponder export`, in an environment of its own: no module of Ponder's is
imported but the one that writes rows.

    python trl_training.py MODEL FOLDER

FOLDER has `sft.jsonl`, `preferences.jsonl` and `prompts.jsonl`. Prints one JSON object: what was read and trained.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import is_conversational

STEPS = 10


def main(model: str, folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    told: dict[str, Any] = {}
    usual: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 0,
    }
    data = read(folder / "sft.jsonl", folder)
    told["conversational"] = is_conversational(data[0])
    sft = SFTTrainer(
        model=fresh(model),
        args=SFTConfig(output_dir=str(folder / "sft"), learning_rate=1e-3, **usual),
        train_dataset=data,
        processing_class=tokenizer,
    )
    first = next(iter(sft.get_train_dataloader()))
    learned = first["labels"][0]
    told["learned"] = tokenizer.decode(learned[learned != -100])
    told["whole"] = tokenizer.decode(first["input_ids"][0][first["attention_mask"][0].bool()])
    told["sft"] = losses(sft)

    data = read(folder / "preferences.jsonl", folder)
    dpo = DPOTrainer(
        model=fresh(model),
        args=DPOConfig(output_dir=str(folder / "dpo"), learning_rate=1e-4, **usual),
        train_dataset=data,
        processing_class=tokenizer,
    )
    told["dpo"] = losses(dpo)
    told["margins"] = [one["rewards/margins"] for one in dpo.state.log_history if "rewards/margins" in one]
    told["prompts"] = read(folder / "prompts.jsonl", folder)[0]
    told["is_a_prompt"] = is_conversational(told["prompts"])
    print(json.dumps(told))


def read(path: Path, folder: Path) -> Any:
    """A file as `datasets` reads it; nothing of it outlives the folder."""
    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / "cache"))


def fresh(model: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def losses(trainer: Any) -> list[float]:
    """Of each step, as it was trained."""
    trainer.train()
    return [one["loss"] for one in trainer.state.log_history if "loss" in one]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
