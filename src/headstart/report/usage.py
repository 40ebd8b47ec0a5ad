"""What an export takes → the lines of Python that give it a picture, for its card; nothing in them is of Headstart."""

from __future__ import annotations

from headstart.delivery import exports
from headstart.delivery.exports import Target
from headstart.model.classifier import Classifier
from headstart.records import Preprocess

_TIMM = """import timm
from PIL import Image, ImageOps

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
probabilities = model(transform(picture)[None]).softmax(dim=1)"""

_RUNTIMES = {
    "onnx": (
        "onnxruntime",
        """session = onnxruntime.InferenceSession("model.onnx")
probabilities, *_ = session.run(None, given)""",
    ),
    "openvino": (
        "openvino",
        """model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
probabilities = model(given)[0]""",
    ),
}

_TENSOR = '''

def tensor(size, crop, mean, std):
    """Return the picture as (1, 3, size, size) float32."""
    {resized}
    return ((np.asarray(small, np.float32) / 255 - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None]


'''

_RESIZED = {
    "crop": """side = min(picture.size) * crop
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    small = picture.resize((size, size), Image.Resampling.{method}, box=(left, top, left + side, top + side))""",
    "squash": "small = picture.resize((size, size), Image.Resampling.{method})",
    "letterbox": """scale = size / max(picture.size)
    inner = [max(1, round(side * scale)) for side in picture.size]
    small = Image.new("RGB", (size, size), {background})
    small.paste(picture.resize(inner, Image.Resampling.{method}), [(size - side) // 2 for side in inner])""",
}


def code(classifier: Classifier, target: Target) -> str:
    """Return a few lines that make probabilities of `picture.jpg` where the export's files lie."""
    if target.form == "timm":
        return _TIMM
    package, run = _RUNTIMES[target.form]
    head = f"import numpy as np, {package}\nfrom PIL import Image, ImageOps\n\n"
    read = 'picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")\n'
    if target.input == "pictures":
        return f'{head}{read}given = {{"pictures": np.asarray(picture)[None]}}\n{run}'
    wanted = {name: one for name, (one,) in exports.inputs(classifier, target.input).items()}
    given = ", ".join(f'"{name}": tensor({_arguments(one)})' for name, one in wanted.items())
    return f"{head}{read}{_prepared(classifier.preprocess)}given = {{{given}}}\n{run}"


def _prepared(preprocess: Preprocess) -> str:
    resized = _RESIZED[preprocess.resize].format(
        method=preprocess.interpolation.upper(), background=tuple(preprocess.background)
    )
    return _TENSOR.format(resized=resized)


def _arguments(preprocess: Preprocess) -> str:
    mean, std = ([round(value, 6) for value in values] for values in (preprocess.mean, preprocess.std))
    return f"{preprocess.size}, {preprocess.crop:g}, {mean}, {std}"
