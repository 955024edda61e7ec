"""The backend of a run: device, precision and memory format."""

from dataclasses import dataclass

import torch

from engine.device.amp import Precision, choose_precision, precisions
from engine.run.errors import DeviceError

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def device_type(name: str) -> str:
    """The type of the device by name, or for "auto" the first available of cuda, mps and cpu. Raises DeviceError."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(candidate for candidate, is_available in available.items() if is_available)
    if not available[name]:
        raise DeviceError(f"device={name}: torch {torch.__version__} finds none")
    return name


def choose_device(name: str) -> torch.device:
    """The device by name, as `device_type`, and initialised. Raises DeviceError if it does not work.

    One of several ranks must have set its GPU before: initialising takes memory on the current one.
    """
    name = device_type(name)
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device={name}: {' '.join(str(error).split())[:200]}") from error
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The name of the device, for a CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type


@dataclass(frozen=True)
class Backend:
    """The device, precision and memory format of a run."""

    device: torch.device
    precision: Precision
    memory_format_name: str

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and of convolution weights."""
        return MEMORY_FORMATS[self.memory_format_name]

    def __str__(self) -> str:
        return f"{self.precision.name} {self.memory_format_name}"

    def wait(self) -> None:
        """Wait until the device has finished all queued work."""
        wait(self.device)


def wait(device: torch.device) -> None:
    """Wait until a device has finished all queued work; a CPU has none."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def backends(device: torch.device, *, precision: str, memory_format: str) -> list[Backend]:
    """All candidate backends on a device; "auto" stands for every precision or memory format.

    The first is usually the fastest. Raises DeviceError.
    """
    return [
        Backend(device, choose_precision(name, device), layout)
        for name in (precisions(device) if precision == "auto" else [precision])
        for layout in (MEMORY_FORMATS if memory_format == "auto" else [memory_format])
    ]
