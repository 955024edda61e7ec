"""Runs, checkpoints and sweeps of earlier releases keep working under the current names."""

from omegaconf import OmegaConf

from engine.config.identity import difference, leaves
from engine.config.renamed import KEYS, MODULES, with_current_names, with_first_names
from engine.config.resume import saved_overrides
from engine.run.directory import RunDirectory
from tests.support.runs import composed

OLD = {
    "model": {"_target_": "models.resnet.ResNet", "checkpointing": True, "depths": [1, 1, 1]},
    "optimizer": {"_target_": "engine.optimizers.lars.LARS"},
    "averages": {"ema": {"_target_": "engine.averages.ema.EMA", "decay": 0.9}},
    "trainer": {"micro_batches": 2},
}
CURRENT = {
    "model": {"_target_": "models.resnet.ResNet", "gradient_checkpointing": True, "depths": [1, 1, 1]},
    "optimizer": {"_target_": "engine.training.optimizers.lars.LARS"},
    "averages": {"ema": {"_target_": "engine.training.averages.ema.EMA", "decay": 0.9}},
    "trainer": {"gradient_accumulation": 2},
}


def test_names_of_earlier_releases_become_current_ones_and_identify_the_same_run():
    assert with_current_names(OLD) == CURRENT
    assert with_current_names(CURRENT) == CURRENT
    assert difference(OLD, CURRENT) is None
    first = with_first_names(dict(leaves(CURRENT)))
    assert first == dict(leaves(OLD))


def test_current_names_exist_and_old_ones_do_not():
    names = dict(leaves(OmegaConf.to_container(composed("model=resnet20"))))
    assert set(KEYS.values()) <= names.keys()
    assert not KEYS.keys() & names.keys()
    assert not any(str(value).startswith(tuple(MODULES)) for value in names.values())


def test_a_difference_is_told_by_current_names():
    told = difference(OLD, CURRENT | {"trainer": {"gradient_accumulation": 1}})
    assert told == "trainer.gradient_accumulation was 2 in this run so far and is 1 now"


def test_saved_overrides_of_an_earlier_release_are_read_by_current_names(tmp_path):
    run = RunDirectory(tmp_path)
    run.overrides.parent.mkdir()
    run.overrides.write_text("- model=resnet20\n- model.checkpointing=true\n- trainer.micro_batches=2\n")
    expected = ["model=resnet20", "model.gradient_checkpointing=true", "trainer.gradient_accumulation=2"]
    assert saved_overrides(run) == expected
