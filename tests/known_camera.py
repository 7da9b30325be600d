"""One camera, written by hand for the tests of every trajectory format.

It stands at (1, 2, 3) and looks along the world's +x (90 degrees to the right).
"""

from __future__ import annotations

import math

import torch

C2W = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], dtype=torch.float32)
W2C = [[0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]]
W2C_ROW = " ".join(str(x) for row in W2C[:3] for x in row)
OPENGL_C2W = [[0, 0, -1, 1], [0, -1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]  # y up, z back
H = math.sqrt(0.5)  # as quaternions x y z w: c2w is (0, H, 0, H), w2c is (0, -H, 0, H)


def check(trajectory, poses: int = 2, intrinsics: bool = True) -> None:
    """Raise AssertionError where a trajectory read from a file is not `poses` times this camera.

    Its intrinsics are 0.5, 0.9, 0.5, 0.6 times the size of the image.
    """
    assert trajectory.c2w.dtype == torch.float32
    torch.testing.assert_close(trajectory.c2w, C2W.expand(poses, 4, 4), atol=1e-6, rtol=0)
    assert (trajectory.intrinsics is not None) == intrinsics
    if intrinsics:  # of an image 400 wide and 200 high, whichever way the file has them
        expected = torch.tensor([[200.0, 180.0, 200.0, 120.0]]).expand(poses, 4)
        size = (200, 400) if trajectory.size.max() == 1 else tuple(trajectory.size[0].tolist())
        torch.testing.assert_close(trajectory.cameras(size).resize((200, 400)).intrinsics, expected)
