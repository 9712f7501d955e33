"""A demonstration on real video: a free clip, and a manipulated copy of it made on the spot."""
