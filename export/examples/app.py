"""Finds the objects in pictures: python app.py model.keras photo.jpg ..."""

import sys

import keras

from pac_keras.predict import predict, upright_image
from pac_keras.visualize import draw

model = keras.models.load_model(sys.argv[1])  # safe_mode is on: no code in the file runs
for path in sys.argv[2:]:
    found = predict(model, path)
    for name, score, box in zip(found.names, found.scores, found.boxes, strict=True):
        print(f"{path}: {name} {score:.2f} {box.round(1).tolist()}")
    draw(upright_image(path), found).save(f"{path}.found.png")
