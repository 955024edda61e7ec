"""The machine under a run: device, precision, random numbers, signals, and a record of what was used."""

import platform
import random
import signal
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch


class DeviceError(Exception):
    """The machine lacks what the configuration asks for; the message is one line that names it."""


def choose_device(name: str) -> torch.device:
    """The device by name, or for "auto" the first of cuda, mps and cpu that is there. Raises DeviceError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(candidate for candidate, is_there in there.items() if is_there)
    if not there[name]:
        raise DeviceError(f"device={name}: this machine has none that torch {torch.__version__} can use")
    return torch.device(name)


@dataclass(frozen=True)
class Precision:
    """In which numbers the network computes: "fp32", or "bf16" or "fp16" with weights kept in fp32."""

    name: str
    device: torch.device

    def autocast(self) -> AbstractContextManager:
        """The context in which forward passes run."""
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]
        return torch.autocast(self.device.type, dtype, enabled=self.name != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, without which small gradients vanish in fp16; it does nothing in the others."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision by name, or for "auto" the fastest that the device computes in natively. Raises DeviceError."""
    if name == "auto":
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        elif device.type == "cpu":
            name = "bf16" if cpu_has_bf16() else "fp32"
        else:
            name = "fp32"
    if name == "fp16" and device.type == "cpu":
        raise DeviceError("trainer.precision=fp16 needs a GPU; a CPU trains in fp32 or bf16")
    return Precision(name, device)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; one that only converts is slower than in fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seed all global generators; with `deterministic`, let torch refuse algorithms that do not repeat bit by bit."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def random_states() -> dict[str, Any]:
    """The states of all global generators, in types that a checkpoint may hold."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put all global generators back to `random_states()`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def describe_device(device: torch.device) -> str:
    """The device as a person knows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    packages = ["torch", "torchvision", "hydra-core", "omegaconf", "numpy"]
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}


def git_revision() -> str | None:
    """The revision of this source tree, marked "-dirty" if it was changed since; None outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


class StopRequest:
    """Within this context SIGINT and SIGTERM only leave a note, which training looks at after every step.

    A second signal stops at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signal is not None:
            raise Interrupted(self.signal)
