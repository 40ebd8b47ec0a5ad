"""How far it is → bars: widgets in a notebook, text on stderr elsewhere."""

from __future__ import annotations

from tqdm.auto import tqdm


class ProgressBar:
    """A listener for `progress=` that shows a bar for each stage, with its rate and the time that is left.

    In a notebook that has `ipywidgets` the bars are widgets, else text.

    >>> import headstart as hs
    >>> result = hs.train("photos/", progress=hs.ProgressBar())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self._bars: dict[str, tqdm[None]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See `Progress`; a stage that comes again after its end gets another bar."""
        bar = self._bars.get(stage)
        if bar is None or (bar.n >= bar.total and done < total):
            bar = self._bars[stage] = tqdm(desc=stage, total=total, initial=done)
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
