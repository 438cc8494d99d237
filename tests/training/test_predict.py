import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from criteria_cli.data.formats import load_corpus
from criteria_cli.errors import UsageError
from criteria_cli.training.predict import Predictor

from .conftest import Trained


@pytest.fixture(scope="module")
def predictor(model_dir: Path) -> Predictor:
    return Predictor(model_dir, device="cpu")


@pytest.fixture(scope="module")
def posts(trained: Trained) -> list[str]:
    return list(load_corpus(trained.order.spec.data, Path()).texts)


def test_scores_are_those_of_the_plain_library(
    trained: Trained, predictor: Predictor, posts: list[str]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained.directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.directory)
    scores = predictor.scores(posts[:6])
    for place, criterion in enumerate(predictor.criteria):
        batch = tokenizer(
            posts[:6], [criterion.text] * 6, truncation="only_first", padding=True,
            return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            logits = model(**batch).logits
        expected = (logits[:, 1] - logits[:, 0]).numpy()
        np.testing.assert_allclose(scores[:, place], expected, atol=1e-6)


def test_a_score_hangs_on_nothing_but_its_post(predictor: Predictor, posts: list[str]) -> None:
    """Bit for bit: alone, in another order, beside much longer posts."""
    together = predictor.scores(posts)
    backwards = predictor.scores(posts[::-1])[::-1]
    assert np.array_equal(together, backwards)
    for place in (0, 7, 23):
        alone = predictor.scores([posts[place]])
        beside = predictor.scores([posts[place], " ".join(posts), "x"])
        assert np.array_equal(alone[0], together[place])
        assert np.array_equal(beside[0], together[place])


def test_decisions_follow_the_recorded_thresholds(
    model_dir: Path, predictor: Predictor, posts: list[str]
) -> None:
    record = json.loads((model_dir / "criteria.json").read_text())["calibration"]
    found = predictor.predict(posts[:5])
    assert len(found) == 5 * 9
    assert {each.prediction for each in found} == {"present", "absent"}
    assert [each.criterion_id for each in found[:9]] == [each.id for each in predictor.criteria]
    for each in found:
        odds = each.score / record["temperature"] + record["bias"]
        assert each.probability == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-6)
        limit = record["thresholds"].get(each.criterion_id, record["threshold"])
        assert each.prediction == ("present" if each.probability > limit else "absent")


def test_posts_may_bring_their_ids_and_criteria_be_chosen(
    predictor: Predictor, posts: list[str]
) -> None:
    found = predictor.predict({"p1": posts[0], "p2": posts[1]}, ["A.4", "A.1"])
    assert [(each.post_id, each.criterion_id) for each in found] == [
        ("p1", "A.4"), ("p1", "A.1"), ("p2", "A.4"), ("p2", "A.1"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"knows no criterion `A.10`"):
        predictor.predict(posts[:1], ["A.10"])
    assert predictor.predict([]) == []


def test_abstaining_leaves_what_is_far_from_the_threshold(
    predictor: Predictor, posts: list[str]
) -> None:
    plain = predictor.predict(posts)
    careful = predictor.predict(posts, abstain=True)
    kept = [(a, b) for a, b in zip(plain, careful, strict=True) if b.prediction != "abstain"]
    assert 0.5 * len(plain) < len(kept) < 0.9 * len(plain)
    assert all(a.prediction == b.prediction for a, b in kept)


def test_evidence_names_sentences_of_positive_decisions_alone(
    predictor: Predictor, posts: list[str]
) -> None:
    found = predictor.predict(posts[:8], evidence=True)
    assert any(each.evidence for each in found)
    for each in found:
        if each.prediction == "absent":
            assert not each.evidence
        text = posts[int(each.post_id)]
        for weight in each.evidence:
            assert weight.drop > 0
            assert text[weight.span.start : weight.span.end].strip()


def test_an_empty_post_has_scores(predictor: Predictor) -> None:
    assert np.isfinite(predictor.scores([""])).all()


def test_predictions_show_no_text(predictor: Predictor, posts: list[str]) -> None:
    shown = repr(predictor.predict(posts[:3], evidence=True)) + repr(predictor)
    words = posts[0].split()
    assert not any(" ".join(words[at : at + 3]) in shown for at in range(len(words) - 2))


def test_a_model_that_reads_windows_reads_the_end_of_a_post(
    model_dir: Path, posts: list[str], tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model_dir, copy)
    record = json.loads((copy / "criteria.json").read_text())
    record["input"]["long_posts"] = "windows"
    (copy / "criteria.json").write_text(json.dumps(record))
    cutting, reading = Predictor(model_dir, device="cpu"), Predictor(copy, device="cpu")
    long = " ".join(posts[:3])
    other_end = long + " I cannot sleep."
    assert np.array_equal(*(cutting.scores([text]) for text in (long, other_end)))
    assert not np.array_equal(*(reading.scores([text]) for text in (long, other_end)))
    together = reading.scores([long, "short", other_end])
    assert np.array_equal(together[:1], reading.scores([long]))
    assert np.array_equal(together[1:2], cutting.scores(["short"]))
    assert cutting.cut([long])[0]
    assert not reading.cut([long])[0]


# ---- what is refused


def test_a_changed_file_is_noticed(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained.directory, copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UsageError, match=r"does not match `criteria.json`"):
        Predictor(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ('{"schema": "criteria.model/9"}', r"reads `criteria.model/1`"),
        ('{"schema": "criteria.model/1"}', "is damaged"),
        (None, "was not written by `criteria train`"),
    ],
)
def test_a_record_that_cannot_be_read(
    content: str | None, message: str, trained: Trained, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained.directory, copy)
    if content is None:
        (copy / "criteria.json").unlink()
    else:
        (copy / "criteria.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        Predictor(copy)


def test_a_directory_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Predictor("no/such/model")


# ---- without criteria


OPEN = """
import json, sys
sys.modules["criteria_cli"] = None  # importing it fails from here on
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
directory, pairs = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
tokenizer = AutoTokenizer.from_pretrained(directory)
found = {"auto": [], "pipeline": [], "labels": model.config.id2label}
classify = pipeline("text-classification", model=directory, top_k=None, function_to_apply="none")
for post, criterion in pairs:
    batch = tokenizer(post, criterion, truncation="only_first", return_tensors="pt")
    with torch.no_grad():
        found["auto"].append(model(**batch).logits[0].tolist())
    answer = classify({"text": post, "text_pair": criterion}, truncation="only_first")
    scores = {each["label"]: each["score"] for each in answer}
    found["pipeline"].append([scores["absent"], scores["present"]])
from sentence_transformers import CrossEncoder
scores = CrossEncoder(directory, device="cpu").predict(pairs, activation_fn=torch.nn.Identity())
found["cross_encoder"] = scores.tolist()
print(json.dumps(found))
"""


def test_the_directory_opens_elsewhere_with_the_same_logits(
    trained: Trained, predictor: Predictor, posts: list[str], tmp_path: Path
) -> None:
    """From another folder, isolated from the checkout, in a process that cannot import criteria."""
    pairs = [[post, criterion.text] for post in posts[:3] for criterion in predictor.criteria[:2]]
    done = subprocess.run(
        [sys.executable, "-I", "-c", OPEN, str(trained.directory), json.dumps(pairs)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["labels"] == {"0": "absent", "1": "present"}
    ours = predictor.scores(posts[:3])[:, :2].ravel()
    for way in ("auto", "pipeline", "cross_encoder"):
        logits = np.array(found[way])
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], ours, atol=1e-6, err_msg=way)
        np.testing.assert_allclose(logits, np.array(found["auto"]), atol=1e-6, err_msg=way)


def test_the_card_says_what_it_is_not(trained: Trained) -> None:
    card = (trained.directory / "README.md").read_text()
    assert "not a diagnosis" in card
    assert re.search(r"\| F1 \(pooled\) \| 0\.\d{3} \| 0\.\d{3} to 0\.\d{3} \| 0\.\d{3} \|", card)
    assert "criteria train toy" in card
    assert re.search(r"in \d+\.\d% of \d+ positive pairs the sentence that carries most", card)


def with_record(directory: Path, **values: Any) -> Path:
    """A copy's record with other values, and without digests, as somebody else might give it."""
    path = directory / "criteria.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {}} | values))
    return directory


@pytest.mark.parametrize(
    "values",
    [
        {"criteria": []},
        {"criteria": [{"id": "A.1", "name": "n", "text": 5}]},
        {"criteria": [{"id": "A.1", "name": "n", "text": "\ud800"}]},
        {"criteria": [{"id": ["A.1"], "name": "n", "text": "t"}]},
        {"head": {"kind": "two_logits", "outputs": 2, "positive": 5, "new": True}},
        {"head": {"kind": "two_logits", "outputs": "x", "positive": 1, "new": True}},
        {"files": [1]},
        {"calibration": {"temperature": 0, "bias": 0, "threshold": 0.5, "thresholds": {},
                         "abstain_margin": 0}},
        {"calibration": {"temperature": 1, "bias": 0, "threshold": float("nan"), "thresholds": {},
                         "abstain_margin": 0}},
    ],
)  # fmt: skip
def test_a_record_that_lies_is_damaged(
    values: dict[str, Any], trained: Trained, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained.directory, tmp_path / "model")
    with pytest.raises(UsageError, match=r"criteria.json` is damaged"):
        Predictor(with_record(copy, **values), device="cpu")


def test_an_adapter_beside_the_weights_does_not_change_them_unasked(
    trained: Trained, tmp_path: Path
) -> None:
    """transformers would follow it to other weights, past every digest."""
    copy = shutil.copytree(trained.directory, tmp_path / "model")
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(UsageError, match="takes whole models only"):
        Predictor(copy, device="cpu")
