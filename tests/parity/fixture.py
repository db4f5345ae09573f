"""A file of reference numbers, and the record of what was compared with it."""

import json

import numpy as np

TOLERANCES = {  # kind: (absolute, relative to the largest value)
    "features": (0.0, 1e-4),
    "logits": (0.0, 2e-4),
    "boxes": (0.02, 0.0),
    "scores": (2e-4, 0.0),
    "loss": (0.0, 1e-3),
    "gradient": (0.0, 1e-2),
    "exact": (0.0, 0.0),
}
MASK_PIXELS = 3  # that may differ in a binary mask


class Fixture:
    """Arrays of an `.npz` file; each comparison is noted under the name that it was made for."""

    def __init__(self, path):
        with np.load(path) as archive:
            self.arrays = dict(archive)
        self.rows = []  # (name, kind, error, limit)
        self.inputs = set()  # names that were read, not compared
        self.excused = {}  # name: why it was not compared

    def __getitem__(self, name):
        return self.arrays[name]

    def __contains__(self, name):
        return name in self.arrays

    def config(self):
        return json.loads(str(self["meta/config_json"]))

    def under(self, prefix):
        return [name for name in self.arrays if name.startswith(prefix)]

    def input(self, name):
        """An array that is an input of ours; the others have to be compared."""
        self.inputs.add(name)
        return self[name]

    def compare(self, name, ours, kind):
        """Notes the largest error of `ours` against the array `name`."""
        self.compare_array(name, self[name], ours, kind)

    def compare_array(self, name, expected, ours, kind):
        """The same, with what is `expected` made from the array `name`."""
        ours = np.asarray(ours)
        if ours.shape != expected.shape:
            self.rows.append((f"{name} {ours.shape} != {expected.shape}", kind, np.inf, 0.0))
            return
        absolute, relative = TOLERANCES[kind]
        expected = expected.astype("float64")
        limit = absolute + relative * np.abs(expected).max(initial=0.0)
        error = np.abs(ours.astype("float64") - expected).max(initial=0.0)
        self.rows.append((name, kind, error, limit))

    def compare_masks(self, name, ours):
        """Notes the most pixels in which two binary masks of one row differ."""
        expected = self[name].reshape(len(self[name]), -1)
        different = (np.asarray(ours).reshape(expected.shape) != expected).sum(axis=1)
        self.rows.append((name, "pixels", different.max(initial=0), MASK_PIXELS))

    def compare_each(self, name, ours, kind):
        """Notes the worst of several numbers, each against a limit of its own size."""
        _, relative = TOLERANCES[kind]
        expected = self[name].astype("float64")
        scale = np.maximum(np.abs(expected), 1e-3 * np.abs(expected).max())
        error = (np.abs(np.asarray(ours, "float64") - expected) / scale).max()
        self.rows.append((name, f"each {kind}", error, relative))

    def excuse(self, name, reason):
        self.excused[name] = reason

    def uncompared(self):
        """Names that were neither compared nor are inputs."""
        compared = {row[0].split(" ")[0] for row in self.rows}
        known = compared | self.inputs | set(self.excused)
        inputs = ("in/", "meta/", "train/gt_")
        return [n for n in self.arrays if n not in known and not n.startswith(inputs)]

    def report(self):
        """Prints the table by groups; answers whether everything held."""
        groups = {}
        for name, kind, error, limit in self.rows:
            group = (
                "/".join(name.split("/")[:2]) if name.startswith("train/") else name.split("/")[0]
            )
            groups.setdefault((group, kind), []).append(
                (error / limit if limit else error, error, limit, name)
            )
        print(f"{'group':32} {'kind':14} {'arrays':>6} {'largest error':>14} {'tolerance':>10}")
        for (group, kind), rows in groups.items():
            _, error, limit, name = max(rows)
            held = all(error <= limit for _, error, limit, _ in rows)
            line = f"{group:32} {kind:14} {len(rows):6d} {error:14.3g} {limit:10.3g}"
            print(f"{line}  {'pass' if held else f'FAIL {name}'}")
        for name, reason in self.excused.items():
            print(f"not compared: {name}: {reason}")
        missing = self.uncompared()
        for name in missing:
            print(f"NOT COMPARED: {name}")
        return not missing and all(error <= limit for _, _, error, limit in self.rows)
