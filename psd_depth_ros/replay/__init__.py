"""Recordings played again: as live topics with a clock, or through the engine into a bag.

`schedule` and `recordings` say what is due when; publishing it is left to `ros.replay_node`.
`offline` runs a recording through the engine without topics.
"""
