"""Checkpoints as the hub's cache holds them, without the hub: DeBERTa-v3 is published as a pickle
and a SentencePiece model, and that is the default model."""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoModelForMaskedLM

from .architectures import MAIN, TEXTS

NAME = "someone/deberta-like"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(home: Path) -> Path:
    """A snapshot in a hub cache: configuration, SentencePiece model, pickled weights."""
    folder = home / "hub" / f"models--{NAME.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    config = MAIN["deberta-v2"].to_dict()
    config["vocab_size"] = 128
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "vocab_type": "spm"})
    )
    words = snapshot / "words.txt"
    words.write_text("\n".join(TEXTS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(snapshot / "spm"), vocab_size=60, pad_id=0, bos_id=1,
        eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]", hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    words.unlink()
    (snapshot / "spm.vocab").unlink()
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(type(MAIN["deberta-v2"]).from_dict(config))
    torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    return snapshot


def load(home: Path) -> subprocess.CompletedProcess[str]:
    script = (
        "import json\n"
        "from criteria_cli.errors import UsageError\n"
        "from criteria_cli.study.spec import ModelSpec\n"
        "from criteria_cli.training.model import load_encoder\n"
        "from criteria_cli.training.token_pairs import PairTemplate\n"
        "try:\n"
        f"    encoder = load_encoder(ModelSpec(name={NAME!r}))\n"
        "except UsageError as error:\n"
        "    print(json.dumps({'error': error.message})); raise SystemExit\n"
        "ids = encoder.tokenizer('I sleep badly.', 'Tired')['input_ids']\n"
        "template = PairTemplate.of(encoder.tokenizer)\n"
        "weight = encoder.module.deberta.embeddings.word_embeddings.weight\n"
        "print(json.dumps({'ids': ids, 'new': encoder.head.new, 'source': encoder.source,\n"
        "    'special': [template.before, template.between, template.after],\n"
        "    'tokens': encoder.tokenizer.convert_ids_to_tokens(ids),\n"
        "    'first': weight[5, 5].item()}))\n"
    )
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )


def test_pickled_weights_and_a_sentencepiece_tokenizer_are_read(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    done = load(tmp_path)
    found = json.loads(done.stdout)
    assert found["new"]
    assert found["source"] == COMMIT
    assert found["special"] == [[1], [2], [2]]
    assert found["tokens"][0] == "[CLS]"
    assert "".join(found["tokens"][1:]).startswith("\u2581I\u2581sleep")
    state = torch.load(snapshot / "pytorch_model.bin", weights_only=True)
    expected = state["deberta.embeddings.word_embeddings.weight"][5, 5].item()
    assert found["first"] == pytest.approx(expected)
    assert done.stderr == ""


OPEN_CONFIG = (
    "from criteria_cli.errors import UsageError\n"
    "from criteria_cli.training.pretrained import open_config\n"
    "try:\n"
    f"    open_config({NAME!r})\n"
    "except UsageError as error:\n"
    "    print(error.message)\n"
)


def test_a_hub_that_refuses_connections_is_asked_once(tmp_path: Path) -> None:
    once = (
        "import time\ndef sleep(seconds): raise AssertionError('asked again')\ntime.sleep = sleep\n"
    )
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        environment = os.environ | {
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", once + OPEN_CONFIG],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.stdout == f"model `{NAME}` is not in the cache and the hub cannot be reached\n", (
        done.stderr
    )


@pytest.mark.parametrize("proxy", ["foo://user:sesame@x", "socks5://user:sesame@127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(
    proxy: str, tmp_path: Path
) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    environment |= {"HTTPS_PROXY": proxy, "NO_PROXY": "", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-c", OPEN_CONFIG], env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith(f"model `{NAME}` cannot be downloaded: "), done.stderr
    assert "proxy" in done.stdout
    assert "sesame" not in done.stdout + done.stderr


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    with (snapshot / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Evil(), file)
    found = json.loads(load(tmp_path).stdout)
    assert "are a pickle that holds more than tensors" in found["error"]
    assert not Path("ran").exists()


def test_a_snapshot_without_weights_is_said_to_be_missing_them(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    (snapshot / "pytorch_model.bin").unlink()
    assert (
        "is not in the cache and HF_HUB_OFFLINE is set"
        in json.loads(load(tmp_path).stdout)["error"]
    )
