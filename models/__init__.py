"""Convolutional networks in the form in which their papers, or the field, use them on 32x32 images.

One family a file. A network is a plain `torch.nn.Module` whose constructor takes `num_classes` and
`in_channels` besides the numbers of its paper, and whose `forward` maps images `[B, C, H, W]` to
logits `[B, K]`. The variants with names are the files of `conf/model/`.

Where initial weights come from the data, a method `prepare` is given some normalised training images
`[N, C, H, W]`, on the network's device, before training begins.

A notebook gets networks through hubconf.py.
"""
