"""PAC learns eight real pictures by heart.

    python -m pytest -n 0 -s -m slow tests/systems/test_overfit.py

About half an hour on two CPU cores.
"""

import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "evaluation"))
import by_heart


@pytest.mark.slow
def test_pac_learns_eight_coco_pictures_by_heart():
    """From scratch, with batch statistics that are measured once and then frozen."""
    _, metrics = by_heart.learn("PAC")
    print(metrics["box"], metrics["mask"])
    assert metrics["mask"]["AP"] >= 0.5
