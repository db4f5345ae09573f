"""The command line: `python -m pac_keras COMMAND`; each has --help."""

import argparse
import json
import os
import sys
from pathlib import Path

_MODEL = """MODEL is a .keras file, or a SavedModel folder, a .tflite or .onnx file of export/."""

_DATA = """DATA is one of:
  shapes                   the built-in data set
  FILE.json --images DIR   COCO annotations and their pictures
  FOLDER [--split val]     a folder with val.json (or instances_val.json) and images/"""

_EXAMPLES = {
    "predict": f"""{_MODEL}

examples:
  python -m pac_keras predict model.keras photo.jpg --out out
  python -m pac_keras predict model.onnx photos/ --out out --score 0.5 --boxes

writes to OUT: a picture with the masks for each picture, instances.json (boxes, names, scores,
masks for each file) and results.json (COCO results; a picture's id is its file's number where all
names are different numbers, as COCO's are, and 1, 2, ... otherwise).""",
    "evaluate": f"""{_MODEL}

{_DATA}

examples:
  python -m pac_keras evaluate model.keras --data shapes
  python -m pac_keras evaluate model.keras --data val.json --images images/ --out metrics.json
  python -m pac_keras evaluate model.onnx --data folder/ --split val --boundary""",
    "browse": """examples:
  python -m pac_keras browse configs/pac_r18_folder.py seen.png --data folder/
  python -m pac_keras browse configs/pac_r18_shapes.py seen.png --field train.size=256

Masks and boxes went through loading, augmentation, resize and the mask grids, as in training.""",
    "check": f"""{_DATA}

examples:
  python -m pac_keras check train.json --images images/

The exit status is 1 if a picture cannot be read.""",
    "convert": """examples:
  python -m pac_keras convert htc_r50_fpn_20e_coco.pth htc_r50.keras --system HTC
  python -m pac_keras convert ms_rcnn_r50_caffe_fpn_2x_coco.pth ms.keras --system MaskScoringRCNN \\
      --backbone resnet50_caffe
  python -m pac_keras convert maskrcnn_resnet50_fpn_coco.pth mask.keras --system MaskRCNN

.pth needs torch (`pip install torch`); .safetensors and .npz do not.""",
}


def main(arguments=None):
    """Exit status: 0; 1 if pictures were left out; 2 after one line about a user's error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's own chatter
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ImportError, ValueError, OSError) as error:
        if options.traceback:
            raise
        print(f"pac_keras: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def run_predict(options):
    """Draws and writes what the model finds in each picture; unreadable ones are named and left
    out where a folder was given."""
    from pac_keras.predict import picture_files

    source, out = Path(options.pictures), Path(options.out)
    files = picture_files(source) if source.is_dir() else [source]
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such picture or folder")
    if out.resolve() == files[0].parent.resolve():
        raise ValueError(f"--out {out} is the pictures' own folder: choose another")
    if not 0 <= options.score <= 1:
        raise ValueError(f"--score must be in [0, 1], got {options.score}")
    model = _load_model(options.model)
    out.mkdir(parents=True, exist_ok=True)
    found, failed = [], 0
    for file, name in zip(files, _overlay_names(files), strict=True):
        try:
            found.append(_predict_file(model, file, out / name, options))
        except (ValueError, OSError) as error:
            if not source.is_dir():
                raise
            failed += 1
            print(f"left out: {' '.join(str(error).split())}", file=sys.stderr)
    _write_results(out, model, found, dict(zip(files, _image_ids(files), strict=True)))
    objects = sum(len(one.names) for one in found)
    print(f"{out}: {objects} objects in {len(found)} pictures, {failed} left out")
    return 1 if failed else 0


def run_evaluate(options):
    """Prints the COCO metrics of a model on a data set, and writes them to --out."""
    from pac_keras.evaluation import coco, report

    model = _load_model(options.model)
    dataset = _dataset(options, model)
    metrics = coco.evaluate_dataset(model, dataset, boundary=options.boundary)
    report.print_metrics(metrics)
    if options.out:
        report.write_metrics(options.out, metrics)
    return 0


def run_browse(options):
    """Draws a config's training data as the network will see it."""
    from pac_keras.training import load_config
    from pac_keras.training.overrides import apply_overrides, use_data
    from pac_keras.training.pictures import draw_truth

    config, valid = load_config(options.config), "none" if options.data else None
    experiment = use_data(config, options.data, options.images, valid)
    data, _ = apply_overrides(experiment, [f"--{one}" for one in options.field]).build_data()
    draw_truth(data, options.out, options.count)
    print(f"{options.out}: {options.count} pictures of {data.source.name}")
    return 0


def run_check(options):
    """Prints what a data set holds."""
    from pac_keras.data.check import check_source

    report = check_source(_source(options))
    print(report)
    return 1 if report.problems else 0


def run_convert(options):
    """Writes a published checkpoint as a .keras file."""
    from pac_keras.weights.convert import convert

    out = Path(options.out)
    if out.suffix != ".keras":
        raise ValueError(f"{out}: expected a name that ends with .keras")
    if out.exists():
        raise ValueError(f"{out} is there already")
    model = convert(options.checkpoint, options.system, options.backbone, options.categories)
    model.save(out)
    counts = f"{model.num_classes} classes, {model.count_params():,} parameters"
    print(f"{out}: {options.system}, {counts}")
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m pac_keras", description=__doc__)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = _command(commands, "predict", run_predict, "find and draw the objects in pictures")
    predict.add_argument("model", help="see below")
    predict.add_argument("pictures", help="a picture or a folder of pictures")
    predict.add_argument("--out", required=True, metavar="DIR", help="where to write")
    predict.add_argument("--score", type=float, default=0.3, help="least score (default 0.3)")
    predict.add_argument("--boxes", action="store_true", help="draw boxes, too")

    evaluate = _command(commands, "evaluate", run_evaluate, "COCO AP of a model on a data set")
    evaluate.add_argument("model", help="see below")
    evaluate.add_argument("--data", required=True, help="see below")
    evaluate.add_argument("--batch-size", type=_positive, default=1, metavar="N", help="default 1")
    evaluate.add_argument("--boundary", action="store_true", help="also boundary AP and F (slower)")
    evaluate.add_argument("--out", metavar="FILE", help="write the metrics as json")

    browse = _command(commands, "browse", run_browse, "draw what a config's network will see")
    browse.add_argument("config", help="a file of configs/")
    browse.add_argument("out", help="the picture to write, .png or .jpg")
    browse.add_argument("--count", type=_positive, default=16, metavar="N", help="default 16")
    browse.add_argument("--data", help="json or folder in the config's place, as of train.py")
    browse.add_argument("--field", action="append", default=[], metavar="NAME=VALUE", help="of it")

    check = _command(commands, "check", run_check, "what a data set holds")
    check.add_argument("data", help="see below")

    convert = _command(commands, "convert", run_convert, "a published checkpoint as a .keras file")
    source = ".pth, .safetensors or .npz of mmdetection, its forks, torchvision"
    convert.add_argument("checkpoint", help=source)
    convert.add_argument("out", help="the .keras file to write")
    convert.add_argument("--system", required=True, help="MaskRCNN, CascadeMaskRCNN, ...")
    convert.add_argument("--backbone", default="resnet50", help="default resnet50")
    convert.add_argument("--categories", metavar="FILE", help="COCO json; default COCO's own")
    for command in (evaluate, browse, check):
        command.add_argument("--images", metavar="DIR", help="pictures of a FILE.json")
    for command in (evaluate, check):
        command.add_argument("--split", help="default val; of shapes, valid")
        command.add_argument("--limit", type=_positive, metavar="N", help="only N pictures")
        command.add_argument("--seed", type=int, default=0, help="of shapes (default 0)")
    return parser


def _command(commands, name, run, text):
    command = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _positive(text):
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


def _source(options, size=128):
    """The data source that --data, --images, --split, --limit and --seed describe."""
    from pac_keras.data.coco import CocoSource, coco_folder
    from pac_keras.data.shapes import ShapesSource

    if options.data == "shapes":
        return ShapesSource(
            options.split or "valid", options.limit or 200, size=size, seed=options.seed
        )
    path = Path(options.data)
    if path.is_dir():
        split = options.split or "val"
        return coco_folder(path, split, training=False, batch_size=1, limit=options.limit).source
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such json or folder, and not 'shapes'")
    if not options.images:
        raise ValueError(f"{path}: where are its pictures? Give --images DIR")
    return CocoSource(path, options.images, limit=options.limit)


def _dataset(options, model):
    """The data set as `model` wants it."""
    from pac_keras.data.batch import Dataset
    from pac_keras.served import ServedModel, StoredPictures

    preprocessing, batch_size = model.preprocessing, options.batch_size
    source = _source(options, size=preprocessing.short_side)
    if isinstance(model, ServedModel):
        return StoredPictures(source)
    return Dataset(source, training=False, batch_size=batch_size, preprocessing=preprocessing)


def _load_model(path):
    """The system in a .keras file, as training left it; the `ServedModel` in an exported one."""
    from pac_keras import served
    from pac_keras.systems import keras_file

    return (served if served.is_exported(path) else keras_file).load(path)


def _predict_file(model, file, overlay, options):
    """`Instances` of one file, after writing the picture with its masks."""
    from pac_keras.predict import predict, upright_image
    from pac_keras.served import ServedModel, predict_file
    from pac_keras.visualize import draw

    find = predict_file if isinstance(model, ServedModel) else predict
    found = find(model, file, score_threshold=options.score)
    draw(upright_image(file), found, boxes=options.boxes).save(overlay)
    return found


def _overlay_names(files):
    """A name per picture: its stem, or the whole name where two stems are the same."""
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else file.name for file in files]
    return [f"{name}.png" for name in names]


def _image_ids(files):
    """Numbers of the pictures for COCO results."""
    stems = [file.stem for file in files]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    return numbers if len(set(numbers)) == len(files) else list(range(1, len(files) + 1))


def _write_results(out, model, found, image_ids):
    """Writes instances.json (by file) and results.json (COCO's list of masks)."""
    pictures, results = [], []
    for one in found:
        image_id, objects = image_ids[Path(one.file)], []
        for index, segmentation in enumerate(one.segmentations):
            label, score = int(one.labels[index]), round(float(one.scores[index]), 6)
            category_id = model.categories[label][0] if model.categories else label
            box = [round(float(edge), 3) for edge in one.boxes[index]]
            objects.append({"name": one.names[index], "score": score, "box": box})
            objects[-1] |= {"category_id": category_id, "segmentation": segmentation}
            result = {"image_id": image_id, "category_id": category_id, "score": score}
            results.append({**result, "segmentation": segmentation})
        about = {"file": one.file, "image_id": image_id, "size": list(one.size)}
        pictures.append(about | {"objects": objects})
    for name, content in (("instances.json", pictures), ("results.json", results)):
        text = json.dumps(content, ensure_ascii=False, indent=1 if content is pictures else None)
        (out / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
