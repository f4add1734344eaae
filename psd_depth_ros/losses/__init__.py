"""Pure tensor functions of the training losses; objectives weight and combine them.

Images are (B, 3, H, W) RGB in [0, 1], depth (B, 1, H, W) metres, all float32. Unless its docstring
says otherwise, a loss returns one value per sample (B,), 0 where nothing can be said.
"""
