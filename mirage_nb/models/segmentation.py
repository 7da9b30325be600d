"""What moves and what is sky, named by class (in the paper by a language model): a segmentation model for stage 4."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from mirage_nb.checks import one_of
from mirage_nb.models.photo_depth import load_pretrained
from mirage_nb.models.vae import as_uint8

# Names as COCO, ADE20k and Cityscapes spell them.
MOVING = (
    "person", "rider", "bicycle", "car", "motorcycle", "minibike", "airplane", "bus", "train", "truck", "van", "boat",
    "ship", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "ball",
    "sports ball", "frisbee", "kite",
)  # fmt: skip
SKY = "sky"


class TransformersSegmentation:
    """A `transformers` model for universal or semantic segmentation, as the pipeline's `mask_estimator`.

    It masks the classes named by `masked`; by default the sky and those of `MOVING`, where the model knows them.
    ValueError: the model does not know a name, or none of the default ones.
    """

    def __init__(self, model, processor, masked: Sequence[str] | None = None, name: str = "") -> None:
        self.model, self.processor, self.name = model.requires_grad_(False), processor, name
        classes = defaultdict(set)  # name -> indices of the classes that it means
        for index, label in model.config.id2label.items():
            for word in class_names(label):
                classes[word].add(int(index))
        names = [n for n in (*MOVING, SKY) if n in classes] if masked is None else [n.lower() for n in masked]
        if not names:
            raise ValueError(f"masked: {name} has no sky and none of the usual classes that move; name some")
        indices = {n: classes[one_of("masked", n, classes)] for n in names}
        self.sky = sorted(indices.pop(SKY, ()))
        self.moving = sorted(set().union(*indices.values()))

    @classmethod
    def from_transformers(cls, name: str, masked: Sequence[str] | None = None) -> "TransformersSegmentation":
        """Load a Mask2Former, EoMT, SegFormer ... by its name on the hub, or from a folder; see `load_pretrained`."""
        autos = ("AutoModelForUniversalSegmentation", "AutoModelForSemanticSegmentation")
        model, processor = load_pretrained("mask_estimator", "segmentation model", str(name), *autos)
        return cls(model, processor, masked, str(name))

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What moves and the sky in frames (N, 3, H, W) in [-1, 1], (N, H, W) bool each; a pixel has one class."""
        labels = []
        for image in as_uint8(pixels).cpu().numpy():  # (H, W, 3)
            inputs = self.processor(images=image, return_tensors="pt", input_data_format="channels_last")
            output = self.model(pixel_values=inputs["pixel_values"].to(self.model.device, self.model.dtype))
            labels += self.processor.post_process_semantic_segmentation(output, target_sizes=[image.shape[:2]])
        labels = torch.stack(labels).to(pixels.device)  # (N, H, W)
        moving, sky = (torch.isin(labels, labels.new_tensor(classes)) for classes in (self.moving, self.sky))
        return moving, sky


def class_names(label: str) -> set[str]:
    """The names of a class: "sky-other-merged" is also "sky", "person, individual" is also "person"."""
    names = {part.strip() for part in label.lower().split(",")}
    return names | {name.split("-")[0] for name in names}
