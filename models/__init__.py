"""Convolutional networks as used on 32x32 images by their papers or by the field.

One file per family. A network is a plain `torch.nn.Module`. Its constructor takes `num_classes`, `in_channels` and
the hyperparameters of its paper; its `forward` maps images `[B, C, H, W]` to logits `[B, K]`. Each file in
`conf/model/` is a named variant.

If initial weights depend on the data, the network has a method `prepare`, which is called before training with
normalised training images `[N, C, H, W]` on the network's device.

In a notebook, create networks with hubconf.py.
"""
