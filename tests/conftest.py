"""Set up for all tests: one thread, since tiny models only lose time to more."""

import torch

torch.set_num_threads(1)
