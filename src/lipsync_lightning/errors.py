"""Errors a user can act on. Each message says what was expected, what came, where, and the way out."""


class LipSyncError(Exception):
    """Base of every error that an entry point prints as one sentence instead of a traceback."""


class BadMedia(LipSyncError):
    """A file that is missing, empty, truncated or not media."""


class MissingAudio(LipSyncError):
    """A video or shard sample without sound."""


class NoFace(LipSyncError):
    """A video in which no face was found."""


class ClipTooShort(LipSyncError):
    """A video or sound that ends before one clip does."""


class ClipMismatch(LipSyncError):
    """Two parts that were made for different clips."""


class MissingWeights(LipSyncError):
    """Weights that are not where the configuration says."""


class WrongWeights(LipSyncError):
    """Weights that do not belong to the network they were given to."""


class MissingShards(LipSyncError):
    """Shards that are not where the configuration says."""


class BrokenShard(LipSyncError):
    """A shard, or a clip of one, that is not what the sidecar says."""

    def __init__(self, message: str, reason: str = "corrupt") -> None:
        """Args: reason: a word or two, to count by."""
        super().__init__(message)
        self.reason = reason


class BadConfig(LipSyncError):
    """A configuration that cannot mean anything."""


class WouldOverwrite(LipSyncError):
    """An output that is already there and would be lost."""


class NoSpace(LipSyncError):
    """An output for which the disk has no room."""


class StepFailed(LipSyncError):
    """A training or a command that cannot go on."""
