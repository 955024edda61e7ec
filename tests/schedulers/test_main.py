"""python -m schedulers: what a user sees of a schedule before training."""

import re
import shlex
import subprocess
import sys

import pytest
import torch
from PIL import Image

from engine.config.schema import read_keys
from schedulers import __main__ as program
from tests.support.commands import processor_seconds, seconds_of_torch
from tests.support.runs import CONF, ROOT, option_names


@pytest.fixture
def draw(monkeypatch, tmp_path, capsys):
    """Draw what the words say, in an empty directory; what the program says, line by line."""
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "schedulers" / "__main__.py"), *shlex.split(words)])
        program.main()
        return capsys.readouterr().out.splitlines()

    return run


def rates(said: list[str]) -> dict[str, dict[int, float]]:
    """The table: the learning rate by curve and epoch."""
    begin = next(number for number, line in enumerate(said) if line.startswith("epoch"))
    epochs, found = [int(word) for word in said[begin].split()[1:]], {}
    for line in said[begin + 1 : said.index("", begin)]:
        name, words = line[: -8 * len(epochs)].strip(), line[-8 * len(epochs) :].split()
        found[name] = {epoch: float(word) for epoch, word in zip(epochs, words, strict=True) if word != "-"}
    return found


def test_one_schedule(command, tmp_path):
    """As a user types it."""
    ended = command("-m", "schedulers", "scheduler=htd", "trainer.max_epochs=100", PYTHONPATH=str(ROOT))
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    said = ended.stdout.splitlines()
    assert said[0] == "learning rate by epoch trainer.max_epochs=100"
    assert max(map(len, said)) <= 80
    assert " 0.1 ┤" in ended.stdout
    assert said[-1] == "figure: outputs/schedule.png"
    with Image.open(tmp_path / "outputs" / "schedule.png") as picture:
        assert picture.width > picture.height > 500
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs", "schedule.png"]


def test_the_table_is_the_learning_rate(draw):
    table = rates(draw("scheduler=linear optimizer=adamw optimizer.lr=0.02 trainer.max_epochs=100"))
    expected = {epoch: 0.02 * (1 - epoch / 100) for epoch in (0, 10, 25, 50, 75, 90, 100)}
    assert table["linear"] == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_several_schedules_have_a_chart_and_a_line_each(draw):
    said = draw("scheduler=cosine,htd,step")
    assert said[2].split() == ["cosine", "htd", "step"]
    assert list(rates(said)) == ["cosine", "htd", "step"]
    assert max(map(len, said)) <= 80


def test_any_key_can_be_varied(draw):
    table = rates(draw("scheduler=polynomial scheduler.power=1,2 trainer.max_epochs=100,50"))
    assert list(table) == [f"power={power}, max_epochs={epochs}" for power in (1, 2) for epochs in (100, 50)]
    assert 50 in table["power=1, max_epochs=50"]
    assert 100 not in table["power=1, max_epochs=50"]


@pytest.mark.parametrize(
    "names",
    [["cosine", "plateau", "warmup"], pytest.param(option_names("scheduler"), marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_schedules_are_drawn_in_one_picture(draw, tmp_path, names):
    said = draw(f"scheduler={','.join(names)} scheduler.warmup_epochs=5 optimizer.lr=0.3 --png all.png")
    table = rates(said)
    assert [name.removesuffix(" (earliest)") for name in table] == names
    assert all(max(rates.values()) <= 0.3 for rates in table.values())
    assert max(map(len, said)) <= 80
    with Image.open(tmp_path / "all.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert any(colour == (0, 0x72, 0xB2) for _, colour in colours)


def test_a_logarithmic_axis_has_four_decades_at_most(draw):
    said = "\n".join(draw("scheduler=cosine,one_cycle optimizer.lr=1 --log"))
    assert "    1 ┤" in said
    assert "0.0001 ┤" in said
    assert "1e-05 ┤" not in said


def test_plateau_is_drawn_as_if_nothing_improved(draw):
    said = draw("scheduler=plateau scheduler.patience=9 trainer.max_epochs=100")
    table = rates(said)["plateau (earliest)"]
    assert table == pytest.approx({0: 0.1, 10: 0.1, 25: 1e-3, 50: 1e-5, 75: 1e-8, 90: 1e-9, 100: 1e-10}, rel=0.1)
    assert "(earliest): assumes no improvement after the first epoch; it may decay later." in said


def test_a_warmup_in_steps_is_drawn_for_cifar(draw):
    said = draw("scheduler=constant scheduler.warmup_steps=352 trainer.batch_size=128 trainer.max_epochs=4")
    assert "The warmup is plotted for 352 steps per epoch." in said
    assert rates(said)["constant"] == {0: 0, 1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}


def test_a_run_can_be_drawn(draw, tmp_path):
    """Which may be one whose command line is long forgotten."""
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("- scheduler=cosine\n- trainer.max_epochs=60\n")
    (run / "checkpoints").mkdir()
    torch.save({}, run / "checkpoints" / "last.pt")
    said = draw("resume=run")
    assert said[0] == "learning rate by epoch trainer.max_epochs=60"
    assert rates(said)["cosine"][30] == pytest.approx(0.05)


def refused(draw, words: str, capsys) -> str:
    """What is said of a mistake, in one line on standard error."""
    with pytest.raises(SystemExit) as exit_:
        draw(words)
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("python -m schedulers: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("scheduler=cos", "scheduler=cos: no such option, did you mean cosine or cosine_restarts?"),
        ("scheduler.warmup_epochs=200", "scheduler.warmup_epochs=200: must be a number >= 0, < trainer.max_epochs"),
        ("scheduler.milestones=[150,100]", "scheduler.milestones=[150, 100] are not in ascending order"),
        ("--config-dir=nowhere", "no such directory"),
        ("resume=nowhere", "no such directory"),
        ("--width=3", "no such flag"),
    ],
)
def test_a_mistake_is_answered_as_in_training(draw, words, said, capsys, tmp_path):
    """By the same check."""
    assert said in refused(draw, words, capsys)
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_in_one_of_several_is_named(draw, capsys):
    assert "scheduler=cosin: no such option, did you mean cosine" in refused(draw, "scheduler=step,cosin", capsys)
    words = "scheduler.warmup_steps=3600 trainer.max_epochs=20,10"
    assert "warmup_steps=3600: must be shorter than trainer.max_epochs=10" in refused(draw, words, capsys)


@pytest.mark.parametrize("file", ["schedule.jpg", "schedule"])
def test_a_picture_of_another_kind_is_refused(draw, capsys, file):
    assert f"--png {file}: the file name must end in .png" in refused(draw, f"--png {file}", capsys)


def test_a_place_that_cannot_be_written_is_named(draw, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit_:
        draw("--png file/schedule.png")
    assert exit_.value.code == 2
    assert "file" in capsys.readouterr().err


def test_a_mistake_is_answered_at_once():
    command = [sys.executable, "-m", "schedulers", "scheduler=cosin"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 2
    assert processor_seconds(command, ROOT) < 0.7 * seconds_of_torch()


def test_help_names_every_schedule(command):
    ended = command("-m", "schedulers", "--help", PYTHONPATH=str(ROOT))
    assert ended.returncode == 0
    assert set(option_names("scheduler")) <= set(ended.stdout.replace(",", " ").split())


@pytest.mark.slow
def test_a_terminal_without_braille(command):
    ended = command("-m", "schedulers", PYTHONPATH=str(ROOT), PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    assert "*****" in ended.stdout


@pytest.mark.slow
def test_training_does_not_pay_for_pictures(command):
    said = "import sys, train, engine.training.fit, engine.logging.summary; print('matplotlib' in sys.modules)"
    assert command("-c", said, PYTHONPATH=str(ROOT)).stdout == "False\n"


# docs/schedulers.md

PAGE = (ROOT / "docs" / "schedulers.md").read_text()


@pytest.mark.parametrize("name", option_names("scheduler"))
def test_the_page_says_each_key_with_its_value(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.M)
    text = (CONF / "scheduler" / f"{name}.yaml").read_text()
    for path, _ in read_keys(text):
        if path[0] not in ("_target_", "defaults"):
            (line,) = re.findall(rf"^{path[0]}: .*?(?=\s*(?:#|$))", text, re.M)
            assert f"`{line}`" in row


def test_the_page_says_each_key_of_a_warmup():
    section = (CONF / "config.yaml").read_text().partition("\nscheduler:\n")[2].partition("\n\n")[0]
    lines = re.findall(r"^  (\w+: \S+)", section, re.M)
    assert len(lines) == 4
    assert all(f"`scheduler.{line}`" in PAGE for line in lines)


def test_the_rate_is_the_one_that_the_batch_brings_with_it(draw):
    said = draw("scheduler=constant trainer.max_epochs=10 trainer.batch_size=512 trainer.lr_scaling=linear")
    assert set(rates(said)["constant"].values()) == {0.4}
