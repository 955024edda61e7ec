"""The command line: a mistake is answered in one line, at once, and leaves nothing behind."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from engine import command as command_module
from engine.check import did_you_mean

MISTAKES = {
    "model=resnet21": "model=resnet21: no such option, did you mean resnet20",
    "model=": "model=: no such option",
    "model=[resnet20]": "model=[resnet20]: model takes one option",
    "recipe=preresnet110_cifarzo": "no such option, did you mean preresnet110_cifarzoo or",
    "recipe=vgg99": "recipe=vgg99: no such option; python -m engine.recipes lists them all",
    "recipe=cifarzoo_shake optimizer=adamw": "optimizer=adamw: recipe=cifarzoo_shake sets optimizer.lr for another",
    "recipe=resnet20_chenyaofo model=vgg16": "it sets model.shortcut, but there is no such key with model=vgg16",
    "recipe=resnet20_chenyaofo model=resnet32": "sets model.shortcut for another model: set it as well",
    "recipe=preresnet20_cifarzoo_mixup regularization=[cutout] regularization.mixup.alpha=1": "mixup is not among the",
    "regularization=[dropot]": "regularization=dropot: no such option, did you mean dropout?",
    "trainer.max_epoch=3": "trainer.max_epoch: no such key, did you mean trainer.max_epochs?",
    "batch_size=64": "batch_size: no such key, did you mean trainer.batch_size?",
    "dropout=0.3": "dropout: no such key, did you mean regularization=[dropout]?",
    "+trainer.max_epoch=3": "trainer.max_epoch: no such key",
    "trainer.batch_size=-1": "trainer.batch_size=-1: must be a whole number >= 1",
    "trainer.batch_size=1.5": "trainer.batch_size=1.5: must be a whole number >= 1",
    "trainer.batch_size=null": "trainer.batch_size=null: must be a whole number >= 1",
    "trainer.device=gpu": "trainer.device=gpu: must be auto or cuda or mps or cpu",
    "trainer=3": "trainer=3: trainer has keys of its own",
    "optimizer.lr=fast": "optimizer.lr=fast: must be a number > 0",
    "optimizer.lr=nan": "optimizer.lr=nan: must be a number > 0",
    "optimizer.lr=": "optimizer.lr=: must be a number > 0",
    "optimizer.nesterov=1": "optimizer.nesterov=1: must be true or false",
    "optimizer.weight_decay=0.1": "this follows regularization.weight_decay.rate, set that",
    "seed=-1": "seed=-1: must be a whole number >= 0",
    "dataset.val_size=1.5": "dataset.val_size=1.5: must be a whole number >= 0 or a number > 0, < 1",
    "dataset=folder": "dataset.root must be given: the folder that holds train/ and test/",
    "dataset=folder dataset.root=/no/such/place": "dataset.root=/no/such/place: no such directory",
    "dataset=shapes dataset.classes=11": "dataset.classes=11: must be 10 or 100",
    "model.depths=[3,0,3]": "model.depths=[3,0,3]: must be a list, each member a whole number >= 1",
    "scheduler.warmup_epochs=200": "scheduler.warmup_epochs=200: not shorter than trainer.max_epochs=200",
    "scheduler.milestones=[150,100]": "scheduler=multistep: milestones [150, 100] do not ascend",
    "scheduler.milestones=[300]": "scheduler=multistep: milestone 300 lies behind the last epoch, 200",
    "scheduler.warmup_epochs=1 scheduler.warmup_shape=exponential": "an exponential warm-up cannot begin at 0",
    "scheduler.warmup_epochs=1 scheduler.warmup_steps=400": "only one of them can be given",
    "scheduler=one_cycle scheduler.peak=200": "scheduler=one_cycle: peak=200 does not lie between epoch 0 and the last",
    "model=resnet1202 trainer.compile=true": "trainer.compile=true: not with model.checkpointing=true",
    "trainer.micro_batches=200": "trainer.micro_batches=200: more parts than trainer.batch_size=128",
    "model=lenet5,resnet20": "model=lenet5,resnet20: several values make a sweep, which wants -m",
    "-m model=lenet5,resnet21": "model=resnet21: no such option",
    "-m seed=0,1 resume=outputs": "resume= goes on with one run",
    "~model": "~model: a run cannot be without",
    "a=b=c": "a=b=c: this is not KEY=VALUE",
    "=3": "=3: the key is missing",
    "attention=se": "attention goes into a network: +attention@model.block_attention=se",
    "+attention=se": "attention goes into a network: +attention@model.block_attention=se",
    "+attention@optimizer=se": "attention goes into a network",
    "+model@other=lenet5": "this group has one place, model=...",
    "~optimizer.lr": "~optimizer.lr: a run cannot be without",
    "optimizer._target_=torch.optim.SGD": "what is built is named in conf/ alone",
    "seed=5000000000": "seed=5000000000: must be a whole number >= 0, <= 4294967295",
    "optimizer=adamw optimizer.betas=[0.9]": "optimizer.betas=[0.9]: must be a list of 2, each member a number",
    "model=resnet20 model.widths=[16,32]": "model.widths=[16,32] and model.depths=[3,3,3]: there must be one",
    "model=resnet20 model.depths=[]": "there must be one entry a stage",
    "dataset=shapes dataset.classes='10'": "dataset.classes=10: must be 10 or 100",
    "dataset=cifar10 dataset.root=": "dataset.root=: must be some text",
    "--config-dir=nowhere": "--config-dir=nowhere: no such directory",
    "--config-name=evaluate": "there is one configuration",
    "dataset.root=d/ünïcode": "wants quotes",
    "model=vgg16 regularization=[drop_path]": "model=vgg16 has no place for regularization=drop_path",
    "model=vgg16 regularization=[drop_block]": "model=vgg16 has no place for regularization=drop_block",
    "regularization=[cutmix] regularization.mixup.alpha=1": "mixup is not among the regularizers: regular",
    "regularization=null": "a run cannot be without; for no regularization: regularization=[]",
    "regularization=none": "for no regularization: regularization=[]",
    "resume=nowhere": "resume=nowhere: no such directory",
    "resume=.": "resume=.: there is no checkpoint to go on from",
}
EVALUATE_MISTAKES = {
    "": "checkpoint must be given",
    "checkpoint=nowhere": "checkpoint=nowhere: there is no checkpoint (nowhere does not exist)",
    "checkpoint=.": "checkpoint=.: there is no checkpoint",
    "checkpoint=text.pt": "text.pt is not a checkpoint",
    "chekpoint=x": "chekpoint: no such key, did you mean checkpoint?",
}


def answer(program: str, arguments: str, monkeypatch, capsys) -> str:
    """What the program says to these arguments before it would import torch; its exit status must be 2."""
    monkeypatch.setattr(sys, "argv", [program, *arguments.split()])
    with pytest.raises(SystemExit) as exit_:
        command_module.command_line({"train.py": "config", "evaluate.py": "evaluate"}[program])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"{program}: .+\n", said.err), said.err
    return said.err


@pytest.mark.parametrize("arguments", MISTAKES)
def test_train_answers_a_mistake_in_one_line(arguments, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert MISTAKES[arguments] in answer("train.py", arguments, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", EVALUATE_MISTAKES)
def test_evaluate_answers_a_mistake_in_one_line(arguments, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("not a checkpoint")
    assert EVALUATE_MISTAKES[arguments] in answer("evaluate.py", arguments, monkeypatch, capsys)


def processor_time() -> float:
    """Seconds that the processes which this one has started and seen end have computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("train.py", "model=resnet21"),
        ("train.py", "optimizer.lr=fast"),
        ("train.py", "resume=."),
        ("evaluate.py", "checkpoint=text.pt"),
    ],
)
def test_the_answer_comes_at_once_and_leaves_nothing(program, arguments, tmp_path):
    """As a real command, in its own processor time: on the clock it also waits for whatever else runs."""
    (tmp_path / "text.pt").write_text("not a checkpoint")
    seconds = []
    for _ in range(3):
        begun = processor_time()
        ended = subprocess.run(
            [sys.executable, ROOT / program, *arguments.split()], cwd=tmp_path, capture_output=True, text=True
        )
        seconds.append(processor_time() - begun)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
    assert min(seconds) < 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
def test_help(program, command):
    ended = command(program, "--help")
    assert ended.returncode == 0
    assert f"python {program}" in ended.stdout
    if program == "train.py":
        for directory in (ROOT / "conf").iterdir():
            if directory.name == "recipe":
                continue  # python -m engine.recipes
            for option in directory.glob("*.yaml") if directory.is_dir() else []:
                assert re.search(rf"\b{option.stem}\b", ended.stdout), option
        assert ended.stdout.count("  python train.py") == 5


def test_the_composed_configuration_is_shown(command):
    ended = command("train.py", "model=resnext29", "--cfg", "job", "--resolve")
    assert ended.returncode == 0
    assert "cardinality: 8" in ended.stdout
    assert "weight_decay: 0.0001" in ended.stdout


def test_two_runs_that_start_in_the_same_second_have_two_directories():
    from omegaconf import OmegaConf

    names = {OmegaConf.create({"x": "${run_suffix:}"}).x for _ in range(20)}
    assert len(names) > 15
    config = OmegaConf.create({"a": "${run_suffix:}", "b": "${run_suffix:}"})
    assert config.a == config.a == config.b


def test_resume_takes_the_settings_of_the_run(tmp_path, monkeypatch):
    run = tmp_path / "it's a run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("- model=lenet5\n- seed=3\n- trainer.device=cpu\n")
    (run / "checkpoints").mkdir()
    torch.save({}, run / "checkpoints" / "last.pt")
    given = f"resume='{str(run).replace(chr(39), chr(92) + chr(39))}'"
    monkeypatch.setattr(sys, "argv", ["train.py", given, "seed=4"])
    command_module.command_line("config")
    assert sys.argv[1:4] == ["model=lenet5", "trainer.device=cpu", given]
    assert sys.argv[4] == "seed=4"
    assert "hydra.output_subdir=null" in sys.argv
    from conftest import composed

    config = composed(*sys.argv[1:], hydra=True)
    assert Path(config.hydra.run.dir) == run
    assert Path(config.resume) == run


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("resnet21", ["resnet18", "resnet20", "resnet32", "lenet5"], ", did you mean resnet20 or"),
        ("cosin", ["cosine", "step"], ", did you mean cosine?"),
        ("xyz", ["cosine", "step"], ""),
    ],
)
def test_did_you_mean(word, known, expected):
    assert did_you_mean(word, known).startswith(expected)
    assert bool(did_you_mean(word, known)) == bool(expected)
