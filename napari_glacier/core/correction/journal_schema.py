"""The tables of a journal, and what turns an older one into one of today."""

SCHEMA_VERSION = 2
# States of a patch.
UNSAVED, SAVED, DISCARDED = 0, 1, 2
REVIEW_STATES = ("todo", "in progress", "edited", "approved", "rejected")

SCHEMA = """
CREATE TABLE holder (id INTEGER PRIMARY KEY CHECK (id = 1), pid INTEGER, host TEXT, user TEXT, since TEXT);
CREATE TABLE stroke (
    id INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT NOT NULL, tool TEXT NOT NULL,
    author TEXT NOT NULL, time TEXT NOT NULL, model TEXT
);
CREATE TABLE patch (
    id INTEGER PRIMARY KEY, stroke_id INTEGER NOT NULL REFERENCES stroke (id), tile_id TEXT NOT NULL,
    row INTEGER NOT NULL, col INTEGER NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL,
    before BLOB NOT NULL, after BLOB NOT NULL, state INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX patch_of_stroke ON patch (stroke_id);
CREATE INDEX patch_unsaved ON patch (tile_id, stroke_id) WHERE state = 0;
CREATE TABLE tile (
    tile_id TEXT PRIMARY KEY, review TEXT NOT NULL DEFAULT 'todo', base TEXT, origin TEXT,
    saving_up_to INTEGER, saving_fingerprint TEXT, review_time TEXT
);
"""
# What turns a journal of version k into one of version k + 1.
MIGRATIONS = {1: "ALTER TABLE tile ADD COLUMN review_time TEXT"}

# Made when first written to: journals without these stay readable, here and in older versions.
REVIEW_TABLE = """
CREATE TABLE IF NOT EXISTS review (
    id INTEGER PRIMARY KEY, tile_id TEXT NOT NULL, state TEXT NOT NULL, note TEXT NOT NULL,
    author TEXT NOT NULL, time TEXT NOT NULL
)
"""
SEEN_TABLE = """
CREATE TABLE IF NOT EXISTS seen (
    id INTEGER PRIMARY KEY, tile_id TEXT NOT NULL, row INTEGER NOT NULL, col INTEGER NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, pixels BLOB NOT NULL, author TEXT NOT NULL, time TEXT NOT NULL
)
"""
SETTLED_TABLE = SEEN_TABLE.replace("seen", "settled")
