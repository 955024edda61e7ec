"""The device of a run."""

import pytest
import torch

from engine.build import autotune
from engine.run.errors import DeviceError
from engine.training.checkpoint_file import checkpoint_errors
from tests.support.runs import composed


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU that works")
def test_a_device_that_does_not_work_is_no_fault_of_a_checkpoint(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DeviceError, match=r"device=cuda: .+") as raised, checkpoint_errors():
        autotune.possible_backends(composed("model=lenet5", "trainer.device=auto"))
    assert "\n" not in str(raised.value)
