"""The 15 corruptions of CIFAR-10-C at five severities each, computed from the images themselves.

Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations", arXiv
1903.12261. Corruptions and their constants for 32x32 pixels follow the authors' script make_cifar_c.py
(https://github.com/hendrycks/robustness), which created the published files. Random numbers differ, as do the
corruptions whose docstring says so: results are not comparable with those on the published files, which
data/corruptions/published.py reads.

A corruption is a function of images uint8 [N, C, H, W] (on the CPU, one or three channels), a severity from 1 to 5 and
a random generator; it returns images of the same type and shape.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from data.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from data.corruptions.weather import brightness, fog, frost, snow
from data.loader import mixed_seed

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]

SEVERITIES = (1, 2, 3, 4, 5)
AT_ONCE = 500  # images: intermediate results then fit in the CPU's caches

# Named as the published files, in the order of the paper's tables.
CORRUPTIONS: Mapping[str, Corruption] = {
    corruption.__name__: corruption
    for corruption in (
        *(gaussian_noise, shot_noise, impulse_noise),
        *(defocus_blur, glass_blur, motion_blur, zoom_blur),
        *(snow, frost, fog, brightness),
        *(contrast, elastic_transform, pixelate, jpeg_compression),
    )
}


def corrupted(images: Tensor, name: str, severity: int) -> Tensor:
    """Images uint8 [N, C, H, W] with a corruption; random numbers depend only on its name, the severity and N."""
    generator = torch.Generator().manual_seed(mixed_seed(list(CORRUPTIONS).index(name), severity))
    return torch.cat([CORRUPTIONS[name](some, severity, generator) for some in images.split(AT_ONCE)])
