"""Answers of a model that `headstart export --to onnx` wrote, with onnxruntime, Pillow and the standard library alone.

python onnx_client.py model.onnx picture.jpg …
"""

import json
import sys

import numpy as np  # comes with onnxruntime
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
told = json.loads(session.get_modelmeta().custom_metadata_map["headstart"])

for name in sys.argv[2:]:
    picture = ImageOps.exif_transpose(Image.open(name)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, (*told["networks"][0]["preprocess"]["background"], 255))
    pixels = np.asarray(Image.alpha_composite(ground, picture).convert("RGB"))
    probabilities, *familiarity = (values[0] for values in session.run(None, {"pictures": pixels[None]}))
    best = int(probabilities.argmax())
    known = told["known_from"] is None or bool(familiarity[0] >= told["known_from"])
    answer = {
        "picture": name,
        "label": told["classes"][best],
        "probability": float(probabilities[best]),
        "known": known,
    }
    print(json.dumps(answer))
