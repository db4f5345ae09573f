"""This library against a file of reference numbers.

    python -m tests.parity FIXTURE.npz [--system NAME] [--forward]

Prints for every group of arrays the largest error and the tolerance; the exit status is 1 if one
is beyond it, or if an array was not compared.
"""

import argparse
import sys

from tests.parity.backbones import compare_backbones
from tests.parity.fixture import Fixture
from tests.parity.operations import compare_operations
from tests.parity.rdsnet import compare_rdsnet
from tests.parity.refinemask import compare_refinemask
from tests.parity.systems import compare_system


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("fixture", help=".npz file: a whole model, heads, backbones or operations")
    parser.add_argument("--system", help="class to build instead of the fixture's own, e.g. PAC")
    parser.add_argument("--forward", action="store_true", help="leave the training part out")
    arguments = parser.parse_args()
    fixture = Fixture(arguments.fixture)
    if "meta/config_json" in fixture:
        compare_system(fixture, arguments.system, training=not arguments.forward)
    elif fixture.under("roi_align/"):
        compare_operations(fixture)
    elif fixture.under("refine/"):
        compare_refinemask(fixture, training=not arguments.forward)
    elif fixture.under("mbrm/"):
        compare_rdsnet(fixture, training=not arguments.forward)
    else:
        compare_backbones(fixture)
    return 0 if fixture.report() else 1


if __name__ == "__main__":
    sys.exit(main())
