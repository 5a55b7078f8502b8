"""One bar over all frames of a verb."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class FrameBar:
    """Counts what is done inside of frames where that is known, and frames where it is not."""

    def __init__(self, frames: int, size: int, unit: str, show: bool) -> None:
        """Says what a bar will be of; it is shown inside ``with``.

        Args:
            frames: of the run.
            size: of a frame, in units.
            unit: what is counted.
            show: whether there is a bar.
        """
        self.frames, self._size = frames, size
        """Of the run."""
        self._frame, self._inside = 0, 0
        self._unit, self._hidden = unit, not show
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> FrameBar:
        """Shows an empty bar."""
        self._bar = tqdm(total=self.frames * self._size, unit=self._unit, disable=self._hidden)
        self._label()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _label(self) -> None:
        if self._bar is not None:
            label = f"frame {min(self._frame + 1, self.frames)}/{self.frames}"
            self._bar.set_description(label, refresh=False)

    def _show(self) -> None:
        if self._bar is not None:
            at = self._frame * self._size + min(self._inside, self._size)
            self._bar.update(at - self._bar.n)

    def count(self, done: int) -> None:
        """So many units of the frame at hand are done."""
        self._inside += done
        self._show()

    def next_frame(self) -> None:
        """A frame is complete."""
        self._frame, self._inside = self._frame + 1, 0
        self._label()
        self._show()
