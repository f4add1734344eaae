"""Makes the real engine, whose libraries are imported when the first network is loaded."""

from __future__ import annotations

from psd_depth_ros.ros.engine_slot import Engine


class DepthEngineFactory:
    """Loads checkpoints into a `DepthEngine`; all but the first beside one that is at work."""

    def __init__(self) -> None:
        self._has_loaded = False

    def load(self, path: str, device: str, backend: str) -> Engine:
        """Load a checkpoint, the shipped one for ''. Raises PsdDepthError."""
        from psd_depth_ros.inference import DepthEngine
        from psd_depth_ros.runtime import configure_runtime

        engine: Engine = DepthEngine.from_checkpoint(
            path or None, device=device, backend=backend, in_subprocess=self._has_loaded
        )
        configure_runtime(engine.backend)
        self._has_loaded = True
        return engine

    def check(self, path: str) -> None:
        """Raise CheckpointError where the description of a file cannot be read."""
        from psd_depth_ros.checkpoint import load_checkpoint

        load_checkpoint(path or None)
