"""What tests of callbacks share: one rank, this process."""

from tests.one_rank import process_group as process_group
