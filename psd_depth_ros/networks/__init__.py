"""Depth networks: encoders, the decoder, the bin-centre head and the model made of them."""

from psd_depth_ros.networks.bin_head import BinPrediction, DepthOutput, expectation
from psd_depth_ros.networks.depth_model import Architecture, DepthModel, load_model, preset
from psd_depth_ros.networks.encoders import build_encoder, Encoder, Normalisation

__all__ = [
    'Architecture',
    'BinPrediction',
    'DepthModel',
    'DepthOutput',
    'Encoder',
    'Normalisation',
    'build_encoder',
    'expectation',
    'load_model',
    'preset',
]
