"""What training does about pictures that cannot be read."""

import math
import warnings

from pac_keras.choices import check_choice

MOST_BAD = 0.01  # of a data set's pictures may be passed over, and always one


class BadImageError(ValueError):
    """A picture cannot be read, or too many of them; the message names the files."""


class Reader:
    """Samples of a source; with "skip" another picture takes the place of one that is unreadable.

    Args:
        source: see `sample.Source`.
        on_bad_image: "raise" or "skip". Each one that is passed over is named in a warning; more
            than `MOST_BAD` of all raise an error that names them. Worker processes count their own.

    Attributes:
        bad: {index of a picture: what was wrong with it}.
    """

    def __init__(self, source, on_bad_image):
        check_choice("on_bad_image", on_bad_image, ("raise", "skip"))
        self.source = source
        self.skip = on_bad_image == "skip"
        self.bad = {}

    def read(self, index, groups):
        """The Sample of picture `index`, or of the next one of its group that can be read.

        Args:
            groups: tuples of indices; pictures of one may stand in for each other.

        Raises:
            BadImageError: see `on_bad_image`, or none of the group can be read.
        """
        sample = self._read(index)
        if sample is not None:
            return sample
        (group,) = (group for group in groups if index in group)
        start = group.index(index)
        for candidate in (*group[start + 1 :], *group[:start]):
            if (sample := self._read(candidate)) is not None:
                return sample
        raise BadImageError(f"{self.source.name}: no picture can be read: {self._list()}")

    def _read(self, index):
        """The Sample, None if it is to be passed over."""
        if index in self.bad:
            return None
        try:
            return self.source[index]
        except (OSError, ValueError) as error:
            if not self.skip:
                raise BadImageError(str(error)) from error
            self._note(index, error)
            return None

    def _note(self, index, error):
        self.bad[index] = str(error)
        warnings.warn(f"picture passed over, {len(self.bad)} so far: {error}", stacklevel=4)
        allowed = max(1, math.floor(MOST_BAD * len(self.source)))
        if len(self.bad) > allowed:
            raise BadImageError(
                f"{self.source.name}: {len(self.bad)} of {len(self.source)} pictures cannot be "
                f"read, expected at most {allowed}: {self._list()}"
            )

    def _list(self):
        return "; ".join(self.bad.values())
