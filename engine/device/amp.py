"""Training precisions: which ones a device supports and computes fast, autocast, and loss scaling."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from engine.run.errors import DeviceError

LACKING = {"cpu": ("fp16", "tf32"), "mps": ("tf32",)}  # precisions, by the kind of device
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The precision of the computation; weights are always stored in fp32.

    "fp32"; "tf32", where NVIDIA's tensor cores round the factors of fp32 products to a 10-bit mantissa; "bf16" or
    "fp16", where activations have 16 bits (autocast).
    """

    name: str
    device: torch.device

    def autocast(self) -> AbstractContextManager:
        """The autocast context for forward passes."""
        dtype = DTYPES[self.name]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, which keeps small fp16 gradients from underflow; disabled for other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    def set_fp32_products(self) -> None:
        """Allow or forbid TF32 in fp32 operations; torch's default allows it in convolutions."""
        # The older API: with the newer one, convolutions and recurrent layers get different settings, which
        # torch.export and torch.backends.cudnn.flags refuse.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.name != "fp32"


def precisions(device: torch.device) -> list[str]:
    """The precisions that a device supports natively, usually the fastest first."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):  # the same generation supports TF32
            return ["bf16", "tf32"]
        return ["fp16", "fp32"]
    return ["bf16", "fp32"] if device.type == "cpu" and cpu_has_bf16() else ["fp32"]


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 multiply instructions; with conversion only, bf16 is slower than fp32."""
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
