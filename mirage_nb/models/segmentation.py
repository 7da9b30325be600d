"""What moves and what is sky, named by class: a segmentation model of `transformers` for stage 4.

In the paper a language model names what may move. Here the names are a list: a model trained on COCO, ADE20k or
Cityscapes knows persons, cars and the sky.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mirage_nb.checks import one_of
from mirage_nb.models.vae import as_uint8

# Names as COCO, ADE20k and Cityscapes spell them.
MOVING = (
    "person", "rider", "bicycle", "car", "motorcycle", "minibike", "airplane", "bus", "train", "truck", "van", "boat",
    "ship", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "ball",
    "sports ball", "frisbee", "kite",
)  # fmt: skip
SKY = ("sky",)


class TransformersSegmentation:
    """A `transformers` model for universal or semantic segmentation, as the pipeline's `mask_estimator`.

    Args:
        model, processor: of transformers.
        moving, sky: names of the classes to mask; by default those of `MOVING` and `SKY` that the model knows.
        name: of the model, for messages.

    Raises:
        ValueError: the model does not know a name, or none of the default ones.
    """

    def __init__(
        self, model, processor, moving: Sequence[str] | None = None, sky: Sequence[str] | None = None, name: str = ""
    ) -> None:
        self.model, self.processor, self.name = model.eval().requires_grad_(False), processor, name
        classes = {}  # name -> indices of the classes that it means
        for index, label in model.config.id2label.items():
            for word in class_names(label.lower()):
                classes.setdefault(word, set()).add(int(index))
        chosen = []
        for argument, names, default in (("moving", moving, MOVING), ("sky", sky, SKY)):
            names = [n for n in default if n in classes] if names is None else [n.lower() for n in names]
            chosen.append(sorted(set().union(*(classes[one_of(argument, n, classes)] for n in names))))
        self.moving, self.sky = chosen
        if not self.moving and not self.sky:
            raise ValueError(f"moving: {name} has no sky and none of the usual classes that move; name some")

    @classmethod
    def from_transformers(
        cls, name: str | Path, moving: Sequence[str] | None = None, sky: Sequence[str] | None = None, **options
    ) -> TransformersSegmentation:
        """Load a model by its name on the hub or its local folder; safetensors only.

        Args:
            name: for example of a Mask2Former, MaskFormer or EoMT, or of a SegFormer, UPerNet or BEiT.
            moving, sky: see the class.
            options: for transformers, such as `revision` or `dtype`.

        Raises:
            FileNotFoundError: it is not there, or the hub can't be reached.
            ValueError: another kind of model, or an unknown class name.
        """
        import transformers as tf

        where = {key: options[key] for key in ("revision", "local_files_only", "cache_dir") if key in options}
        try:
            config = tf.AutoConfig.from_pretrained(name, **where)
            autos = (tf.AutoModelForUniversalSegmentation, tf.AutoModelForSemanticSegmentation)
            fitting = [auto for auto in autos if type(config) in auto._model_mapping.keys()]
            if not fitting or config.model_type == "oneformer":  # OneFormer needs a task in words
                raise ValueError(f"mask_estimator: {name} is a {config.model_type}, no model for segmentation")
            model = fitting[0].from_pretrained(name, use_safetensors=True, **options)
            processor = tf.AutoImageProcessor.from_pretrained(name, **where)
        except OSError as error:
            raise FileNotFoundError(f"mask_estimator: can't load {name}: {str(error).splitlines()[0]}") from None
        return cls(model, processor, moving, sky, str(name))

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Find what moves and the sky in frames (N, 3, H, W) in [-1, 1]; a pixel has its most likely class.

        Returns:
            moving, sky: (N, H, W) bool each.
        """
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
    synonyms = {part.strip() for part in label.split(",")}
    return synonyms | {part.split("-")[0] for part in synonyms}
