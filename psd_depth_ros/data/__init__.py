"""Recordings as timed frames: bags, videos and image folders.

What a message holds is decided in `messages`; training sets are built on top of this subpackage.
"""
