"""Operations on batches of training images, a different draw for each image.

An operation is a function of the images and of uniform random numbers, and keeps no generator:

    draws: int                                      how many numbers in [0, 1) it wants for an image
    __call__(images uint8 [B, C, H, W], uniform float32 [B, draws]) -> images uint8 [B, C, H, W]

The loader draws the numbers for every image of an epoch at once. An augmented image so depends on
the seed, the epoch and the image alone, not on the batch that it comes in, nor on the process or
the device that computes it, and an interrupted epoch can be taken up at any step.
"""
