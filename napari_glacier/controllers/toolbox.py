"""The tools of the correction desk: their names, keys and what a click does, for widgets and for the canvas."""

from dataclasses import dataclass

SMART_FILL, SCRIBBLE, COMPONENT, REMOVE, HOLES = "smart fill", "scribble", "component", "remove", "fill holes"
SNAP, ACCEPT, ERASE, SHAPE, PIXEL = "snap", "accept here", "erase area", "shape", "pixel"
OUTLINE, SAM = "outline", "SAM 2"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that works on the canvas.

    Attributes
    ----------
    name : str
        Also what strokes made with it are noted under.
    title : str
        Short enough for a button.
    key : str
        In napari's notation, unless a person chose another one.
    help : str
        What to do with the mouse.
    draws : bool
        Whether dragging draws a line; with Shift it moves the view then, as it does without with all others.
    loops : bool
        Whether a loop drawn with Shift does something.
    looks : bool
        Whether it looks at the bands around a click.
    """

    name: str
    title: str
    key: str
    help: str
    draws: bool = False
    loops: bool = False
    looks: bool = False


TOOLS = (
    Tool(
        SMART_FILL,
        "Smart fill",
        "S",
        "Click: grow over like pixels. Shift+wheel: more, less. Click inside or Enter: take. Esc: drop.",
        looks=True,
    ),
    Tool(
        SCRIBBLE,
        "Scribble",
        "D",
        "Draw over two classes or more (Alt+number changes class); what lies between is solved. Enter: take. "
        "Esc: drop. Shift+drag moves the view.",
        draws=True,
        looks=True,
    ),
    Tool(
        OUTLINE,
        "Outline",
        "Shift-O",
        "Draw where the chosen class should end, from its old outline and back to it; what lies between changes. "
        "Shift+drag moves the view.",
        draws=True,
    ),
    Tool(COMPONENT, "Flip", "C", "Click a patch: it gets the chosen class. Shift+drag: all inside a loop.", loops=True),
    Tool(REMOVE, "Remove", "R", "Click a patch: it becomes what surrounds it."),
    Tool(HOLES, "Holes", "H", "Click a patch: its holes are filled."),
    Tool(
        SNAP,
        "Snap",
        "N",
        "Click a patch: its outline moves to the strongest edge within reach. Shift+N: the last stroke.",
        looks=True,
    ),
    Tool(
        ACCEPT,
        "Accept",
        "A",
        "Click: take this patch of the prediction. Shift+drag: all of it inside a loop.",
        loops=True,
    ),
    Tool(ERASE, "Erase", "Q", "Click a patch: background. Shift+drag: all inside a loop.", loops=True),
    Tool(
        SHAPE,
        "Shape",
        "G",
        "Click a patch to grow, shrink, open, close or smooth it. Shift+drag: the chosen class inside a loop.",
        loops=True,
    ),
    Tool(PIXEL, "Pixel", "I", "Click a pixel: its spectrum, its class's, and the prediction."),
    Tool(
        SAM,
        "SAM 2",
        "Shift-S",
        "Click an object; click outside of what is proposed to add, inside to take away. Shift+drag: a box around it. "
        "Enter: take. Esc: begin anew.",
        loops=True,
        looks=True,
    ),
)
TOOL_OF = {tool.name: tool for tool in TOOLS}

# What has a key but no button in the toolbox; Enter and Escape act while a tool is chosen.
COMMANDS = {
    "take": ("Enter", "Take what is proposed"),
    "drop": ("Escape", "Drop what is proposed; again: leave the tool"),
    "snap last": ("Shift-N", "Snap the last stroke to the edges"),
    "next": ("W", "Fly to the next region"),
    "accept region": ("Y", "Accept the prediction, or the second opinion, here"),
    "fixed": ("U", "This region is right as it is now"),
    "skip": ("J", "Look at this region later"),
    "next tile": (".", "Go to the next tile to review"),
    "previous tile": (",", "Go to the previous tile to review"),
    "approve tile": ("Shift-Y", "Approve this tile"),
    "swipe": ("K", "Divider between two pictures"),
    "side by side": ("O", "Two pictures side by side"),
    "flicker": ("T", "The other picture; held: as long"),
}
DEFAULT_KEYS = {**{tool.name: tool.key for tool in TOOLS}, **{name: key for name, (key, _) in COMMANDS.items()}}


def title_of(name: str) -> str:
    """What people read of a tool or an action: the words on its button, else what its key does.

    Parameters
    ----------
    name : str
        Of `TOOLS` or `COMMANDS`, or whatever else a stroke is noted under: napari's tools, undo, accept, …
    """
    if name in TOOL_OF:
        return TOOL_OF[name].title
    if name in COMMANDS:
        return COMMANDS[name][1]
    # Strokes of whole predictions are told from those of the tool.
    return "Accept all" if name == "accept" else name[:1].upper() + name[1:]
