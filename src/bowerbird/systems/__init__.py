"""One folder a paper: configuration, objective, pipeline; `registry` lists them, `base` says what all share."""
