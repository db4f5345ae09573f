"""Tables, metrics.json and curves."""

import io
import json

import pytest
from PIL import Image
from rich.console import Console

from pac_keras.evaluation import report
from pac_keras.evaluation.coco import METRICS

NUMBERS = {name: index / 100 for index, name in enumerate(METRICS)}
METRICS_DICT = {
    "box": {**NUMBERS, "AP": 0.5045806987249628},
    "mask": {**NUMBERS, "APs": -1.0},
    "per_class": {"car": {"box": 0.25, "mask": -1.0}, "größe": {"box": 1.0, "mask": 0.5}},
}


def printed(metrics):
    """The cells of each printed line."""
    console = Console(width=80, record=True, file=io.StringIO())
    report.print_metrics(metrics, console=console)
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.export_text().splitlines()
    ]


def test_tables_show_percent_and_a_dash_for_unknown():
    lines = printed(METRICS_DICT)
    assert ["AP", "50.5", "0.0"] in lines
    assert ["APs", "3.0", "-"] in lines
    assert ["car", "25.0", "-"] in lines and ["größe", "100.0", "50.0"] in lines
    assert not [line for line in lines if line and line[0].startswith("F_")]


def test_boundary_has_a_column_and_its_own_rows():
    boundary = {**NUMBERS, "F_1px": 0.696, "F_3px": -1.0}
    per_class = {"car": {"box": 0.25, "mask": -1.0, "boundary": 0.125}}
    lines = printed({**METRICS_DICT, "boundary": boundary, "per_class": per_class})
    assert ["APs", "3.0", "-", "3.0"] in lines
    assert lines.index(["F_1px", "-", "-", "69.6"]) == lines.index(["F_3px", "-", "-", "-"]) - 1
    assert ["car", "25.0", "-", "12.5"] in lines


def test_metrics_json_keeps_full_precision(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    report.write_metrics(path, METRICS_DICT)
    assert json.loads(path.read_text(encoding="utf-8")) == METRICS_DICT
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_log_is_read_with_gaps(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss,val_loss,val_mask_AP\n0,4.5,5,\n1,2.25,NA,0.125\n")
    assert report.read_log(log) == {
        "loss": [(0.0, 4.5), (1.0, 2.25)],
        "val_loss": [(0.0, 5.0)],
        "val_mask_AP": [(1.0, 0.125)],
    }


def test_curves_are_a_picture_with_a_panel_per_kind(tmp_path):
    log, both, losses = tmp_path / "log.csv", tmp_path / "both.png", tmp_path / "losses.png"
    log.write_text("epoch,loss,mask_AP\n0,4.5,0.0\n1,2.25,0.125\n")
    report.plot_log(log, both)
    log.write_text("epoch,loss\n0,4.5\n1,2.25\n")
    report.plot_log(log, losses)
    widths = [Image.open(file).size[0] for file in (both, losses)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=2)


def test_metrics_are_drawn_beside_losses(tmp_path, monkeypatch):
    log, drawn = tmp_path / "log.csv", {}
    log.write_text("epoch,loss,lr,val_F_1px,val_F_3px,val_boundary_AP\n0,4.5,1,0.5,nan,0.25\n")
    monkeypatch.setattr(
        report, "_draw_panels", lambda panels, *_: drawn.update((b, a) for a, b in panels)
    )
    report.plot_log(log, tmp_path / "curves.png")
    assert drawn == {"loss": ["loss"], "AP, F": ["val_F_1px", "val_boundary_AP"]}


def test_log_without_numbers_is_an_error(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss\n")
    with pytest.raises(ValueError, match=r"log\.csv: no column with 'loss' or 'AP'"):
        report.plot_log(log, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
