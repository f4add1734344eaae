"""Makes the real engine, whose libraries are imported when the first network is loaded."""

from __future__ import annotations

from psd_depth_ros.ros.engine_slot import Engine


class DepthEngineFactory:
    """Loads checkpoints into a `DepthEngine`."""

    def load(self, path: str, device: str, backend: str) -> Engine:
        """Load a checkpoint, the shipped one for ''. Raises PsdDepthError."""
        from psd_depth_ros.inference import DepthEngine
        from psd_depth_ros.inference.process import settle_process

        engine: Engine = DepthEngine.from_checkpoint(path or None, device=device, backend=backend)
        settle_process(engine.backend)
        return engine

    def check(self, path: str) -> None:
        """Raise CheckpointError where the description of a file cannot be read."""
        from psd_depth_ros.checkpoint import load_checkpoint

        load_checkpoint(path or None)
