"""What can go wrong in a way a person can mend.

GlacierError (a ValueError)
├── DataError              the files a person gave
│   ├── RasterError        an image file that cannot be read or written as asked
│   ├── BandError          a band that is missing, doubled or of another shape
│   ├── PairingError       bands and masks that cannot be matched by name
│   ├── SchemeError        a mask value outside the class scheme
│   ├── OutlineError       polygons that cannot be read, placed or told apart
│   └── RleError           a text that is no run-length encoding of such a mask
├── ConfigError            a key or value in a configuration
├── CheckpointError        a model file that is foreign, damaged or does not fit
├── JournalError           the edit journal cannot be opened or written
├── SaveError              labels could not be written; the old file is whole
└── DeviceError            the compute device asked for is not there

A message says what was given, what is needed, and the mend.
"""


class GlacierError(ValueError):
    """Base of every error that a person can mend."""


class DataError(GlacierError):
    """The data given do not fit."""


class RasterError(DataError):
    """An image file cannot be read or written as asked."""


class BandError(DataError):
    """A band is missing, doubled or of another shape."""


class PairingError(DataError):
    """Bands and masks cannot be matched by name."""


class SchemeError(DataError):
    """A mask holds a value outside its class scheme."""


class OutlineError(DataError):
    """Polygons cannot be read, placed or told apart."""


class RleError(DataError):
    """A text is no run-length encoding of a mask of the size asked for."""


class ConfigError(GlacierError):
    """A configuration key or value is wrong."""


class CheckpointError(GlacierError):
    """A model file is foreign, damaged or does not fit."""


class JournalError(GlacierError):
    """The edit journal cannot be opened or written."""


class SaveError(GlacierError):
    """Labels could not be written; the old file is whole."""


class DeviceError(GlacierError):
    """The compute device asked for is not there."""
