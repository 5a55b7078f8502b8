"""One bar over all frames of a verb."""

from __future__ import annotations

from tqdm import tqdm


class FrameBar:
    """Counts what is done inside of frames where that is known, and frames where it is not."""

    def __init__(self, frames: int, size: int, unit: str, show: bool) -> None:
        """Shows an empty bar.

        Args:
            frames: of the run.
            size: of a frame, in units.
            unit: what is counted.
            show: whether there is a bar.
        """
        self._frames, self._size = frames, size
        self._frame, self._inside = 0, 0
        self._bar = tqdm(total=frames * size, unit=unit, disable=not show)
        self._label()

    def __enter__(self) -> FrameBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def _label(self) -> None:
        self._bar.set_description(f"frame {min(self._frame + 1, self._frames)}/{self._frames}")

    def _show(self) -> None:
        self._bar.update(self._frame * self._size + min(self._inside, self._size) - self._bar.n)

    def count(self, done: int) -> None:
        """So many units of the frame at hand are done."""
        self._inside += done
        self._show()

    def next_frame(self) -> None:
        """A frame is complete."""
        self._frame, self._inside = self._frame + 1, 0
        self._show()
        self._label()
