"""Reading a definition: precedence, sources, and a precise sentence for each wrong thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from criteria_cli.errors import UsageError
from criteria_cli.study.files import Definition, load_definition
from criteria_cli.study.frozen import as_frozen

MINIMAL = """
schema = 1
name = "mine"
[data]
format = "pairs"
path = "table.csv"
"""


def load(tmp_path: Path, text: str, *settings: str, **keywords: object) -> Definition:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_definition(str(path), settings=settings, environ={}, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("[model]\nnmae = 'x'", "unknown key `model.nmae`, did you mean `model.name`?"),
        ("[modle]\nname = 'x'", "unknown key `modle`, did you mean `model`?"),
        ("[training]\nlr = 1e-5", "unknown key `training.lr`, did you mean"),
        ("[training]\nepochs = '20'", "`training.epochs` must be a whole number, not the text"),
        ("[training]\nepochs = 2.5", "`training.epochs` must be a whole number, not 2.5"),
        ("[training]\nepochs = 0", "`training.epochs` must be at least 1, not 0"),
        # with one cycle it would be the same as `cosine`
        (
            "[training]\nscheduler_cycles = 1",
            "`training.scheduler_cycles` must be at least 2, not 1",
        ),
        ("[training]\nepochs = true", "`training.epochs` must be a whole number, not true"),
        ("[training]\nlearning_rate = 0.0", "`training.learning_rate` must be above 0, not 0"),
        ("[training]\neval_batch_size = 'big'", "must be a whole number or `auto`, not `big`"),
        ("[training]\neval_batch_size = 0", "`training.eval_batch_size` must be at least 1, not 0"),
        ("[training]\nvram_headroom = 0.95", "`training.vram_headroom` must be"),
        (
            "[validation]\nmetric = 'f1_makro'",
            (
                "`validation.metric` must be `f1`, `macro_f1` or `average_precision`, "
                "not `f1_makro`, "
                "did you mean `macro_f1`?"
            ),
        ),
        ("[validation]\ndirection = 'minimize'", "unknown key `validation.direction`"),
        ("model = 3", "`model` must be a table, not 3"),
        ("[search]\nlr = {low = 1, high = 2}", "`search.lr` is no setting of"),
        ("[search]\nlearning_rate = 1e-5", "`search.learning_rate` must be a table, not 1e-05"),
        (
            "[search]\nlearning_rate = {low = 1e-3, high = 1e-4}",
            "`search.learning_rate`: low 0.001 is above high 0.0001",
        ),
        (
            "[search]\nweight_decay = {low = 0, high = 0.1, log = true}",
            "`search.weight_decay`: a log range must start above 0",
        ),
        ("[search]\nbatch_size = {choices = []}", "`search.batch_size`: choices is empty"),
        (
            "[search]\nbatch_size = {choices = [16, 16]}",
            "`search.batch_size`: choice 16 is listed twice",
        ),
        (
            "[search]\nweight_decay = {choices = [1, 1.0]}",
            "`search.weight_decay`: choices 1 and 1 are the same",
        ),
        (
            "[search]\nbatch_size = {choices = [16, 0]}",
            "`search.batch_size`: choice 0: must be at least 1",
        ),
        (
            "[search]\nbatch_size = {low = 1.5, high = 4}",
            "`search.batch_size`: `low` must be a whole number, not 1.5",
        ),
        (
            "[search]\nscheduler = {low = 1, high = 4}",
            "needs `choices`, not a range",
        ),
        (
            "[search]\nscheduler = {choices = ['linear', 'cosin']}",
            "did you mean `cosine`?",
        ),
        (
            "[search]\nlearning_rate = {low = 1e-5, hihg = 1e-4}",
            "unknown key `search.learning_rate.hihg`, did you mean `search.learning_rate.high`?",
        ),
        (
            "[search]\nbatch_size = {choices = [8]}\n'training.batch_size' = {choices = [16]}",
            "`training.batch_size` is searched twice",
        ),
        (
            "[search]\n'model.compile' = {choices = [true, false]}",
            "`search.model.compile` cannot be searched",
        ),
        ("[search]\neval_batch_size = {choices = [8, 16]}", "cannot be searched"),
        (
            "[search]\nfocal_gamma = {low = 0.5, high = 4.0}",
            "`search.focal_gamma` does nothing: it acts only with `training.loss` at `focal`",
        ),
        (
            (
                "[search]\nloss = {choices = ['focal', 'cross_entropy']}\n"
                "focal_gamma = {low = 0.5, high = 4.0}"
            ),
            "does nothing in some trials",
        ),
        (
            (
                "[search]\nfocal_gamma = {low = 0.5, high = 4.0, when = {loss = 'focal'}}\n"
                "loss = {choices = ['focal', 'cross_entropy']}"
            ),
            "`when` names `loss`, which is sampled later",
        ),
        (
            "[search]\n'augmentation.method' = {choices = ['synonym', 'contextual']}",
            "`search.augmentation.method` does nothing",
        ),
        (
            "[search]\n'augmentation.method' = {choices = ['synonym'], when='augmentation.enable'}",
            "is never sampled: `augmentation.enable` is never true",
        ),
        (
            "[search]\nbatch_size = {choices = [8], when = {los = 'focal'}}",
            "`when` names `los`, which is no setting, did you mean `training.loss`?",
        ),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addition: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    bare = not addition.startswith("[")
    text = f"{addition}\n{MINIMAL}" if bare else f"{MINIMAL}{addition}\n"
    with pytest.raises(UsageError) as caught:
        load(Path(), text)
    assert message in caught.value.message
    assert "`mine.toml`" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) <= 200


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epochs", "`--set training.epochs` needs the form KEY=VALUE"),
        ("lr=1e-5", "`--set`: unknown setting `lr`, did you mean `training.learning_rate`?"),
        ("training.epochs=many", "`training.epochs` must be a whole number, not the text `many`"),
        ("training.epochs=[1", "the value is not TOML"),
        ("search.learning_rate.hihg=1", "unknown setting `search.learning_rate.hihg`"),
        ("=1", "needs the form KEY=VALUE"),
        ("a b=1", "is not a setting's name"),
    ],
)
def test_set_is_checked(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, MINIMAL, setting)
    assert message in caught.value.message
    assert "--set" in caught.value.message


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    environ = {"CRITERIA_DATA": str(tmp_path / "env.csv")}
    plain = load_definition(str(path), environ={})
    assert (plain.spec.data.path, plain.sources["data.path"]) == ("table.csv", str(path))
    from_environment = load_definition(str(path), environ=environ)
    assert from_environment.spec.data.path == str(tmp_path / "env.csv")
    assert from_environment.sources["data.path"] == "CRITERIA_DATA"
    flag = {"data.path": ("--data", str(tmp_path / "flag.csv"))}
    from_flag = load_definition(str(path), flags=flag, environ=environ)
    assert from_flag.spec.data.path == str(tmp_path / "flag.csv")
    assert from_flag.sources["data.path"] == "--data"
    settings = {key: source for key, _, source in from_flag.settings()}
    assert settings["training.epochs"] == "default"


def test_a_path_from_a_flag_starts_here_and_one_from_the_file_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "mine.toml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path / "here")
    definition = load_definition(
        "../there/mine.toml", flags={"data.path": ("--data", "posts.csv")}, environ={}
    )
    assert definition.spec.data.path is not None
    found = (definition.base / definition.spec.data.path).resolve()
    assert found == tmp_path / "here" / "posts.csv"


def test_set_replaces_whole_parameters_and_single_bounds(tmp_path: Path) -> None:
    text = f"{MINIMAL}[search]\nlearning_rate = {{low = 1e-6, high = 1e-4, log = true}}\n"
    whole = load(tmp_path, text, "search.learning_rate={choices=[1e-5,2e-5]}")
    assert whole.spec.search["learning_rate"].choices == (1e-5, 2e-5)
    assert whole.sources["search.learning_rate"] == "--set"
    bound = load(tmp_path, text, "search.learning_rate.low=1e-5")
    assert bound.spec.search["learning_rate"].low == 1e-5
    assert bound.spec.search["learning_rate"].high == 1e-4
    none = load(tmp_path, text, "search={}")
    assert none.spec.search == {}
    dotted = load(tmp_path, text, "search.model.hidden_dropout={low=0,high=0.2}")
    assert "model.hidden_dropout" in dotted.spec.search


def test_a_frozen_definition_keeps_what_is_local_or_given(tmp_path: Path) -> None:
    frozen = load(tmp_path, f"{MINIMAL}[training]\nepochs = 7\nwarmup_ratio = 0.2\n").spec
    now = load(
        tmp_path,
        MINIMAL.replace("table.csv", "moved.csv") + "[training]\nepochs = 9\n",
        "training.batch_size=64",
        "pruner.patience={folds=1}",
        "search.weight_decay={low=0,high=0.1}",
    )
    found = as_frozen(now, frozen)
    assert (found.spec.training.epochs, found.spec.training.warmup_ratio) == (7, 0.2)
    assert (found.spec.training.batch_size, found.spec.data.path) == (64, "moved.csv")
    assert found.spec.pruner.patience is not None
    assert found.spec.search == {}
    sources = {key: source for key, _, source in found.settings()}
    assert sources["training.epochs"] == sources["training.warmup_ratio"] == "study mine"
    assert sources["training.batch_size"] == "--set"


def test_a_bare_word_is_text(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, "data.path=other.csv").spec.data.path == "other.csv"


def test_a_flag_and_set_for_the_same_key_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        load(tmp_path, MINIMAL, "budget.trials=5", flags={"budget.trials": ("--trials", 6)})


def test_a_range_over_fractions_is_a_range_of_fractions(tmp_path: Path) -> None:
    """`low = 0, high = 1` for a dropout must not sample 0 and 1 alone."""
    definition = load(tmp_path, f"{MINIMAL}[search]\nweight_decay = {{low = 0, high = 1}}\n")
    assert not definition.spec.search["weight_decay"].integer


def test_1e_minus_6_is_a_number(tmp_path: Path) -> None:
    """Trap 13: YAML reads `1e-6` as text."""
    definition = load(tmp_path, f"{MINIMAL}[training]\nlearning_rate = 1e-6\n")
    assert definition.spec.training.learning_rate == 1e-6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfes\x00", "is not UTF-8 text (byte 0)"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"schema = 1\na = = 1\n", "line 2, column 5: not TOML: invalid value"),
        (b"name = 'x'\n", "does not say its schema"),
        (b"schema = 9\nname = 'x'\n", "has schema 9, this criteria"),
        (b"schema = 1\nname = '../../etc'\n[data]\nformat='synthetic'", "study name may use"),
        (b"schema = 1\n[data]\nformat='synthetic'", "`name` is missing"),
        (b"schema = 1\nname = 'x'\n[data]\nformat='pairs'\n", "needs `data.path`"),
    ],
)
def test_a_file_that_is_no_definition(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_definition(str(path), environ={})
    assert message in caught.value.message


def test_references_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for reference, message in [
        ("x.toml", "study file `x.toml` does not exist"),
        ("runs", "`runs` is a directory, not a study file"),
        ("demmo", "no study file and no bundled definition `demmo`, did you mean `demo`?"),
    ]:
        with pytest.raises(UsageError) as caught:
            load_definition(reference, environ={})
        assert message in caught.value.message


def test_a_home_path_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UsageError) as caught:
        load_definition(str(tmp_path / "x.toml"), environ={})
    assert str(tmp_path) not in caught.value.message
    assert "~/x.toml" in caught.value.message
