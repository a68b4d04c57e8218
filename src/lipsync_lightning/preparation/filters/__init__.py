"""The steps from a raw video to clips, in the order in which `preparation.one_source` takes them."""
