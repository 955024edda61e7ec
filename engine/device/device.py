"""Where and how a network computes: the device, the precision, the order of the numbers in memory."""

from dataclasses import dataclass

import torch

from engine.device.precision import Precision, choose_precision, precisions
from engine.run.errors import DeviceError

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def choose_device(name: str) -> torch.device:
    """The device by name, or for "auto" the first of cuda, mps and cpu that is there. Raises DeviceError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(candidate for candidate, is_there in there.items() if is_there)
    if not there[name]:
        raise DeviceError(f"device={name}: this machine has none that torch {torch.__version__} can use")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device as a person knows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type


@dataclass(frozen=True)
class Backend:
    """Where and how a run computes."""

    device: torch.device
    precision: Precision
    memory_format_name: str

    @property
    def memory_format(self) -> torch.memory_format:
        """The order of the numbers in images and in the weights of convolutions."""
        return MEMORY_FORMATS[self.memory_format_name]

    def __str__(self) -> str:
        return f"{self.precision.name} {self.memory_format_name}"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        wait(self.device)


def wait(device: torch.device) -> None:
    """Until a device has done what it was given; a CPU does so at once."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def backends(device: torch.device, *, precision: str, memory_format: str) -> list[Backend]:
    """Every way to compute on a device that a precision and a memory format leave open, each given or "auto".

    The first is what mostly is fastest. Raises DeviceError.
    """
    return [
        Backend(device, choose_precision(name, device), order)
        for name in (precisions(device) if precision == "auto" else [precision])
        for order in (MEMORY_FORMATS if memory_format == "auto" else [memory_format])
    ]
