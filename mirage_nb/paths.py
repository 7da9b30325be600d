"""Camera paths by name and by keystroke.

A path is (T, 4, 4) float32 camera-to-world matrices, one for each pixel frame, in the conventions of `cameras.py`
(OpenCV axes, metres). Its first matrix is the start.

**Named paths** are spelt in WorldScore's words, `MOVES`:

    push_in, pan_left              one move
    pan_left+push_in               both at once (a walk along an arc)
    pan_left,push_in               one after the other, equal shares of the frames
    there_and_back                 a default move out and the same way back
    there_and_back:pan_left+push_in

Every move has a constant velocity in the camera's own frame. So frame k is `start @ exp(k * twist)`, and moves made at
once add their twists (the order of the names makes no difference).
"""

import math

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.checks import integer, one_of

# name: velocity to the right, velocity forward, turn to the right, motion to the left on the orbit (each -1, 0 or 1)
MOVES: dict[str, tuple[int, int, int, int]] = {
    "fixed": (0, 0, 0, 0),
    "push_in": (0, 1, 0, 0), "pull_out": (0, -1, 0, 0),
    "move_left": (-1, 0, 0, 0), "move_right": (1, 0, 0, 0),
    "pan_left": (0, 0, -1, 0), "pan_right": (0, 0, 1, 0),
    "orbit_left": (0, 0, 0, 1), "orbit_right": (0, 0, 0, -1),
}  # fmt: skip
RETURNING, DEFAULT_MOVES = "there_and_back", "pan_left+move_right"


def camera_path(
    name: str, num_frames: int, start: Tensor | None = None, *, degrees_per_frame: float = 1.0,
    metres_per_frame: float = 0.02, orbit_radius: float = 2.0,
) -> Tensor:  # fmt: skip
    """A named camera path: (num_frames, 4, 4) c2w matrices whose first is exactly `start`.

    Args:
        name: see the module's docstring. Turns are about the start camera's own vertical (y) axis; pan_left turns the
            view to the left. orbit_left moves left on a circle around the point `orbit_radius` metres ahead and keeps
            facing it. there_and_back: frame i equals frame T-1-i exactly (an even T has the turning frame twice).
        num_frames: pixel frames, the start included.
        start: (4, 4) c2w of the first frame; the identity if None.
        degrees_per_frame: speed of pans and, seen from the centre, of orbits.
        metres_per_frame: speed of moves, pushes and pulls.
    """
    integer("num_frames", num_frames, 1)
    speeds = {"degrees_per_frame": degrees_per_frame, "metres_per_frame": metres_per_frame}
    for argument, value in (speeds | {"orbit_radius": orbit_radius}).items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{argument}: expected a positive number, got {value}")
    kind, _, moves = name.strip().rpartition(":")
    if moves == RETURNING and not kind:
        kind, moves = RETURNING, DEFAULT_MOVES
    if kind:
        one_of("path", kind, [RETURNING])
    legs = [[move.strip() for move in leg.split("+")] for leg in moves.split(",")]
    for move in sum(legs, []):
        if one_of("path", move, [*MOVES, RETURNING]) == RETURNING:
            raise ValueError(f"path: {move!r} stands alone or first, as in '{move}:{DEFAULT_MOVES}'; got {name!r}")
    radians = math.radians(degrees_per_frame)
    twists = [sum(_twist(move, radians, metres_per_frame, orbit_radius) for move in leg) for leg in legs]
    path = _walk(twists, (num_frames - 1) // (2 if kind else 1))
    if kind:
        path = there_and_back(path) if num_frames % 2 else torch.cat([path, path.flip(0)])
    if start is None:
        return path.float()
    Cameras(start, torch.tensor([1.0, 1.0, 0.5, 0.5]), (1, 1))  # raises where it is not one finite and rigid matrix
    return (start.cpu().double() @ path.cpu()).float().to(start.device)  # Apple's MPS has no float64


def there_and_back(out_path: Tensor) -> Tensor:
    """A way out, (K, 4, 4), and the same way back: (2K - 1, 4, 4), where frame i equals frame 2K-2-i exactly."""
    return torch.cat([out_path, out_path[:-1].flip(0)])


def actions_to_c2w(action: str) -> Tensor:
    """A camera path from keystrokes, `"w-32,j-48,l-48"`, in the language of diffusers (`SanaWMPipeline`): (N + 1, 4, 4)
    c2w matrices for N frames of keys, the first the identity.

    Segments `keys-frames` follow each other; keys of a segment are held together; `none-8` waits. W, A, S, D walk
    forward, left, back and right on the horizontal (xz) plane; J and L turn left and right; I and K look up and down,
    to at most 85 degrees. A frame moves 5 cm and turns 1.2 degrees.
    """
    try:
        from diffusers.pipelines.sana_wm.cam_utils import action_string_to_c2w

        path = action_string_to_c2w(action, translation_speed=0.05, rotation_speed_deg=1.2)
    except ImportError:
        raise ValueError("action: keystrokes need diffusers 0.42 or newer, so Python 3.11; name a path") from None
    except ValueError as error:
        raise ValueError(f"action: {error} Example: 'w-32,j-48,l-48' (keys wasd move, ijkl turn)") from None
    return torch.from_numpy(path).float()


def _twist(move: str, radians: float, metres: float, radius: float) -> Tensor:
    """The motion of one frame as a (4, 4) element of se(3), in the camera's own axes; float64."""
    right, forward, turn, orbit = MOVES[move]
    yaw = radians * (turn + orbit)  # about +y, which points down: positive turns the view to the right
    twist = torch.zeros(4, 4, dtype=torch.float64)
    twist[0, 2], twist[2, 0] = yaw, -yaw
    twist[0, 3] = metres * right - radians * radius * orbit  # an orbit turns about (0, 0, radius)
    twist[2, 3] = metres * forward
    return twist


def _walk(twists: list[Tensor], steps: int) -> Tensor:
    """(steps + 1, 4, 4) float64 poses from the identity, the legs one after the other; early legs get the odd steps."""
    legs = [torch.eye(4, dtype=torch.float64)[None]]
    for i, twist in enumerate(twists):
        count = steps // len(twists) + (i < steps % len(twists))
        k = torch.arange(1, count + 1, dtype=torch.float64)[:, None, None]
        if count:
            legs.append(legs[-1][-1] @ torch.matrix_exp(k * twist))
    return torch.cat(legs)
