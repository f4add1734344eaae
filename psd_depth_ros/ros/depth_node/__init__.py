"""The depth node, in the order in which an image passes.

`node` (lifecycle, parameters, checkpoint) owns one `camera` for each camera (image and calibration
in) and the `worker` (engine, one thread), which asks `scale` for the metric scale and gives its
results to `outputs` (messages out). `diagnostics` reports all of them, `settings` are their
parameters.
"""
