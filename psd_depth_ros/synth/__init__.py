"""A procedural world with exact depth, poses and motion masks, to train and to test on."""

from psd_depth_ros.synth.world import SynthFrame, World, WorldSettings

__all__ = ['SynthFrame', 'World', 'WorldSettings']
