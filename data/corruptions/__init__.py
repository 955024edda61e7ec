"""The 15 corruptions of CIFAR-10-C at five severities each, computed from the images themselves.

Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations", arXiv
1903.12261. What each corruption is, and its constants for images of 32x32 pixels, are those of the authors' script
make_cifar_c.py (https://github.com/hendrycks/robustness), by which they made the published files. The random numbers
are others, and where a docstring says so is the definition: figures are not those on the published files, which
data/corruptions/published.py reads.

A corruption is a function of images uint8 [N, C, H, W] with one channel or three in main memory, the severity from 1
to 5 and the generator of its random numbers; what it returns is of the same type and shape.
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
AT_ONCE = 500  # images: what a corruption needs in between then stays in the processor's caches

# By the names of the published files, in the order of the paper's tables.
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
    """Images uint8 [N, C, H, W] with a corruption; the random numbers depend on its name, severity and N alone."""
    generator = torch.Generator().manual_seed(mixed_seed(list(CORRUPTIONS).index(name), severity))
    return torch.cat([CORRUPTIONS[name](some, severity, generator) for some in images.split(AT_ONCE)])
