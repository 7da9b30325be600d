"""Sources of frames with cameras: procedural rooms, recordings, photos."""

from mirage_nb.data.clip import Clip, Scene
from mirage_nb.data.images import centre_crop_resize
from mirage_nb.data.inputs import choose_path, read_input, read_photo
from mirage_nb.data.recordings import read_posed_video, read_rgbd
from mirage_nb.data.rooms.room import Room
