"""One side of `throughput.py`, in a process of its own: loads once, then trains and scores an epoch
each time it is told to on its standard input, and prints what that took."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import numpy as np
import torch

BATCH, LENGTH, RATE = 32, 512, 2e-5
Work = tuple[Callable[[], Any], Callable[[], Any]]
"""Trains an epoch; scores the evaluation pairs with what it trained."""


class Pairs:
    """The pairs as lists of texts, and the checkpoint."""

    def __init__(self, folder: Path) -> None:
        import pandas as pd
        from transformers import AutoTokenizer

        from criteria_cli.data.criteria import load_criteria

        criteria = {c.id: c.text for c in load_criteria("dsm5-mdd", folder)}
        table = pd.read_csv(folder / "pairs.csv", keep_default_na=False)
        held = table.post_id.isin(json.loads((folder / "split.json").read_text())["eval"])
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "small")
        self.parts = {}
        for name, rows in (("train", table[~held]), ("eval", table[held])):
            self.parts[name] = (
                rows.post.tolist(),
                [criteria[c] for c in rows.DSM5_symptom],
                [float(y) for y in rows.groundtruth],
            )

    def model(self) -> Any:
        from transformers import DebertaV2ForSequenceClassification

        return DebertaV2ForSequenceClassification.from_pretrained(self.folder / "small")

    def dataset(self, part: str) -> Any:
        """Tokenised beforehand, which their users would do too."""
        import datasets

        posts, criteria, labels = self.parts[part]
        tokens = self.tokenizer(posts, criteria, truncation="only_first", max_length=LENGTH)
        return datasets.Dataset.from_dict(
            {
                "input_ids": tokens["input_ids"],
                "attention_mask": tokens["attention_mask"],
                "labels": [[y] for y in labels],
                "length": [len(ids) for ids in tokens["input_ids"]],
            }
        )


def ours(folder: Path, precision: str) -> Work:
    """`Trainer.fit`, as `criteria hpo` calls it, and its own evaluation."""
    from criteria_cli.study.messages import TrainerSetup
    from criteria_cli.study.spec import StudySpec
    from criteria_cli.study.trial import Verdict
    from criteria_cli.training.replay import score_all
    from criteria_cli.training.trainer import Trainer

    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "throughput",
            "data": {"format": "pairs", "path": "pairs.csv"},
            "model": {"name": str(folder / "small"), "max_length": LENGTH},
            "validation": {"folds": 2},
            "training": {
                "epochs": 1, "batch_size": BATCH, "learning_rate": RATE,
                "precision": precision, "warmup_ratio": 0.0,
            },
        }
    )  # fmt: skip
    trainer = Trainer(
        TrainerSetup(spec, folder, folder / f"runs-{precision}", "cpu", torch.get_num_threads())
    )
    held = set(json.loads((folder / "split.json").read_text())["eval"])
    is_held = np.array([trainer.corpus.post_ids[post] in held for post in trainer.corpus.post])
    model, examples = trainer.model(spec.model), trainer.examples(spec.model)
    scored = examples.set_of(np.flatnonzero(is_held))

    def train() -> None:
        trainer.fit(
            spec.hyperparameters(),
            np.flatnonzero(~is_held),
            np.zeros(0, dtype=np.int64),
            fold=1,
            seed=1,
            report=lambda _: Verdict.CONTINUE,
        )

    def evaluate() -> None:
        model.module.eval()
        scores = torch.zeros(len(scored))

        def score(part: Any) -> None:
            scores[part.rows] = model.scores(scored.tokens(part))

        with torch.inference_mode(), model.device.autocast(model.precision):
            score_all(scored.lengths, score, planner=model.planner, device=model.device)

    return train, evaluate


def predecessor(pairs: Pairs) -> Work:
    """Each pair tokenised when it is asked for and padded to 512, a plain loop, AdamW by default,
    and the loss read back every step."""
    from torch.utils.data import DataLoader, Dataset
    from transformers import get_scheduler

    class Items(Dataset):  # type: ignore[type-arg]
        def __init__(self, part: str) -> None:
            self.rows = list(zip(*pairs.parts[part], strict=True))

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
            post, criterion, label = self.rows[at]
            tokens = pairs.tokenizer(
                post, criterion, max_length=LENGTH, padding="max_length",
                truncation="only_first", return_tensors="pt",
            )  # fmt: skip
            return {
                "input_ids": tokens["input_ids"][0],
                "attention_mask": tokens["attention_mask"][0],
                "labels": torch.tensor(label),
            }

    state: dict[str, Any] = {}

    def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        found = state["model"](input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return found.logits.view(-1)

    def train() -> None:
        model = state["model"] = pairs.model().train()
        loader = DataLoader(Items("train"), BATCH, shuffle=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        schedule = get_scheduler("linear", optimizer, 0, len(loader))
        total = 0.0
        for batch in loader:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits(batch), batch["labels"]
            )
            loss.backward()
            total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def evaluate() -> None:
        state["model"].eval()
        with torch.no_grad():
            for batch in DataLoader(Items("eval"), BATCH):
                logits(batch).tolist()

    return train, evaluate


def hugging_face(pairs: Pairs, strategy: str, micro: int, *, bf16: bool) -> Work:
    """transformers' Trainer: the batch of 32 as `micro` times so many accumulation steps."""
    from transformers import Trainer, TrainingArguments, trainer_pt_utils

    # at full size, batches are grouped over fifty of them; a sample this small would be cut into
    # groups of one batch, so grouping gets its best case: the whole sample
    grouped = trainer_pt_utils.get_length_grouped_indices

    def over_all(lengths: Any, batch_size: int, *_: Any, **rest: Any) -> Any:
        return grouped(lengths, batch_size, -(-len(lengths) // batch_size), rest.get("generator"))

    trainer_pt_utils.get_length_grouped_indices = over_all
    train_set, eval_set = pairs.dataset("train"), pairs.dataset("eval")
    state: dict[str, Any] = {}

    def train() -> None:
        arguments = TrainingArguments(
            str(pairs.folder / "hf"), per_device_train_batch_size=micro,
            gradient_accumulation_steps=BATCH // micro, per_device_eval_batch_size=micro,
            num_train_epochs=1, learning_rate=RATE, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, use_cpu=True, bf16=bf16,
            train_sampling_strategy=strategy, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = state["trainer"] = Trainer(
            pairs.model(), arguments, train_dataset=train_set, eval_dataset=eval_set,
            processing_class=pairs.tokenizer,
        )  # fmt: skip
        # 5.23 multiplies a classifier's gradients by the accumulation steps otherwise
        trainer.loss_is_scaled_for_ga = False
        trainer.train()

    return train, lambda: state["trainer"].predict(eval_set)


def cross_encoder(pairs: Pairs) -> Work:
    """sentence-transformers' CrossEncoderTrainer, which tokenises at every step."""
    import datasets
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    posts, criteria, labels = pairs.parts["train"]
    data = datasets.Dataset.from_dict({"post": posts, "criterion": criteria, "label": labels})
    state: dict[str, Any] = {}

    def train() -> None:
        model = state["model"] = CrossEncoder(
            str(pairs.folder / "small"), num_labels=1, max_length=LENGTH, device="cpu",
            local_files_only=True,
        )  # fmt: skip
        arguments = CrossEncoderTrainingArguments(
            str(pairs.folder / "st"), per_device_train_batch_size=BATCH, num_train_epochs=1,
            learning_rate=RATE, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        CrossEncoderTrainer(
            model=model, args=arguments, train_dataset=data, loss=BinaryCrossEntropyLoss(model)
        ).train()

    def evaluate() -> None:
        texts = list(zip(*pairs.parts["eval"][:2], strict=True))
        state["model"].predict(texts, batch_size=BATCH, show_progress_bar=False)

    return train, evaluate


def lightning(pairs: Pairs) -> Work:
    """Lightning over the same tokenised pairs, padded to the longest of a batch."""
    import lightning as pl
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    columns = ["input_ids", "attention_mask", "labels"]
    collate = DataCollatorWithPadding(pairs.tokenizer)
    loaders = [
        DataLoader(
            pairs.dataset(part).select_columns(columns), BATCH, shuffle=part == "train",
            collate_fn=collate,
        )
        for part in ("train", "eval")
    ]  # fmt: skip

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = pairs.model()

        def training_step(self, batch: Any, _: int) -> Any:
            return self.model(**batch).loss

        def predict_step(self, batch: Any, _: int) -> Any:
            batch.pop("labels", None)
            return self.model(**batch).logits

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=RATE, fused=True)

    state: dict[str, Any] = {}

    def train() -> None:
        state["trainer"] = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
        )  # fmt: skip
        state["module"] = Module()
        state["trainer"].fit(state["module"], loaders[0])

    return train, lambda: state["trainer"].predict(state["module"], loaders[1])


SIDES: dict[str, Callable[[Path], Work]] = {
    "ours": lambda folder: ours(folder, "auto"),
    "ours_fp32": lambda folder: ours(folder, "fp32"),
    "predecessor": lambda folder: predecessor(Pairs(folder)),
    "hf_as_shipped": lambda folder: hugging_face(Pairs(folder), "random", 32, bf16=False),
    "hf_default": lambda folder: hugging_face(Pairs(folder), "random", 32, bf16=False),
    "hf_grouped_4x8": lambda f: hugging_face(Pairs(f), "group_by_length", 4, bf16=False),
    "hf_grouped_8x4": lambda f: hugging_face(Pairs(f), "group_by_length", 8, bf16=False),
    "hf_grouped_4x8_bf16": lambda f: hugging_face(Pairs(f), "group_by_length", 4, bf16=True),
    "hf_grouped_8x4_bf16": lambda f: hugging_face(Pairs(f), "group_by_length", 8, bf16=True),
    "cross_encoder": lambda folder: cross_encoder(Pairs(folder)),
    "lightning": lambda folder: lightning(Pairs(folder)),
}


def peak(precision: torch.dtype) -> float:
    """The best rate of a matrix product here, in operations a second of CPU time."""
    a, b = torch.randn(2048, 1024).to(precision), torch.randn(1024, 2048).to(precision)
    best = float("inf")
    for _ in range(12):
        started = time.process_time()
        a @ b
        best = min(best, time.process_time() - started)
    return 2 * 2048 * 1024 * 2048 / best


def measured(work: Callable[[], Any]) -> dict[str, float]:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work()
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def main() -> None:
    side, folder = sys.argv[1], Path(sys.argv[2])
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with contextlib.suppress(ImportError):
        import datasets

        datasets.disable_progress_bars()
    train, evaluate = SIDES[side](folder)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "peak":
            found: dict[str, Any] = {
                "fp32": peak(torch.float32),
                "bf16": peak(torch.bfloat16),
            }
        else:
            found = {"train": measured(train), "eval": measured(evaluate)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
