"""Every parameter of the fine-tuning node; what the command has too is in `training`.

No ROS is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from psd_depth_ros.config import build, flatten, section, setting, specs
from psd_depth_ros.finetune.settings import FinetuneSettings
from psd_depth_ros.runtime import LimitSettings


@dataclass(frozen=True)
class FinetuneNodeSettings(FinetuneSettings):
    """Parameters of the fine-tuning node."""

    deploy_to: str = setting(
        '', 'depth node that receives accepted weights, such as /depth_node; empty: none'
    )
    deploy_timeout_s: float = setting(
        60.0, 'time the depth node may take to load them', 's', minimum=1.0, maximum=3600.0
    )
    auto_start: bool = setting(False, 'start at once, without ~/start', read_only=True)
    progress_period_s: float = setting(
        1.0, 'period of ~/progress', 's', minimum=0.1, maximum=60.0,
        read_only=True,
    )  # fmt: skip
    limits: LimitSettings = section(LimitSettings)

    @property
    def run(self) -> FinetuneSettings:
        """What the training process is told."""
        flat = flatten(self)
        return build(FinetuneSettings, {spec.name: flat[spec.name] for spec in _RUN})


_RUN = specs(FinetuneSettings)
