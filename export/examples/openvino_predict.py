"""Finds the objects in a picture with OpenVINO and a file that export/onnx.py wrote.

    pip install openvino pillow
    python openvino_predict.py model.onnx photo.jpg [SCORE_THRESHOLD]

What `litert_predict.py` shows in functions to be copied, as short as it can be said: a line for
each object with its name, score, box in the picture's pixels and how many pixels its mask covers.
"""

import json
import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

threshold = float(sys.argv[3]) if len(sys.argv) > 3 else 0.3
core = openvino.Core()
network = core.read_model(sys.argv[1])
told = {name: json.loads(text) for name, text in network.get_rt_info("framework").value.items()}
run = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
width, height = picture.size
canvas = told["input"]["height"], told["input"]["width"]
scale = min(canvas[0] / height, canvas[1] / width)
size = int(height * scale + 0.5), int(width * scale + 0.5)
step = width / size[1], 0, 0, 0, height / size[0], 0  # Pillow's resize smooths, this does not
small = picture.transform(size[::-1], Image.Transform.AFFINE, step, Image.Resampling.BILINEAR)
pixels = np.zeros((1, *canvas, 3), "uint8")
pixels[0, : size[0], : size[1]] = small
answer = run({"image": pixels, "size": np.int32([size])})
found = {output.any_name: value[0] for output, value in answer.items()}
stretch = np.float32([width / size[1], height / size[0]] * 2)
for row in np.flatnonzero((found["labels"] >= 0) & (found["scores"] >= threshold)):
    x0, y0, x1, y1 = map(float, found["mask_frames"][row] * stretch)
    mask = Image.fromarray(np.pad(found["masks"][row], 1))  # 0 around: no mask beyond its frame
    columns, rows = (mask.width - 2) / (x1 - x0), (mask.height - 2) / (y1 - y0)
    place = columns, 0, 1 - x0 * columns, 0, rows, 1 - y0 * rows
    full = mask.transform(picture.size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
    covered = np.sum(np.asarray(full) >= told["mask_threshold"])
    name, score = told["categories"][found["labels"][row]]["name"], found["scores"][row]
    box = np.clip(found["boxes"][row] * stretch, 0, [width, height] * 2)
    print(f"{name}; {score:.3f}; {' '.join(f'{edge:.1f}' for edge in box)}; {covered}")
