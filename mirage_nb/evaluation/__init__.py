"""What a memory is worth, in figures: metrics of videos, held-out rooms, real recordings, and ablations."""

from mirage_nb.evaluation.metrics import (
    METRICS,
    as_pixel_mask,
    closed_loop_psnr,
    colour_drift,
    ghosts,
    gradient_energy,
    measure,
    psnr,
    revisit_psnr,
    ssim,
    summary,
)
from mirage_nb.evaluation.recording import evaluate_recording
from mirage_nb.evaluation.rooms import Method, best_median_worst, evaluate_rooms, there_and_back_room, walk

__all__ = [
    "METRICS",
    "Method",
    "as_pixel_mask",
    "best_median_worst",
    "closed_loop_psnr",
    "colour_drift",
    "evaluate_recording",
    "evaluate_rooms",
    "ghosts",
    "gradient_energy",
    "measure",
    "psnr",
    "revisit_psnr",
    "ssim",
    "summary",
    "there_and_back_room",
    "walk",
]
