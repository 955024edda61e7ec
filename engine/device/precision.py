"""Precisions: which there are, which the device computes fast, and the context of a step."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from engine.run.errors import DeviceError

LACKING = {"cpu": ("fp16", "tf32"), "mps": ("tf32",)}  # precisions, by the kind of device
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
