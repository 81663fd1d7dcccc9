"""Images, hashtags and captions to MDS shards: `python -m streaming_conversion --help`.

Raise `VERSION` when the same source and settings would give other bytes.
"""

VERSION = "1"
