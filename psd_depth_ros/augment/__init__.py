"""Augmentation of training images with known effect on depth: crops, zooms, colour, noise."""
