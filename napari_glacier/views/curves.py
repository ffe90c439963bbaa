"""Live training curves: matplotlib, imported when the first curve is drawn."""

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLabel, QSizePolicy, QStackedLayout, QWidget

from napari_glacier.views.base import hint

if TYPE_CHECKING:
    from napari_glacier.controllers.training import Curves

# Apart for colour-blind people, on dark and light ground (after Okabe & Ito, 2008).
_TRAIN, _VAL = "#e69f00", "#56b4e9"


class CurvesPlot(QWidget):
    """Loss and MCC against the epoch.

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
        self.setMinimumHeight(165)
        self.setMaximumHeight(215)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

    def show_curves(self, curves: "Curves") -> None:
        """Draw what is known; waits for the first epoch."""
        if not curves.epochs:
            self._stack.setCurrentIndex(0)
            return
        if self._canvas is None:
            from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
            from matplotlib.figure import Figure

            self._canvas = FigureCanvasQTAgg(Figure(figsize=(3.2, 1.7), layout="constrained"))  # type: ignore[no-untyped-call]
            self._stack.addWidget(self._canvas)
        self._stack.setCurrentWidget(self._canvas)
        figure = self._canvas.figure
        figure.clear()
        ground, text = self._theme_colors()
        figure.set_facecolor(ground)
        # One epoch makes a point, not a line.
        marker = "o" if len(curves.epochs) < 3 else None
        for number, (title, names) in enumerate(
            (("loss", ("train_loss", "val_loss")), ("MCC", ("train_mcc", "val_mcc")))
        ):
            axes = figure.add_subplot(1, 2, number + 1)
            axes.set_facecolor(ground)
            for name, color, label in zip(names, (_TRAIN, _VAL), ("training", "validation"), strict=True):
                if name in curves.series:
                    axes.plot(curves.epochs, curves.series[name], color=color, lw=1.5, marker=marker, ms=4, label=label)
            axes.set_title(title, color=text, fontsize=8, pad=3)
            axes.tick_params(colors=text, labelsize=7, length=2, pad=2)
            axes.set_xlim(curves.epochs[0] - 0.5, curves.epochs[-1] + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
            axes.yaxis.get_major_locator().set_params(nbins=5)
            for spine in axes.spines.values():
                spine.set_color(text)
                spine.set_alpha(0.3)
            axes.grid(alpha=0.15, color=text)
            if number == 1 and curves.best_epoch in curves.epochs and "val_mcc" in curves.series:
                best = curves.series["val_mcc"][curves.epochs.index(curves.best_epoch)]
                axes.plot([curves.best_epoch], [best], marker="*", color=_VAL, ms=9, ls="")
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            fontsize=7,
            frameon=False,
            labelcolor=text,
            handlelength=1.5,
        )
        self._canvas.draw_idle()

    def _theme_colors(self) -> tuple[str, str]:
        from napari.utils.theme import get_theme

        theme = get_theme(self._viewer.theme)
        return theme.background.as_hex(), theme.text.as_hex()
