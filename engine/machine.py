"""Where and how a network computes: the device, the precision, the order of the numbers in memory."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from engine.errors import RunError

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LACKING = {"cpu": ("fp16", "tf32"), "mps": ("tf32",)}  # precisions, by the kind of device


class DeviceError(RunError):
    """The machine lacks what the configuration asks for; the message is one line that names it."""


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
class Precision:
    """In which numbers the network computes; weights are kept in fp32 in any case.

    "fp32"; "tf32", in which NVIDIA's matrix units round the factors of fp32 products to 10 bits of
    mantissa; "bf16" or "fp16", in which activations have 16 bits.
    """

    name: str
    device: torch.device

    def autocast(self) -> AbstractContextManager:
        """The context in which forward passes run."""
        dtype = DTYPES[self.name]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, without which small gradients vanish in fp16; it does nothing in the others."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    def set_fp32_products(self) -> None:
        """Let torch compute what stays in fp32 as this precision says; torch's default rounds convolutions to TF32."""
        # By torch's older names: set by the newer ones, convolutions and recurrent layers differ, which torch.export
        # and torch.backends.cudnn.flags refuse.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.name != "fp32"


def precisions(device: torch.device) -> list[str]:
    """What a device computes in natively and training can make use of, first what mostly is fastest."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):  # which is also the generation that has TF32
            return ["bf16", "tf32"]
        return ["fp16", "fp32"]
    return ["bf16", "fp32"] if device.type == "cpu" and cpu_has_bf16() else ["fp32"]


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; one that only converts is slower than in fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision by name, or for "auto" the first of `precisions`. Raises DeviceError."""
    if name == "auto":
        name = precisions(device)[0]
    if name in LACKING.get(device.type, ()):
        what = "a GPU; a CPU trains in fp32 or bf16" if device.type == "cpu" else f"a GPU by NVIDIA, not {device.type}"
        raise DeviceError(f"trainer.precision={name} needs {what}")
    return Precision(name, device)


@dataclass(frozen=True)
class Machine:
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


def machines(device: torch.device, *, precision: str, memory_format: str) -> list[Machine]:
    """Every way to compute on a device that a precision and a memory format leave open, each given or "auto".

    The first is what mostly is fastest. Raises DeviceError.
    """
    return [
        Machine(device, choose_precision(name, device), order)
        for name in (precisions(device) if precision == "auto" else [precision])
        for order in (MEMORY_FORMATS if memory_format == "auto" else [memory_format])
    ]
