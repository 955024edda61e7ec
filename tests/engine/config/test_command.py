"""The command line: a mistake is answered in one line, at once, and leaves nothing behind."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import command as command_module
from engine.config.did_you_mean import did_you_mean
from engine.run import exit
from engine.run.find_checkpoint import find_checkpoints
from tests.support.commands import answer, processor_seconds, seconds_of_torch
from tests.support.runs import ROOT, composed

# What was typed, as a shell reads it, and part of the answer.
OPTIONS = {
    "model=[resnet20]": "model=[resnet20]: model takes one option",
    "recipe=resnet20_chenyaofo model=vgg16": "it sets model.shortcut, but there is no such key with model=vgg16",
    "recipe=resnet20_chenyaofo model=resnet32": "sets model.shortcut for another model: set it as well",
    "recipe=preresnet20_cifarzoo_mixup regularization=[cutout] regularization.mixup.alpha=1": "mixup is not selected",
    "~regularization": "for none: regularization=[]",
    "regularization=none": "for none: regularization=[]",
    "logger=none": "for none: logger=[]",
    "trainer.graph=true": "trainer.graph: renamed to logger.tensorboard.log_graph",
    "trainer.micro_batches=2": "trainer.micro_batches: renamed to trainer.gradient_accumulation",
    "model.checkpointing=true": "model.checkpointing: renamed to model.gradient_checkpointing",
    "+regularization=dropout": "select an option of this group with regularization=...",
    "~model": "~model: this group is required",
    "model/x=resnet20": "no config group model/x, did you mean model?",
    "+attention=se": "add attention to the model: +attention@model.block_attention=se",
    "+attention@model.block_attention=see": "attention=see: no such option, did you mean se?",
    "+attention@model.nowhere_attention=se": "model=resnet20 does not support model.nowhere_attention",
    "model=lenet5 +attention@model.block_attention=se": "model=lenet5 does not support model.block_attention",
}
KEYS = {
    "trainer.max_epoch=3": "trainer.max_epoch: no such key, did you mean trainer.max_epochs?",
    "dropout=0.3": "dropout: no such key, did you mean regularization=[dropout]?",
    "optimizer=adam optimizer.momentum=0.9": "optimizer.momentum: no such key; optimizer has lr, betas, eps",
    "regularization=[cutmix] regularization.mixup.alpha=1": "mixup is not selected: regular",
    "loss.label_smoothing=0.1": "did you mean regularization=[label_smoothing]?",
    "trainer=3": "trainer=3: trainer has nested keys",
    "optimizer.weight_decay=0.1": "takes the value of regularization.weight_decay.rate, set that",
    "~optimizer.lr": "~optimizer.lr: this key is required",
    "optimizer._target_=torch.optim.SGD": "a _target_ can only be set in conf/",
    "step.sam={_target_:os.system}": "a _target_ can only be set in conf/",
    "a=b=c": "a=b=c: this is not KEY=VALUE",
    "resnet20": "resnet20: this is not KEY=VALUE, did you mean model=resnet20?",
    "optimizer adamw": "optimizer: this is not KEY=VALUE, did you mean optimizer=...?",
    "=3": "=3: the key is missing",
    "seed=foo(3)": "there is no foo(...); for a sweep there are choice, range, interval",
    "seed=range(3": "its brackets do not match",
    "-m seed=0, 1": "seed=0,: a value is missing after the comma; write lists without spaces, seed=A,B",
    "seed=\x1b[31m": "seed=\\x1b[31m: this is not KEY=VALUE",
}
VALUES = {
    "trainer.batch_size='\"64\"'": "trainer.batch_size='64': must be a whole number >= 2",
    "optimizer=adamw optimizer.betas=0.9": "optimizer.betas=0.9: must be a list of 2, each member a number",
    f"seed={'9' * 5000}": "999...: longer than 4,000 characters",
    f"model.depths={'[' * 300 + ']' * 300}": "nested too deeply",
    "'seed=\"a\nb\"'": "seed=a b: must be a whole number",
    "dataset=folder": "dataset.root must be given: directory that contains train/ and test/",
    "dataset=folder dataset.root=/no/such/place": "dataset.root=/no/such/place: no such directory",
    "dataset=cifar10 dataset.root=/dev/null": "dataset.root=/dev/null: /dev/null is not a directory",
    "'dataset.root=\"~nobody-of-that-name\"'": "there is no user nobody-of-that-name",
    "dataset.mean=[128,128,128]": "dataset.mean=[128,128,128]: must be a list of 3, each member a number >= 0, <= 1",
    "dataset=shapes \"dataset.classes='10'\"": "dataset.classes='10': must be 10 or 100",
}
REFERENCES = {
    "'trainer.batch_size=${trainer.batch_size}'": "the interpolation cannot be resolved (Recursive",
    "'dataset.root=${oc.env:NO_SUCH_VARIABLE}'": "Environment variable 'NO_SUCH_VARIABLE' not found",
}
TOGETHER = {
    "model=resnet20 model.widths=[16,32]": "model.widths=[16,32] and model.depths=[3,3,3]: must have one entry per",
    "model=sknet26 model.kernels=[3]": "model.kernels=[3] and model.dilations=[1,2]: must have one entry per branch",
    "model=sknet26 model.width=100": "model.width=100: must be a whole number >= 1, <= 4096, multiple of groups (32)",
    "model=resnet1202 trainer.compile=true": "cannot be combined with model.gradient_checkpointing=true",
    "trainer.precision=fp16 trainer.device=cpu": "trainer.precision=fp16: not supported with trainer.device=cpu",
    "init_from=nowhere.pth": "init_from=nowhere.pth: no weights found (nowhere.pth does not exist)",
    "init_only=true": "init_only=true: requires init_from=",
    "augmentation.flip.alternating=true augmentation.flip.probability=0": "flip.probability=0: with augmentation",
    "optimizer.momentum=0": "optimizer.nesterov=true: requires optimizer.momentum > 0",
    "scheduler.warmup_steps=80000": "scheduler.warmup_steps=80000: must be shorter than trainer.max_epochs=200 of 3",
    "scheduler.warmup_epochs=1 scheduler.warmup_steps=400": "scheduler.warmup_epochs=1: only one of them can be given",
    "scheduler.milestones=[150,100]": "scheduler.milestones=[150, 100] are not in ascending order",
    "scheduler.milestones=[300]": "scheduler.milestones=[300]: must be a list, each member a number > 0, <= trainer.m",
    "scheduler=one_cycle scheduler.peak=0.01 scheduler.warmup_epochs=9": "scheduler.peak=0.01 is not between epoch",
    "scheduler=swa scheduler.begin=0.01 scheduler.warmup_epochs=9": "scheduler.begin=0.01 is not between epoch 9",
    "scheduler=warmup_stable_decay scheduler.decay=199": "scheduler.decay=199 is longer than the run after its warmu",
    "regularization=[cutout] regularization.cutout.length=33": "cutout.length=33: longer than the images, which have",
    "dataset.val_size=49991": "dataset.val_size=49991: leaves too few of 50,000 training images for 10 classes",
    "dataset=cifar100 dataset.labels=coarse dataset.val_size=49981": "leaves too few of 50,000 training images for 20",
    "dataset.train_limit=5": "dataset.train_limit=5: fewer images than classes, which are 10",
    "lr_find=true resume=.": "resume=.: no checkpoint to resume from",
}
MISTAKES = OPTIONS | KEYS | VALUES | REFERENCES | TOGETHER
# Of train.py alone, since `python -m schedulers` has flags of its own and leaves no directories.
FLAGS = {
    "--epochs=10": "--epochs=10: no such flag; overrides have no dashes, KEY=VALUE",
    "--model resnet20": "--model: no such flag; overrides have no dashes, KEY=VALUE, did you mean model=..",
    "--cfg job --package nowhere": "--package nowhere: no such key",
    "--cfg job -m": "only one of them can be given",
    "--run --info": "only one of them can be given",
    "--resolve": "--resolve and --package belong to --cfg",
    "--experimental-rerun config.pickle": "--experimental-rerun runs a pickle file",
    "--shell-completion": "give install=, uninstall= or query= with one of bash, fish, zsh",
    "--config-name=evaluate": "there is one configuration",
    "--config-dir=nowhere": "--config-dir=nowhere: no such directory",
}
SWEEPS = {
    "model=lenet5,resnet20": "model=lenet5,resnet20: several values are a sweep, which requires -m",
    "-m model=lenet5,resnet21": "model=resnet21: no such option",
    "-m 'seed=range(0,3,0)'": "seed=range(0,3,0): range() arg 3 must not be zero",
    "-m 'optimizer.lr=interval(0,1)'": "interval(...) requires hydra/sweeper=optuna",
    "-m 'seed=range(0,100000)'": "this sweep has at least 1,001 jobs, more than the limit of 1,000",
    "-m 'seed=range(0,40)' 'optimizer.lr=range(1,40)'": "this sweep has at least 1,560 jobs",
    "-m seed=0,1 sweep=a/b": "sweep=a/b: must consist of letters, digits, and . + - _",
    "-m seed=0,1 sweep=a lr_find=true": "lr_find=true: cannot be combined with sweep=",
    "-m seed=0,1 hydra.sweep.subdir=same": "hydra.sweep.subdir=same: each job needs a directory of its own",
    "-m seed=0,1 hydra.sweep.dir=/dev/null": "hydra.sweep.dir=/dev/null: /dev/null is not a directory",
    "-m resume=a,b": "resume= takes one run",
}
HYDRA = {
    "hydra.run.dir=null": "hydra.run.dir=null: field 'hydra.run.dir' is not Optional",
    "hydra.run.dir=/proc/x": "hydra.run.dir=/proc/x: ",
    f"hydra.run.dir={'x' * 300}": "File name too long",
    "~hydra.run.dir": "~hydra.run.dir: set Hydra's keys with hydra.run.dir=...",
    "hydra.mode=MULTIRUN": "hydra.mode: no such key; of those of Hydra there are hydra.run.dir, hydra.sweep.dir,",
    "+hydra.job_logging.handlers.x={class:os.system}": "hydra.job_logging.handlers.x: no such key",
    "hydra.sweeper.max_batch_size=0": "hydra/sweeper=basic has no settings",
    "+hydra.sweeper.params={seed:3}": "hydra/sweeper=basic has no settings",
    "-m hydra/launcher=joblib hydra.launcher.n_job=2": "n_job: no such key, did you mean hydra.launcher.n_jobs",
    "hydra/launcher=joblip": "hydra/launcher=joblip: no such option",
    "hydra=x": "no config group hydra",
}
RESUME = {
    "resume=nowhere": "resume=nowhere: no such directory",
    "resume=/dev/null": "resume=/dev/null: not a directory",
    "resume=.": "resume=.: no checkpoint to resume from",
    "resume=a,b": "resume= takes one run",
    f"resume={'x' * 300}": "File name too long",
}
EVALUATE_MISTAKES = {
    "": "checkpoint must be given",
    "checkpoint=.": "checkpoint=.: no checkpoint found",
    "checkpoint=runs": "(runs/checkpoints/last.pt does not exist); runs in it: runs/a, runs/b",
    "checkpoint=[]": "checkpoint=[]: give at least one",
    "checkpoint=[text.pt,./text.pt]": "text.pt is not a checkpoint",
    "checkpoint=text.pt cost_compile=true": "cost_compile=true: requires cost=true",
    "checkpoint=text.pt robustness=true robustness_limit=0": "robustness_limit=0: must be a whole number >= 1",
    "checkpoint=text.pt robustness=true robustness_root=nowhere": "robustness_root=nowhere: no such directory",
    "checkpoint=text.pt robustness_limit=5": "robustness_limit=5: requires robustness=true",
    "-m checkpoint=text.pt,nowhere": "text.pt is not a checkpoint",
    "checkpoint=text.pt,nowhere": "several values are a sweep, which requires -m",
    "chekpoint=x": "chekpoint: no such key, did you mean checkpoint?",
    "text.pt": "text.pt: this is not KEY=VALUE",
    "--checkpoint=text.pt": "--checkpoint=text.pt: no such flag; overrides have no dashes",
    "checkpoint=text.pt predict=[]": "predict=[]: must be some text or a list of 1 to 1000",
    "checkpoint=text.pt export=onnx,torch": "which requires -m; one list is written export=[onnx,torch]",
    "checkpoint=text.pt export=[onnx,tflite]": "export=[onnx,tflite]: must be onnx or torch or safetensors or a list",
    "checkpoint=text.pt root=text.pt": "root=text.pt: text.pt is not a directory",
    "checkpoint=text.pt tta=flop": "tta=flop: no such option, did you mean flip?",
    "checkpoint=text.pt tta.pixels=3": "tta.pixels: no such key",
    "checkpoint=text.pt model=resnet20": "no config group model; the model and the data are those of the checkpoint",
    "checkpoint=text.pt hydra.run.dir=x": "hydra.run.dir: no such key; of those of Hydra there are hydra.verbose",
}
# More of each kind, which take no other way through the checks: slow.
MORE = {
    "model=resnet21": "model=resnet21: no such option, did you mean resnet20",
    "model=": "model=: no such option",
    "'model=${seed}'": "model=${seed}: no such option",
    "scheduler=cos": "scheduler=cos: no such option, did you mean cosine or cosine_restarts?",
    "regularization=[dropot]": "regularization=dropot: no such option, did you mean dropout?",
    "models=resnet20": "models: no such key, did you mean model?",
    "model.depths.0=1": "model.depths.0: no such key, did you mean model.depths",
    "optimizer.lr.x=1": "optimizer.lr.x: no such key, did you mean optimizer.lr or",
    "dataset.mirrors=[{_target_:os.system}]": "a _target_ can only be set in conf/",
    "dataset.root=photos(1)/x": "dataset.root=photos(1)/x: this is not KEY=VALUE; quote a value with special char",
    "trainer.batch_size=-1": "trainer.batch_size=-1: must be a whole number >= 2",
    "trainer.device=gpu": "trainer.device=gpu: must be auto or cuda or mps or cpu",
    "optimizer.lr=fast": "optimizer.lr=fast: must be a number > 0",
    "optimizer.lr=": "optimizer.lr=: must be a number > 0",
    "'seed=\"!!python/object/apply:os.system [id]\"'": "seed=!!python/object/apply:os.system [id]: must be a whole",
    "dataset.val_size=1.5": "dataset.val_size=1.5: must be a whole number >= 0, <= 10000000 or a number > 0, < 1",
    "model.depths=3": "model.depths=3: must be a list of 1 to 6, each member a whole number >= 1",
    "model.shortcut=D": "model.shortcut=D: must be A or A_symmetric or B or C",
    "model=shake_shake26_2x32d model.width=33": "model.width=33: must be a whole number >= 2, <= 4096, multiple of 2",
    "tta=flip_shift tta.pixels=32": "tta.pixels=32: must be a whole number >= 1, < 32",
    "'trainer.batch_size=${nothing}'": "trainer.batch_size=${nothing}: the interpolation cannot be resolved",
    "'model.depths=${model}'": "model.depths=${model}: the interpolation cannot be resolved",
    "'trainer.batch_size=${oc.env:PATH}'": "must be a whole number",
    "'trainer.batch_size=${oc.decode:\"1.5\"}'": "trainer.batch_size=1.5: must be a whole number",
    "model=vgg16 regularization=[drop_path]": "model=vgg16 does not support regularization=drop_path",
    "trainer.gradient_accumulation=200": "must be a whole number >= 1, <= batch_size (128)",
    "scheduler.warmup_epochs=200": "scheduler.warmup_epochs=200: must be a number >= 0, < trainer.max_epochs (200)",
    "scheduler=one_cycle scheduler.peak=200": "scheduler.peak=200: must be a number > 0, < trainer.max_epochs (200)",
    "scheduler=htd scheduler.lower=3": "scheduler.lower=3: must be a number >= -100, < upper (3.0)",
    "regularization=[swa] regularization.swa.start=201": "swa.start=201: must be a number > 0, <= trainer.max_epochs",
    "regularization=[random_erasing] regularization.random_erasing.smallest=0.5": "smallest=0.5: must be a number > 0",
    "regularization=[scale_jitter] regularization.scale_jitter.smallest=2": "smallest=2: must be a number >= 1, <= la",
    "--cfg": "argument --cfg/-c: expected one argument",
    "-m seed=0,x": "seed=x: must be a whole number",
    "-m 'model=glob(vgg*)' regularization=[drop_path]": "model=vgg11 does not support regularization=drop_path",
    "-m 'regularization=[drop_path],[]' model=resnet20,vgg16": "model=vgg16 does not support regularization=drop_path",
    "-m seed=0,1 sweep_on_error=end": "sweep_on_error=end: must be continue or stop",
    "'hydra.run.dir=${nothing}'": "hydra.run.dir=${nothing}: the interpolation cannot be resolved",
    "'hydra.run.dir=${hydra.run.dir}'": "the interpolation cannot be resolved (Recursive",
    "hydra.run.dri=x": "hydra.run.dri: no such key, did you mean hydra.run.dir?",
    "hydra.verbose=loud": "hydra.verbose=loud: must be true or false or a list, each member some text",
    "+hydra.callbacks.x._target_=os.system": "a _target_ can only be set in conf/",
    "hydra/lunchar=basic": "no config group hydra/lunchar, did you mean hydra/launcher?",
}
MORE_OF_EVALUATE = {
    "checkpoint=nowhere": "checkpoint=nowhere: no checkpoint found (nowhere does not exist)",
    "checkpoint=text.pt": "text.pt is not a checkpoint",
    "checkpoint=bare.safetensors": "bare.safetensors is not a checkpoint; train.py init_from=... init_only",
    "checkpoint=runs/*": "checkpoint=runs/*: no checkpoint found",
    "checkpoint=[nowhere,text.pt]": "checkpoint=nowhere: no checkpoint found (nowhere does not exist)",
    "checkpoint=[3]": "checkpoint=[3]: must be some text or a list",
    "'checkpoint=\"~nobody-of-that-name\"'": "no checkpoint found",
    "checkpoint=text.pt device=tpu": "device=tpu: must be auto or cuda or mps or cpu",
    "checkpoint=text.pt trainer.device=cpu": "trainer.device: no such key, did you mean device?",
}
# The overrides.yaml of a run that is to go on, which may be somebody else's.
SAVED = {
    "": "is damaged: not a list of overrides",
    "model: lenet5": "is damaged: not a list of overrides",
    "- model=lenet5\n- 3": "is damaged: not a list of overrides",
    "- [model=lenet5]": "is damaged: not a list of overrides",
    "- [": "is damaged: ",
    "\xff": "is damaged: ",
    "!!python/object/apply:os.system ['touch ran']": "is damaged: ",
    "- !!python/object/apply:os.system ['touch ran']": "is damaged: ",
    "- lenet5": "overrides.yaml: lenet5: this is not KEY=VALUE",
    "- --config-dir=/tmp": "overrides.yaml: --config-dir=/tmp: this is not KEY=VALUE",
    "- --experimental-rerun=x": "overrides.yaml: --experimental-rerun=x: this is not KEY=VALUE",
    "- model=resnet21": "model=resnet21: no such option",
    "- seed=0,1": "seed=0,1: several values are a sweep",
    "- model._target_=os.system": "model._target_=os.system: a _target_ can only be set in conf/",
    "- ++model._target_=os.system": "++model._target_=os.system: a _target_ can only be set in conf/",
    "- step.sam={_target_:os.system}": "a _target_ can only be set in conf/",
    "- hydra.launcher._target_=os.system": "Hydra's own keys are not read from a file",
    "- +hydra.searchpath=[file:///tmp]": "+hydra.searchpath=[file:///tmp]: Hydra's own keys are not read from a file",
    "- hydra.run.dir=/tmp": "hydra.run.dir=/tmp: Hydra's own keys are not read from a file",
    "- hydra/launcher=basic": "hydra/launcher=basic: Hydra's own keys are not read from a file",
    "- ~hydra/launcher": "~hydra/launcher: Hydra's own keys are not read from a file",
    "- model@hydra.launcher=lenet5": "select an option of this group with model=...",
    "- 'dataset.root=${oc.env:HOME}'": "dataset.root=${oc.env:HOME}: resolvers are not allowed in this file",
    "- 'dataset.mirrors=[\"http://x/${oc.env:HOME}\"]'": "resolvers are not allowed in this file",
    "- lr_find=true": "lr_find=true: cannot be combined with resume=",
}
# An option of one's own: its group, its file, part of the answer.
OWN_FILES = [
    ("model", "", "not a mapping of keys to values"),
    ("model", "- a\n- b", "not a mapping of keys to values"),
    ("model", "a: [", "model/mine.yaml, line 1: "),
    ("model", "a: 1\na: 2", "model/mine.yaml, line 2: found duplicate key a"),
    ("model", "\xff", "'utf-8' codec can't decode"),
    ("model", "a: &x [*x]", "self-referential"),
    ("model", "!!python/object/apply:os.system ['touch ran']", "could not determine a constructor for the tag"),
    ("model", "_target_: !!python/name:os.system", "could not determine a constructor for the tag"),
    ("model", "width: 3", "model=mine: its file has no _target_"),
    ("model", "_target_: models.resnet.ResNett", "model=mine: _target_ models.resnet.ResNett"),
    ("model", "_target_: no_such_package.Net", "model=mine: _target_ no_such_package.Net"),
    ("model", "defaults: [mine]", "self-referential"),
    ("model", "defaults: nothing", "defaults must be a list"),
    ("model", "defaults: [resnet20]\nwidht: 3", "model=mine does not support model.widht"),
    ("model", "defaults: [resnet20]\ndepths: [1, 0, 1]", "model.depths=[1,0,1]: must be a list of 1 to 6"),
    ("model", "defaults: [resnet20]\ndepths: ${nothing}", "model.depths: the interpolation cannot be resolved"),
    ("optimizer", "lr: 0.1", "optimizer=mine: its file has no _target_"),
    ("scheduler", "_target_: schedulers.cosine.Cosine\nfinl: 3", "unexpected keyword argument 'finl'"),
    (
        "regularization",
        "rate: 1",
        "regularization=mine: its file, in the package _global_, must set regularization.mine",
    ),
    ("recipe", "trainer: {max_epochs: 3}", "recipe=mine: its file must start with '# @package _global_'"),
    ("recipe", "# @package _global_\ntrainer: 3", "trainer=3: trainer has nested keys"),
    ("recipe", "# @package _global_\nhydra: {run: {dir: /dev/null/x}}", "hydra.run.dir=/dev/null/x: /dev/null is no"),
    ("recipe", "# @package _global_\ndefaults: [override /model: nothing]", "Could not find 'model/nothing'"),
]


def rows(table: dict[str, str], slow: dict[str, str]) -> list[Any]:
    """What was typed and part of the answer, as parameters; those of the second table are slow."""
    return [
        *(pytest.param(typed, part, id=typed) for typed, part in table.items()),
        *(pytest.param(typed, part, id=typed, marks=pytest.mark.slow) for typed, part in slow.items()),
    ]


@pytest.mark.parametrize(("arguments", "part"), rows(MISTAKES | FLAGS | SWEEPS | HYDRA | RESUME, MORE))
def test_train_answers_a_mistake_in_one_line(arguments, part, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert part in answer("train.py", arguments, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "part"), rows(EVALUATE_MISTAKES, MORE_OF_EVALUATE))
def test_evaluate_answers_a_mistake_in_one_line(arguments, part, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("text.pt", "bare.safetensors"):
        (tmp_path / name).write_text("not a checkpoint")
    for run in "ab":
        (tmp_path / "runs" / run / "checkpoints").mkdir(parents=True)
        (tmp_path / "runs" / run / "checkpoints" / "best.pt").write_text("not a checkpoint")
    assert part in answer("evaluate.py", arguments, monkeypatch, capsys)


def test_a_pattern_means_the_checkpoints_that_it_matches(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for place in ("sweep/b/checkpoints", "sweep/a/checkpoints", "sweep/empty", "sweep/[c]/checkpoints"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("sweep/b/checkpoints/best.pt", "sweep/a/checkpoints/last.pt", "sweep/[c]/checkpoints/last.pt"):
        torch.save({}, tmp_path / place)
    (tmp_path / "sweep" / "leaderboard.md").write_text("a table")
    both = {"a": Path("sweep/a/checkpoints/last.pt"), "b": Path("sweep/b/checkpoints/best.pt")}
    assert find_checkpoints(["sweep/?"]) == both
    assert find_checkpoints("sweep/*") == {"[c]": Path("sweep/[c]/checkpoints/last.pt")} | both
    assert find_checkpoints("sweep/[c]") == {"[c]": Path("sweep/[c]/checkpoints/last.pt")}
    monkeypatch.chdir(tmp_path / "sweep" / "a")
    assert find_checkpoints(".") == {"a": Path("checkpoints/last.pt")}


def test_control_c_is_answered_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    with pytest.raises(SystemExit) as exit_, exit.exit_on_signal():
        signal.raise_signal(signal.SIGINT)
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "evaluate.py: stopped\n"


def test_evaluate_takes_an_option_of_tta(monkeypatch, tmp_path):
    torch.save({}, tmp_path / "a.pt")
    monkeypatch.setattr(
        sys, "argv", ["evaluate.py", f"checkpoint={tmp_path / 'a.pt'}", "tta=flip_shift", "tta.pixels=2"]
    )
    command_module.command_line("evaluate")
    assert "tta.pixels=2" in sys.argv


def stopped_run(directory: Path, overrides: str) -> Path:
    """A directory like that of a run which can go on, with this overrides.yaml."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "overrides.yaml").write_bytes(overrides.encode("latin1"))
    (directory / "checkpoints").mkdir()
    torch.save({}, directory / "checkpoints" / "last.pt")
    return directory


@pytest.mark.parametrize("overrides", SAVED)
def test_what_lies_in_a_resumed_run_runs_no_code(overrides, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    stopped_run(tmp_path / "run", overrides)
    before = sorted(tmp_path.rglob("*"))
    assert SAVED[overrides] in answer("train.py", "resume=run", monkeypatch, capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_refused_in_a_resumed_run_can_be_given(monkeypatch, tmp_path):
    run = stopped_run(tmp_path / "run", "- model=lenet5\n- 'dataset.root=${oc.env:HOME}'\n")
    monkeypatch.setattr(sys, "argv", ["train.py", f"resume={run}", f"dataset.root={tmp_path}"])
    command_module.command_line("config")
    assert sys.argv[1:3] == ["model=lenet5", f"resume={run}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("resume=run hydra.run.dir=elsewhere", "hydra.run.dir=elsewhere: resume= uses the directory of the run"),
        ("resume=run -m", "resume= takes one run"),
        ("resume=run seed=0,1", "several values are a sweep"),
        ("resume=run/checkpoints/last.pt", "resume=run/checkpoints/last.pt: not a directory"),
        ("resume=run/checkpoints", "no checkpoint to resume from"),
        ("hydra.run.dir=run", "hydra.run.dir=run: already contains a run"),
    ],
)
def test_a_run_is_not_written_over(arguments, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    stopped_run(tmp_path / "run", "- model=lenet5\n")
    assert said in answer("train.py", arguments, monkeypatch, capsys)


@pytest.mark.parametrize(("group", "text", "said"), OWN_FILES)
def test_a_mistake_in_a_file_of_ones_own(group, text, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / group).mkdir(parents=True)
    (tmp_path / "own" / group / "mine.yaml").write_bytes(text.encode("latin1"))
    assert said in answer("train.py", f"--config-dir own {group}=mine", monkeypatch, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["own"], "the tag has run"


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("model", "_target_: torch.nn.Identity\nwidths: 64\ndepths: [1, 2]\n"),
        ("dataset", "_target_: torch.nn.Identity\nclasses: [cat, dog]\ntrain_size: auto\nimage_size: [32, 48]\n"),
        ("regularization", "# @package _global_\nregularization: {mine: {side: 3}}\naugmentation: {cutout: 3}\n"),
    ],
)
def test_a_key_of_ones_own_may_be_named_like_another(group, text, monkeypatch, tmp_path):
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", str(tmp_path), f"{group}=mine"])
    command_module.command_line("config")


@pytest.mark.parametrize("file", ["model/resnet20.yaml", "config.yaml"])
def test_a_file_of_ones_own_that_would_never_be_read(file, monkeypatch, capsys, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("depths: [1, 1, 1]\n")
    said = answer("train.py", f"--config-dir {tmp_path}", monkeypatch, capsys)
    assert f"{file}: conf/ already has a file of that name" in said


@pytest.mark.parametrize("place", ["", "/dev/null", "/dev/null/x", "~nobody-of-that-name/x"])
def test_nonsense_in_the_environment(place, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_DATA", place)
    said = answer("train.py", "", monkeypatch, capsys)
    assert said.startswith(f"train.py: dataset.root={place}: ")
    assert "$CIFAR_DATA sets it" in said


@pytest.mark.parametrize(
    "arguments",
    [
        "seed=0,1 -m model=lenet5,alexnet",
        "-m 'model=glob(vgg*)'",
        "hydra.run.dir=here hydra.verbose=[data]",
        "-m seed=0,1 hydra.sweep.dir=here 'hydra.sweep.subdir=${hydra.job.override_dirname}'",
        "hydra/launcher=basic hydra/sweeper=basic",
        "scheduler=swa regularization=[swa] 'scheduler.begin=${regularization.swa.start}'",
        "scheduler.milestones=[100,0.75]",
        "dataset.val_size=49990",
        "recipe=wrn28_10_zagoruyko2016 regularization=[weight_decay,cutmix]",
        "--cfg job dataset=folder",
        "--cfg all --resolve --package model",
    ],
)
def test_what_is_no_mistake(arguments, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(arguments)])
    command_module.command_line("config")
    assert capsys.readouterr().err == ""
    left = [word for word in sys.argv[1:] if not word.startswith("hydra.job.config.override_dirname.exclude_keys=")]
    assert sorted(left) == sorted(shlex.split(arguments))


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("train.py", "model=resnet21"),
        ("train.py", "dataset.val_size=49991"),
        ("evaluate.py", "checkpoint=text.pt"),
    ],
)
def test_the_answer_comes_at_once_and_leaves_nothing(program, arguments, tmp_path):
    """As a real command, in less time than it takes to import torch, which is not imported."""
    (tmp_path / "text.pt").write_text("not a checkpoint")
    command = [sys.executable, ROOT / program, *arguments.split()]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert processor_seconds(command, tmp_path) < 0.7 * seconds_of_torch()
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
