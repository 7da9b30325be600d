"""What moves and what is sky, named by class: a segmentation model of `transformers` for stage 4.

The paper lets a language model name what may move and a segmentation model find it. Here the names are a list: a model
trained on COCO, ADE20k or Cityscapes knows persons, cars and the sky by itself. Pictures are prepared here, from the
figures in the model's own `preprocessor_config.json`, so that no image library is needed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

# Names as COCO, ADE20k and Cityscapes spell them; a model's list is searched for whole words.
MOVING = (
    "person", "rider", "bicycle", "car", "motorcycle", "minibike", "airplane", "bus", "train", "truck", "van", "boat",
    "ship", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "ball",
    "sports ball", "frisbee", "kite",
)  # fmt: skip
SKY = ("sky",)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class TransformersSegmentation:
    """A `transformers` model for universal or semantic segmentation, as the pipeline's `mask_estimator`.

    Args:
        model: what one of transformers' two auto classes gave.
        moving, sky: class names whose pixels are masked; they match a class if they are one of its words or synonyms
            ("sky", and also "sky-other-merged"). By default those of `MOVING` and `SKY` that the model knows.
        size: (height, width) that pictures are resized to; by default they keep their size, in multiples of 32.
        mean, std: of the colours, in 0..1, that the model expects.
        name: what the model is called in messages.

    Raises:
        ValueError: a class name that the model does not know (near ones are offered), or none at all.
    """

    def __init__(
        self,
        model,
        moving: Sequence[str] | None = None,
        sky: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        mean: Sequence[float] = IMAGENET["image_mean"],
        std: Sequence[float] = IMAGENET["image_std"],
        name: str = "",
    ) -> None:
        self.model, self.size, self.name = model.eval().requires_grad_(False), size, name or type(model).__name__
        self.mean, self.std = (torch.tensor(list(x))[:, None, None] for x in (mean, std))
        self.classes = {int(index): label.lower() for index, label in model.config.id2label.items()}
        self.moving = self._indices("moving", moving, MOVING)
        self.sky = self._indices("sky", sky, SKY)
        if not self.moving and not self.sky:
            raise ValueError(f"moving: {self.name} knows nothing that moves, and no sky, by the usual names; name some")

    @classmethod
    def from_transformers(
        cls, name: str | Path, moving: Sequence[str] | None = None, sky: Sequence[str] | None = None, **options
    ) -> TransformersSegmentation:
        """Load a model by its name on the hub or its local folder; safetensors only.

        Args:
            name: such as a Mask2Former, MaskFormer or EoMT, or a SegFormer, UPerNet or BEiT.
            moving, sky: see the class.
            options: as `revision` or `torch_dtype`, handed to transformers.

        Raises:
            FileNotFoundError: it is not there, or the hub can't be reached.
            ValueError: another kind of model, or an unknown class name.
        """
        from transformers import AutoConfig, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
        from transformers.utils import cached_file

        where = {key: options[key] for key in ("revision", "local_files_only", "cache_dir") if key in options}
        try:
            config = AutoConfig.from_pretrained(name, **where)
            found = [
                auto
                for auto in (AutoModelForUniversalSegmentation, AutoModelForSemanticSegmentation)
                if type(config) in auto._model_mapping.keys()
            ]
            if not found or config.model_type == "oneformer":  # which wants a task in words, too
                raise ValueError(f"mask_estimator: {name} is a {config.model_type}, no model for segmentation")
            model = found[0].from_pretrained(name, use_safetensors=True, **options)
            file = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False, **where)
        except OSError as error:
            raise FileNotFoundError(f"mask_estimator: can't load {name}: {str(error).splitlines()[0]}") from None
        given = IMAGENET | (json.loads(Path(file).read_text()) if file else {})
        size = given.get("size") if given.get("do_resize", True) else None
        size = (size["height"], size["width"]) if isinstance(size, dict) and "height" in size else None
        return cls(model, moving, sky, size, given["image_mean"], given["image_std"], str(name))

    def _indices(self, argument: str, names: Sequence[str] | None, usual: Sequence[str]) -> list[int]:
        """Classes that a list of names means."""
        asked, found = usual if names is None else [n.lower() for n in names], set()
        for name in asked:
            mine = {index for index, label in self.classes.items() if name in words(label)}
            if not mine and names is not None:
                near = difflib.get_close_matches(name, self.classes.values(), 3)
                hint = f" (did you mean {' or '.join(near)}?)" if near else ""
                raise ValueError(f"{argument}: {self.name} knows no class {name!r}{hint}")
            found |= mine
        return sorted(found)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Which pixels show something that may move, and which the sky: (N, H, W) bool each, for frames (N, 3, H, W) in
        [-1, 1]. A pixel belongs to its most likely class."""
        height, width = pixels.shape[2:]
        device = next(self.model.parameters()).device
        labels = []
        for frame in pixels.split(4):
            size = self.size or (-(-height // 32) * 32, -(-width // 32) * 32)
            x = F.interpolate(frame.float(), size, mode="bilinear", antialias=True, align_corners=False)
            x = ((x.cpu() + 1) / 2 - self.mean) / self.std
            scores = class_scores(self.model, x.to(device, next(self.model.parameters()).dtype)).float()
            labels.append(F.interpolate(scores, (height, width), mode="bilinear", align_corners=False).argmax(1))
        labels = torch.cat(labels)
        masks = (torch.isin(labels, torch.tensor(which, device=device)) for which in (self.moving, self.sky))
        return tuple(mask.to(pixels.device) for mask in masks)


def class_scores(model, pixels: Tensor) -> Tensor:
    """(N, classes, h, w) of prepared pixels (N, 3, H, W), whichever of the two kinds of model it is.

    A universal model says what each of its queries is and where; a pixel's score of a class is the sum over queries.
    """
    output = model(pixel_values=pixels)
    if getattr(output, "logits", None) is not None and getattr(output, "masks_queries_logits", None) is None:
        return output.logits
    what = output.class_queries_logits.softmax(-1)[..., :-1]  # the last class is "no object"
    return torch.einsum("nqc,nqhw->nchw", what, output.masks_queries_logits.sigmoid())


def words(label: str) -> set[str]:
    """The names that a class goes by: "sky-other-merged" is sky; "person, individual" is person; "sports ball" is
    itself, and no ball."""
    synonyms = {part.strip() for part in label.split(",")}
    return synonyms | {part.split("-")[0] for part in synonyms}
