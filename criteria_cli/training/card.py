"""The model card: numbers, intended use and limits. Written here, for libraries' own cards embed
rows of the training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEADER = """---
library_name: transformers
pipeline_tag: text-classification
tags:
- cross-encoder
- criteria
---

# {title}

A cross-encoder that reads a post and one criterion and says how likely the post shows it.
It was fine-tuned from `{base}` by criteria {criteria_version}.

**It is not a diagnosis.** It is meant for research: to find posts worth a trained person's
reading, or to count in the aggregate. It has not been evaluated for decisions about a person,
and must not be used for them. It speaks about texts like those it learnt from, and says nothing
reliable about other languages, platforms or ways of writing. A model can remember what it was
trained on: share it only with those who may see the data.
"""

_USE = """
## Use

```python
from transformers import pipeline

score = pipeline("text-classification", model="PATH", top_k=None)
score({{"text": post, "text_pair": criterion}})
```

```python
from criteria_cli import Predictor  # calibrated probabilities and the thresholds below

Predictor("PATH").predict([post])
```

The post comes first. {long_posts}
"""

_LONG_POSTS = {
    "truncate": "Pairs longer than {max_length} tokens lose the end of the post, never the "
    "criterion.",
    "windows": "`Predictor` reads a post that does not fit into {max_length} tokens in overlapping "
    "windows, as in training; other libraries cut it.",
}

_COLLAPSED = (
    "**In {folds} of the folds the model says the same of every pair: it learnt nothing there. Do "
    "not use this model.**"
)

_EVIDENCE = (
    "Evidence, by leaving out one sentence at a time: in {precision_at_1:.1%} of {pairs} positive "
    "pairs the sentence that carries most is an annotated one, by chance in {chance:.1%}."
)


def model_card(record: Mapping[str, Any]) -> str:
    """The card of a model with this `criteria.json`. It holds no text of the data."""
    sections = [
        _HEADER.format(
            title=record["study"]["name"],
            base=record["base"]["name"],
            criteria_version=record["versions"]["criteria"],
        ),
        _USE.format(
            long_posts=_LONG_POSTS[record["input"]["long_posts"]].format(
                max_length=record["input"]["max_length"]
            )
        ),
        _results(record),
        _criteria_table(record),
        _data(record),
        _making(record),
    ]
    return "\n".join(section.strip("\n") + "\n" for section in sections)


def _results(record: Mapping[str, Any]) -> str:
    estimates = record["estimates"]
    nested, intervals = estimates["nested"], estimates["intervals"]
    rows = ["| | nested | 95 % interval | optimistic |", "|---|---|---|---|"]
    for metric, name in _METRICS.items():
        low, high = intervals[metric]
        optimistic = estimates["optimistic"].get(metric)
        rows.append(
            f"| {name} | {nested[metric]:.3f} | {low:.3f} to {high:.3f} | {_number(optimistic)} |"
        )
    search = estimates.get("search")
    baseline = nested["all_positive_f1"]
    lines = [
        "## Results",
        "",
        *rows,
        "",
        f"*Nested*: {estimates['nested_means']}",
        "",
        f"*Optimistic*: {estimates['optimistic_means']}",
        "",
        f"Calling every pair positive has F1 {baseline:.3f}. Intervals: bootstrap over groups.",
    ]
    evidence = estimates["evidence"]
    if evidence:
        lines += ["", _EVIDENCE.format(**evidence)]
    if estimates["collapsed_folds"]:
        lines += ["", _COLLAPSED.format(folds=len(estimates["collapsed_folds"]))]
    if search is not None:
        lines += ["", f"The search itself reported {search:.3f}, {estimates['search_means']}"]
    return "\n".join(lines) + "\n"


def _criteria_table(record: Mapping[str, Any]) -> str:
    rows = [
        "## Criteria",
        "",
        "| criterion | positives | precision | recall | F1 | 95 % interval | AUROC | threshold |",
        "|---|---|---|---|---|---|---|---|",
    ]
    calibration = record["calibration"]
    for criterion in record["criteria"]:
        name = criterion["id"]
        values = record["estimates"]["per_criterion"].get(name)
        if values is None:
            continue
        low, high = values["intervals"]["f1"]
        limit = calibration["thresholds"].get(name)
        shown = f"{limit:.3f}" if limit is not None else f"{calibration['threshold']:.3f} (all)"
        rows.append(
            f"| {name} {criterion['name']} | {values['positives']:.0f} "
            f"| {values['precision']:.3f} | {values['recall']:.3f} | {values['f1']:.3f} "
            f"| {low:.3f} to {high:.3f} | {values['auroc']:.3f} | {shown} |"
        )
    return "\n".join(rows) + "\n"


def _data(record: Mapping[str, Any]) -> str:
    data = record["data"]
    return (
        "## Data\n\n"
        f"{data['pairs']} pairs ({data['positives']} positive) of {data['posts']} posts in "
        f"{data['groups']} groups, and {len(record['criteria'])} criteria. "
        f"{data['cut_share']:.1%} of the pairs were cut to fit. SHA-256 of the data: "
        f"`{data['sha256']}`. The data is not part of this model.\n"
    )


def _making(record: Mapping[str, Any]) -> str:
    settings = "\n".join(
        f"{section}.{key} = {value!r}"
        for section, values in record["hyperparameters"].items()
        for key, value in values.items()
        if value is not None
    )
    versions = ", ".join(f"{name} {value}" for name, value in sorted(record["versions"].items()))
    study = record["study"]
    return (
        "## How it was made\n\n"
        f"{study['origin'][:1].upper()}{study['origin'][1:]}; seed {study['seed']}; "
        f"{record['final']['epochs']} epochs on all data. {versions}.\n\n"
        f"```\n{settings}\n```\n\n"
        "To make it again, with the data of that digest and the study's definition: "
        f"`{study['command']}`.\n"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


_METRICS = {
    "f1": "F1 (pooled)",
    "macro_f1": "F1 (mean over criteria)",
    "precision": "precision",
    "recall": "recall",
    "auroc": "AUROC",
    "average_precision": "average precision",
}
