"""One rank: this process."""

from tests.one_rank import process_group as process_group
