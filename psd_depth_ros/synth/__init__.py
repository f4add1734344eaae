"""A procedural world with exact depth, poses and motion masks, to train and to test on."""

from psd_depth_ros.synth.world import RENDERER_VERSION, SynthFrame, World, WorldSettings

__all__ = ['RENDERER_VERSION', 'SynthFrame', 'World', 'WorldSettings']
