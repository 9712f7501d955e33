"""Runs a compiled network: faces in, embeddings out. Knows nothing of video, streams or scores."""
