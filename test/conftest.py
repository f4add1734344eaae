"""One thread for each library: on busy cores, threads that wait for each other spin.

A rendered frame takes seconds instead of 50 ms beside one other busy process. Set before torch is
loaded, and inherited by the processes that tests start.
"""

import os

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import torch

cv2.setNumThreads(1)
torch.set_num_threads(1)
