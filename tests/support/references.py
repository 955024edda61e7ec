"""Independent implementations of the networks, brought into the form that they have on CIFAR.

They come from torchvision, timm and pytorchcv, whose imports take seconds: import this module where it is used.
"""

from collections.abc import Callable

import timm
import torchvision
from pytorchcv.model_provider import get_model
from pytorchcv.models.bninception import BNInception
from torch import nn


def vision(name: str) -> nn.Module:
    """A residual network of torchvision with a 3x3 stem."""
    model = getattr(torchvision.models, name)(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def vision_densenet(name: str) -> nn.Module:
    """A DenseNet of torchvision that begins with a bare 3x3 convolution."""
    model = getattr(torchvision.models, name)(num_classes=10)
    model.features.conv0 = nn.Conv2d(3, model.features.conv0.out_channels, 3, 1, 1, bias=False)
    model.features.norm0 = model.features.relu0 = model.features.pool0 = nn.Identity()
    return model


def vision_vgg(name: str) -> nn.Module:
    """A VGG of torchvision with one fully connected layer."""
    return nn.Sequential(getattr(torchvision.models, name)().features, nn.Flatten(), nn.Linear(512, 10))


def vision_alexnet() -> nn.Module:
    """The AlexNet of torchvision with the padding and pooling that it has on CIFAR."""
    features = torchvision.models.alexnet().features
    features[0] = nn.Conv2d(3, 64, 11, 4, padding=5)
    for position in (2, 5, 12):
        features[position] = nn.MaxPool2d(2)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(256, 10))


def vision_mobilenet(name: str, *strides: Callable[[nn.Module], nn.Conv2d]) -> nn.Module:
    """A MobileNet of torchvision with stride 1 in the convolutions that `strides` find."""
    model = getattr(torchvision.models, name)(num_classes=10)
    for find in strides:
        find(model).stride = (1, 1)
    return model


def vision_googlenet() -> nn.Module:
    """The GoogLeNet of torchvision with a small stem, and 5x5 where its paper has it."""
    model = torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False, transform_input=False)
    model.conv1.conv = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool1 = model.maxpool2 = nn.Identity()
    model.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    for name, module in model.named_modules():
        if name.endswith("branch3.1"):
            width = module.conv.out_channels
            module.conv = nn.Conv2d(module.conv.in_channels, width, 5, padding=2, bias=False)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    return model


def keep_size(*convolutions: nn.Conv2d) -> None:
    """Stride 1 and a padding of 1."""
    for convolution in convolutions:
        convolution.stride, convolution.padding = (1, 1), (1, 1)


def vision_inception_v3() -> nn.Module:
    """The Inception v3 of torchvision with a stem that keeps the size."""
    model = torchvision.models.inception_v3(num_classes=10, aux_logits=False, init_weights=False, transform_input=False)
    keep_size(model.Conv2d_1a_3x3.conv, model.Conv2d_2a_3x3.conv, model.Conv2d_4a_3x3.conv)
    model.maxpool1 = model.maxpool2 = nn.Identity()
    return model


def timm_inception_v4() -> nn.Module:
    """The Inception v4 of timm with a stem that keeps the size."""
    model = timm.create_model("inception_v4", num_classes=10)
    for module in model.features[:6].modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            keep_size(module)
        elif isinstance(module, nn.MaxPool2d):
            module.stride, module.padding = 1, 1
    return model


def timm_inception_resnet_v2() -> nn.Module:
    """The Inception-ResNet v2 of timm with a stem that keeps the size."""
    model = timm.create_model("inception_resnet_v2", num_classes=10)
    keep_size(model.conv2d_1a.conv, model.conv2d_2a.conv, model.conv2d_4a.conv)
    model.maxpool_3a = model.maxpool_5a = nn.Identity()
    return model


def timm_preactresnet(depth: int) -> nn.Module:
    """A pre-activation ResNet of timm with a 3x3 stem."""
    model = timm.create_model(f"resnetv2_{depth}", num_classes=10)
    model.stem.conv, model.stem.pool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def timm_sknet50() -> nn.Module:
    """The SKNet of timm with a 3x3 stem."""
    model = timm.create_model("skresnext50_32x4d", num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def cv(name: str, *, small_stem: bool = False) -> nn.Module:
    """A network of pytorchcv, made for CIFAR or with its stem replaced by a 3x3 one."""
    model = get_model(name, num_classes=10)
    if small_stem:
        model.features.init_block = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def cv_mobilenet_v1() -> nn.Module:
    """The MobileNet v1 of pytorchcv with stride 1 in its stem."""
    model = cv("mobilenet_w1")
    model.features.init_block.conv.stride = (1, 1)
    return model


def cv_inception_v2() -> nn.Module:
    """The BN-Inception of pytorchcv with a small stem, no biases, and 96 channels behind the pooling of 4c and 4d."""
    model = BNInception(
        channels=[[256, 320], [576] * 5, [1024] * 3],
        init_block_channels_list=[64, 192],
        mid1_channels_list=[
            [[64, 64], [64, 64]],
            [[128, 64], [64, 96], [96, 96], [128, 128], [128, 160]],
            [[128, 192], [192, 160], [192, 192]],
        ],
        mid2_channels_list=[
            [[64, 64, 96, 32], [64, 96, 96, 64]],
            [[0, 160, 96, 0], [224, 96, 128, 128], [192, 128, 128, 128], [160, 160, 160, 96], [96, 192, 192, 96]],
            [[0, 192, 256, 0], [352, 320, 224, 128], [352, 320, 224, 128]],
        ],
        bias=False,
        num_classes=10,
    )
    convolutions = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Conv2d(64, 64, 1, bias=False)]
    convolutions.append(nn.Conv2d(64, 192, 3, 1, 1, bias=False))
    model.features.init_block = nn.Sequential(
        *(part for conv in convolutions for part in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()))
    )
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def cv_inception_resnet_v1() -> nn.Module:
    """The stages of pytorchcv's Inception-ResNet v1, but its sixth block C, between the paper's stem and head."""
    features = get_model("inceptionresnetv1", num_classes=10).features
    keep_size(*(module for module in features.init_block.modules() if isinstance(module, nn.Conv2d)))
    convolutions = [module for module in features.init_block.modules() if isinstance(module, nn.Conv2d)]
    convolutions[3].padding = (0, 0)  # the 1x1
    features.init_block.pool = nn.Identity()
    stage3 = nn.Sequential(*list(features.stage3)[:-1])
    return nn.Sequential(
        features.init_block,
        features.stage1,
        features.stage2,
        stage3,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1792, 10),
    )


# By the name of the network that they are compared with.
BY_NAME: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: vision("resnet18"),
    "resnet34": lambda: vision("resnet34"),
    "resnet50": lambda: vision("resnet50"),
    "resnet101": lambda: vision("resnet101"),
    "resnet152": lambda: vision("resnet152"),
    "resnext50_32x4d": lambda: vision("resnext50_32x4d"),
    "resnext29_32x4d": lambda: cv("resnext29_32x4d_cifar10"),
    "densenet100bc": lambda: cv("densenet100_k12_bc_cifar10"),
    "densenet190bc": lambda: cv("densenet190_k40_bc_cifar10"),
    "densenet121": lambda: vision_densenet("densenet121"),
    "densenet161": lambda: vision_densenet("densenet161"),
    "densenet169": lambda: vision_densenet("densenet169"),
    "densenet201": lambda: vision_densenet("densenet201"),
    "preresnet164": lambda: cv("preresnet164bn_cifar10"),
    "preresnet1001": lambda: cv("preresnet1001_cifar10"),
    "wrn28_10": lambda: cv("wrn28_10_cifar10"),
    "se_resnet18": lambda: cv("seresnet18", small_stem=True),
    "se_resnet34": lambda: cv("seresnet34", small_stem=True),
    "se_resnet50": lambda: cv("seresnet50b", small_stem=True),
    "bam_resnet18": lambda: cv("bam_resnet18", small_stem=True),
    "bam_resnet34": lambda: cv("bam_resnet34", small_stem=True),
    "bam_resnet50": lambda: cv("bam_resnet50", small_stem=True),
    "sknet50_timm": timm_sknet50,
    "sknet50": lambda: cv("sknet50", small_stem=True),
    "mobilenet_v1": cv_mobilenet_v1,
    "mobilenet_v2": lambda: vision_mobilenet(
        "mobilenet_v2", lambda net: net.features[0][0], lambda net: net.features[2].conv[1][0]
    ),
    "mobilenet_v3_large": lambda: vision_mobilenet("mobilenet_v3_large", lambda net: net.features[0][0]),
    "mobilenet_v3_small": lambda: vision_mobilenet("mobilenet_v3_small", lambda net: net.features[0][0]),
    "googlenet": vision_googlenet,
    "inception_v2": cv_inception_v2,
    "inception_v3": vision_inception_v3,
    "inception_v4": timm_inception_v4,
    "inception_resnet_v1": cv_inception_resnet_v1,
    "inception_resnet_v2": timm_inception_resnet_v2,
    "vgg11": lambda: vision_vgg("vgg11_bn"),
    "vgg13": lambda: vision_vgg("vgg13_bn"),
    "vgg16": lambda: vision_vgg("vgg16_bn"),
    "vgg19": lambda: vision_vgg("vgg19_bn"),
    "alexnet": vision_alexnet,
}
