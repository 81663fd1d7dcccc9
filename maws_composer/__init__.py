"""Pre-pretraining, weakly supervised pretraining and LiT of vision transformers on Composer (MAWS)."""
