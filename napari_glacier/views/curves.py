"""Live training curves: matplotlib, imported when the first curve is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLabel, QSizePolicy, QStackedLayout, QWidget

from napari_glacier.views.base import hint

if TYPE_CHECKING:
    from napari_glacier.controllers.run_curves import Curves

# Apart for colour-blind people, on dark and light ground (after Okabe & Ito, 2008).
_TRAIN, _VAL = "#e69f00", "#56b4e9"
# Of the runs laid over it; their strokes differ, too.
_OTHERS = (("#009e73", "--"), ("#cc79a7", "-."), ("#d55e00", ":"), ("#f0e442", (0, (5, 1, 1, 1, 1, 1))))
MAX_OTHERS = len(_OTHERS)
_HEIGHT_PX, _LEGEND_LINE_PX = 215, 14
_PANELS = (("loss", "loss"), ("MCC", "mcc"), ("learning rate", "lr"))


class CurvesPlot(QWidget):
    """Loss, MCC and learning rate against the epoch; of other runs what validation gave.

    Parameters
    ----------
    viewer : napari.Viewer
        Its theme gives the colours of ground and text.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._canvas: Any = None
        self._stack = QStackedLayout(self)
        waiting: QLabel = hint("Curves appear after the first epoch.")
        waiting.setEnabled(False)
        self._stack.addWidget(waiting)
        self.setMinimumHeight(_HEIGHT_PX - 50)
        self.setMaximumHeight(_HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

    def show_curves(self, curves: "Curves", others: Sequence[tuple[str, "Curves"]] = (), name: str = "") -> None:
        """Draw what is known; waits for the first epoch.

        Parameters
        ----------
        curves : Curves
        others : sequence of (str, Curves)
            Names and figures of at most `MAX_OTHERS` runs to lay over it.
        name : str
            What the run itself is called in the legend beside others.
        """
        if not curves.epochs:
            self._stack.setCurrentIndex(0)
            return
        if self._canvas is None:
            from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
            from matplotlib.figure import Figure

            self._canvas = FigureCanvasQTAgg(Figure(figsize=(3.2, 1.7), layout="constrained"))  # type: ignore[no-untyped-call]
            self._stack.addWidget(self._canvas)
        self._stack.setCurrentWidget(self._canvas)
        others = [(other, figures) for other, figures in others if figures.epochs][:MAX_OTHERS]
        self.setMaximumHeight(_HEIGHT_PX + _LEGEND_LINE_PX * len(others))
        self.setMinimumHeight(_HEIGHT_PX - 50 + _LEGEND_LINE_PX * len(others))
        figure = self._canvas.figure
        figure.clear()
        ground, text = self._theme_colors()
        figure.set_facecolor(ground)
        drawn = [curves, *(figures for _, figures in others)]
        limits = min(c.epochs[0] for c in drawn) - 0.5, max(c.epochs[-1] for c in drawn) + 0.5
        for number, (title, key) in enumerate(_PANELS, start=1):
            axes = figure.add_subplot(1, len(_PANELS), number)
            self._style(axes, title, limits, ground, text)
            if key == "lr":
                axes.set_yscale("log")
            else:
                _draw(axes, curves, f"train_{key}", _TRAIN)
            _draw(axes, curves, key if key == "lr" else f"val_{key}", _VAL)
            # On top, in broken lines: runs of one seed coincide.
            for (_, figures), (color, stroke) in zip(others, _OTHERS, strict=False):
                _draw(axes, figures, key if key == "lr" else f"val_{key}", color, stroke)
            if key == "mcc" and curves.best_epoch in curves.epochs and "val_mcc" in curves.series:
                best = curves.series["val_mcc"][curves.epochs.index(curves.best_epoch)]
                axes.plot([curves.best_epoch], [best], marker="*", color=_VAL, ms=9, ls="")
        self._legend(figure, text, [other for other, _ in others], name)
        self._canvas.draw_idle()

    @staticmethod
    def _style(axes: Any, title: str, limits: tuple[float, float], ground: str, text: str) -> None:
        axes.set_facecolor(ground)
        # In the middle the longest would run over the edge beside wide figures.
        axes.set_title(title, loc="right", color=text, fontsize=8, pad=3)
        axes.tick_params(colors=text, labelsize=6, length=2, pad=2, which="both")
        axes.set_xlim(*limits)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=4, min_n_ticks=1)
        axes.yaxis.get_major_locator().set_params(nbins=5)
        for spine in axes.spines.values():
            spine.set_color(text)
            spine.set_alpha(0.3)
        axes.grid(alpha=0.15, color=text)

    @staticmethod
    def _legend(figure: Any, text: str, others: Sequence[str], name: str) -> None:
        from matplotlib.lines import Line2D

        own = f": {name}" if others else ""
        lines = [Line2D([], [], color=_TRAIN), Line2D([], [], color=_VAL)]
        titles = [f"training{own}", f"validation{own}"] if others else ["training", "validation"]
        lines += [Line2D([], [], color=color, ls=stroke) for _, (color, stroke) in zip(others, _OTHERS, strict=False)]
        figure.legend(
            lines,
            [*titles, *others],
            loc="outside lower center",
            ncols=1 if others else 2,
            fontsize=7,
            frameon=False,
            labelcolor=text,
            handlelength=2.2 if others else 1.5,
            labelspacing=0.2,
            borderpad=0.1,
        )

    def _theme_colors(self) -> tuple[str, str]:
        from napari.utils.theme import get_theme

        theme = get_theme(self._viewer.theme)
        return theme.background.as_hex(), theme.text.as_hex()


def _draw(axes: Any, curves: "Curves", name: str, color: str, stroke: Any = "-") -> None:
    if name in curves.series:
        # One epoch makes a point, not a line.
        marker = "o" if len(curves.epochs) < 3 else None
        axes.plot(curves.epochs, curves.series[name], color=color, ls=stroke, lw=1.5, marker=marker, ms=4)
