"""What a memory is worth, in figures: metrics of videos, held-out rooms, and real recordings."""

from mirage_nb.evaluation.metrics import as_pixel_mask, closed_loop_psnr, gradient_energy, measure, psnr
from mirage_nb.evaluation.walks import Method, evaluate_recording, evaluate_rooms, there_and_back_room
