"""The models in plain torch: nothing here knows of Composer, of data sets or of sharding."""
