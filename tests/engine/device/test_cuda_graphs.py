"""When batches are recorded, decided here on a processor; test_gpu asks what a recording does."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from engine.device import cuda_graphs
from engine.device.cuda_graphs import WARM_UP, CudaGraphs


class Recorded:
    """In place of a recording: computes as usual, or has no memory left once some gradients are there."""

    too_large = ()

    def __init__(self, backend, model, images, targets, pool):
        if len(images) in self.too_large:
            backend(images, targets)
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        self.replay = backend
        self.graph = SimpleNamespace(pool=object)


class OnProcessor(CudaGraphs):
    """Notes what is computed how."""

    def __init__(self):
        self.told, self.computed = [], []
        super().__init__(log=self.told.append)

    def on_side_stream(self, backend, images: Tensor, targets: Tensor) -> Tensor:
        self.computed.append("on_side_stream")
        return backend(images, targets)

    def checking_for_syncs(self, backend, images: Tensor, targets: Tensor) -> Tensor:
        self.computed.append("checking_for_syncs")
        return backend(images, targets)

    def capture(self, *arguments) -> None:
        self.computed.append("record")
        super().capture(*arguments)


@pytest.fixture
def recorder(monkeypatch):
    """CudaGraphs, of which no part needs a GPU."""
    monkeypatch.setattr(cuda_graphs, "CapturedGraph", Recorded)
    monkeypatch.setattr(Recorded, "too_large", ())
    return OnProcessor()


class Network(nn.Module):
    """A batch norm, whose backward pass fails at its end where `memory` has no room for so many images."""

    def __init__(self):
        super().__init__()
        self.norm, self.memory = nn.BatchNorm1d(2), 100

    def gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        loss = self.norm(images).square().mean()
        loss.backward()
        if len(images) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss.detach()


def batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 2), torch.zeros(size).long()


def test_each_shape_is_recorded_once_it_has_been_computed_some_times(recorder):
    model = Network()
    for _ in range(WARM_UP + 2):
        for size in (8, 3):
            recorder(model.gradients, model, *batch(size))
    assert recorder.computed == [*["on_side_stream"] * 2 * (WARM_UP - 1), *["checking_for_syncs"] * 2, *["record"] * 2]
    assert len(recorder.captured) == 2
    assert recorder.told == []


def test_what_had_no_memory_does_not_count_as_computed(recorder):
    model = Network()
    model.memory = 4
    for _ in range(WARM_UP + 2):
        with pytest.raises(torch.OutOfMemoryError):
            recorder(model.gradients, model, *batch(8))
    assert "record" not in recorder.computed


def test_recordings_are_given_up_where_the_rest_misses_their_memory(recorder):
    """A batch whose first try failed changes the network once, as any other does."""
    model, alike, memory = Network(), Network(), iter([4, 100])
    for _ in range(WARM_UP + 1):
        recorder(model.gradients, model, *batch(8))
        model.zero_grad()
    assert recorder.captured
    alike.load_state_dict(model.state_dict())

    def short_of_memory(images: Tensor, targets: Tensor) -> Tensor:
        model.memory = next(memory)
        return model.gradients(images, targets)

    images, targets = batch(5)
    found = recorder(short_of_memory, model, images, targets)
    assert torch.equal(found, alike.gradients(images, targets))
    for name, value in alike.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(model.norm.weight.grad, alike.norm.weight.grad)
    assert not recorder.captured
    recorder(model.gradients, model, *batch(8))
    assert recorder.computed[-1] == "on_side_stream"
    assert len(recorder.told) == 1
    assert "out of memory" in recorder.told[0]


def test_what_cannot_be_recorded_is_told_once_with_its_first_line(recorder, monkeypatch):
    monkeypatch.setattr(Recorded, "too_large", (8,))
    model, alike = Network(), Network()
    for size in (8, 3):
        for _ in range(WARM_UP + 2):
            images, targets = batch(size)
            for network in (model, alike):
                network.zero_grad()
            found = recorder(model.gradients, model, images, targets)
            assert torch.equal(found, alike.gradients(images, targets))
            assert torch.equal(model.norm.weight.grad, alike.norm.weight.grad)
    assert recorder.told == ["CUDA graph capture failed (CUDA out of memory.): training without CUDA graphs"]
    assert not recorder.captured
